"""How much memory transforms take: of calibration text a layer's values at a time, of logits one window's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.frontend import read
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import raise_operations
from burnish.passes.transforms.calibration import Calibration
from burnish.passes.transforms.convert_to_gqa import ConvertToGQA
from burnish.passes.transforms.drop_layers import DropLayers
from burnish.passes.transforms.quality import measure
from burnish.passes.transforms.quantize import Quantize
from burnish.passes.transforms.transform import apply

VOCABULARY, WIDTH, INNER, LENGTH, WINDOWS = 2048, 64, 128, 128, 24


def raised(layers: int) -> Program:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=LENGTH,
    )
    return run_passes(read(LlamaForCausalLM(config).eval()).program, raise_operations(), Trace())


def windows(count: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (count, LENGTH), generator=torch.Generator().manual_seed(1))


def peak(run: Callable[[], object]) -> int:
    """The most bytes of tensors that were there at once and were not before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        run()
    now = most = 0
    assert events.profiler is not None
    for event in events.profiler.kineto_results.events():
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


TOKENS = WINDOWS * LENGTH
LAYER = 4 * TOKENS * (8 * WIDTH + 3 * INNER)  # bytes of the values of a layer: eight as wide as the stream, three inner
ALL = [DropLayers(layers=[1]), ConvertToGQA(kv_heads=1), Quantize("int4", group=64)]


def test_of_calibration_text_one_layers_values_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("burnish.passes.transforms.convert_to_gqa._STEPS", 2)
    most = {}
    for layers in (2, 4):
        program, text = raised(layers), Calibration(windows(WINDOWS), windows(2))
        most[layers] = peak(lambda program=program, text=text: apply(program, ALL, text, Trace()))  # type: ignore[misc]
        weights = sum(weight.materialize().nbytes for weight in program.weights.values())
        assert most[layers] < weights + LAYER
    assert most[4] - most[2] < LAYER / 20


def test_of_logits_one_windows_are_in_memory() -> None:
    program = raised(1)
    logits = 4 * LENGTH * VOCABULARY
    # Of each of three programs, and what their comparison makes of those of some tokens; a window more adds little.
    assert peak(lambda: measure([program] * 3, windows(4))) < 12 * logits
    assert peak(lambda: measure([program] * 3, windows(16))) < 14 * logits
