"""GGUF files by native kernels: the file's integers are what is multiplied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

import burnish
from burnish.frontend.gguf import read_gguf
from burnish.ir.interpreter import run
from burnish.ir.trace import PassRecord
from burnish.passes.transforms.quantize import Quantize
from burnish.runtime.executor_native import NativeExecutor
from burnish.runtime.model import CompiledModel
from tests.frontend.gguf_files import write
from tests.frontend.test_gguf import PANELS
from tests.tolerances import RELATIVE

SIZES: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
HEADS = {"rope.dimension_count": 64}
EXPERTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
LINEARS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
TOKENS = torch.tensor([[1, 5, 9, 33, 63, 2, 7, 7, 12, 40, 41, 3]])


def write_model(path: Path, kinds: dict[str, str]) -> None:
    """A file whose tensors are of `kinds`, by the middle of their names; all others are floats."""
    found = {f"blk.0.{name}.weight": kind for name, kind in kinds.items() if name in LINEARS}
    found |= {f"{name}.weight": kind for name, kind in kinds.items() if name not in LINEARS}
    types = {name: gguf.GGMLQuantizationType[kind] for name, kind in found.items()}
    write(path, kinds=types, sizes=SIZES, metadata={f"llama.{key}": value for key, value in HEADS.items()})


def write_experts(path: Path, kinds: dict[str, str]) -> None:
    """A mixture of experts that are of `kinds`; all else are floats."""
    types = {f"blk.0.{name}.weight": gguf.GGMLQuantizationType[kind] for name, kind in kinds.items()}
    sizes = SIZES | {"moe_intermediate_size": 256}
    write(path, "qwen3moe", kinds=types, sizes=sizes, metadata={"qwen3moe.expert_feed_forward_length": 256})


def forms(model: CompiledModel) -> list[str]:
    """The formats of panels that are read, each once."""
    (record,) = passes(model, "pack-panels")
    return sorted({entry.text.rsplit(" ", 1)[1] for entry in record.rewrites})


def passes(model: CompiledModel, name: str) -> list[PassRecord]:
    """What the passes of that name did."""
    return [each for each in model.trace.passes if each.name == name]


def assert_exact(model: CompiledModel, path: Path) -> None:
    """Its logits, activations in floats, are those of the program over dequantized weights."""
    expected = run(read_gguf(path).program, [TOKENS])[0]
    assert isinstance(model.executor, NativeExecutor)
    found = model(TOKENS)
    most = 5 * RELATIVE[torch.float32] * float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=most)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_a_file_of_each_type_stays_what_it_is(tmp_path: Path, kind: str) -> None:
    """Compilation compares it with the model in floats, too."""
    path = tmp_path / "model.gguf"
    write_model(path, dict.fromkeys((*LINEARS, "token_embd", "output"), kind))
    with burnish.compile(path, backend="native") as model:
        assert forms(model) == [PANELS[kind]]
        assert_exact(model, path)


def test_a_mixture_of_types(tmp_path: Path) -> None:
    """As Q4_K_M has it: projections of one value are joined with their like."""
    path = tmp_path / "model.gguf"
    kinds = dict.fromkeys(LINEARS, "Q4_K") | {
        "attn_v": "Q6_K",
        "ffn_down": "Q2_K",
        "token_embd": "Q6_K",
        "output": "Q5_0",
    }
    write_model(path, kinds)
    with burnish.compile(path, backend="native") as model:
        assert forms(model) == ["q2k", "q4k", "q5", "q6k"]
        assert_exact(model, path)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "Q2_K", "Q4_K", "Q6_K"])
def test_experts_stay_what_they_are(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model.gguf"
    write_experts(path, dict.fromkeys(EXPERTS, kind))
    with burnish.compile(path, backend="native") as model:
        assert forms(model) == sorted([PANELS[kind], "f32"])
        assert sum(len(each.rewrites) for each in passes(model, "keep-integers")) == 2
        assert_exact(model, path)
    with burnish.compile(path, backend="native", dtype=torch.float32) as model:
        assert forms(model) == ["f32"]


def test_experts_of_several_types(tmp_path: Path) -> None:
    """A gate and what it is for are one weight, of floats where the file has them in two types."""
    path = tmp_path / "model.gguf"
    write_experts(path, dict(zip(EXPERTS, ("Q4_K", "Q6_K", "Q5_K"), strict=True)))
    with burnish.compile(path, backend="native") as model:
        assert forms(model) == ["f32", "q5k"]
        (record,) = passes(model, "keep-integers")
        assert [each.text for each in record.refusals] == [
            "it is joined of Q4_K and Q6_K, and integers are of one kind: floats"
        ]
        assert_exact(model, path)


def test_floats_where_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_model(path, dict.fromkeys(LINEARS, "Q4_K"))
    with burnish.compile(path, backend="native", dtype=torch.float32) as model:
        assert forms(model) == ["f32"]
    with burnish.compile(path, backend="native", transforms=[Quantize("int8", group=32)]) as model:
        assert forms(model) == ["q8"]


def test_other_backends_keep_what_they_can(tmp_path: Path) -> None:
    """ONNX Runtime has 8 and 4 bits, also in groups of 16."""
    path = tmp_path / "model.gguf"
    kinds = dict(zip(LINEARS, ("Q4_K", "Q5_K", "Q6_K", "Q2_K", "Q3_K", "Q5_0", "Q5_1"), strict=True))
    write_model(path, kinds)
    with burnish.compile(path, backend="onnxruntime", transforms=[Quantize("keep")]) as model:
        (record,) = (each for each in model.trace.passes if each.name == "read-integers")
        assert len(record.rewrites) == len(LINEARS)
        assert not record.refusals
