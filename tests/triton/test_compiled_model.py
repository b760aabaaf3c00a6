"""A model compiled to a launch plan, run by Triton's interpreter, saved and loaded again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import burnish
from burnish.codegen.plan.planner import fallbacks
from burnish.codegen.triton.interpreted import InterpretedExecutor
from burnish.codegen.triton.lower import plan
from burnish.codegen.triton.lowerings import KERNELS
from burnish.ir.program import Program
from burnish.runtime.plan import Call
from tests.triton.planned import assert_steps_match, fused, interpreted, planned
from tests.zoo.configs import build


@pytest.mark.slow("whole models are interpreted")
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "bloom", "lfm2"])
def test_prompts_and_tokens_of_whole_models(model_type: str) -> None:
    """Caches, rings and windows; batches of one and of few rows."""
    program = fused(model_type)
    found = planned(program)
    for batch, counts in ((1, [5, 1, 1, 18, 1]), (3, [1, 4, 1])):
        assert_steps_match(program, found, batch, counts)


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2", "gemma2", "mixtral", "youtu"])
def test_all_of_a_model_has_kernels(model_type: str) -> None:
    launches, _ = plan(fused(model_type))
    assert fallbacks(launches) == {}


def test_what_has_no_kernel_is_told_and_run_by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(KERNELS, torch.ops.aten.conv1d.default)
    program = fused("lfm2")
    launches, _ = plan(program)
    assert "there is no kernel for aten.conv1d.default" in fallbacks(launches).values()
    calls = [step for step in launches.variants[0].steps if isinstance(step, Call)]
    assert {call.node for call in calls} <= fallbacks(launches).keys()
    assert_steps_match(program, interpreted(program, launches), 1, [3, 1])


def test_a_layer_of_a_llama_is_five_launches() -> None:
    program = fused("llama")
    launches, _ = plan(program)
    decode = launches.variants[0]
    assert len(decode.steps) == 2 * 5 + 2  # embedding with tables of angles before, norm and head behind
    assert tuple(len(decode.results[name].steps) for name in ("logits", "ids")) == (0, 1)


def test_many_rows() -> None:
    program = fused("llama")
    assert_steps_match(program, planned(program), 18, [1, 1])


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_one_plan_is_right_for_all_sizes(batch: int, counts: list[int]) -> None:
    if not _LLAMA:
        _LLAMA.append((program := fused("llama"), planned(program)))
    program, found = _LLAMA[0]
    assert_steps_match(program, found, batch, counts)


_LLAMA: list[tuple[Program, InterpretedExecutor]] = []


@pytest.mark.slow("a whole model is interpreted")
def test_compiled_saved_and_loaded(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = build("llama")
    expected = model.generate(torch.tensor([[5, 7, 9]]), max_new_tokens=6, do_sample=False)[0, 3:].tolist()
    with burnish.compile(model, backend="triton-interpret") as compiled:
        compiled.save(tmp_path / "a.burnish")
    for backend in (None, "triton-interpret", "reference"):
        with burnish.load(tmp_path / "a.burnish", backend=backend) as loaded:
            assert loaded.backend == (backend or "triton-interpret")
            assert loaded.generate([5, 7, 9], max_new_tokens=6, do_sample=False).tokens[0] == expected
            session = loaded.session()
            session.append([[5, 7, 9]])
            session.rewind(1)
            again = session.append([[7, 9]])
            torch.testing.assert_close(again[0, 0], loaded(torch.tensor([[5, 7, 9]]))[0, -1], rtol=1e-4, atol=1e-4)
    # Another process has none of the kernels that were generated here: it makes them from the graph that was stored.
    command = ["run", str(tmp_path / "a.burnish"), "5 7 9", "-n", "6", "--backend", "triton-interpret"]
    done = subprocess.run([sys.executable, "-m", "burnish.cli", *command], capture_output=True, text=True, check=False)
    assert done.stdout.split() == [str(token) for token in expected], done.stderr


@pytest.mark.parametrize("numbers", ["int8", "fp8"])
def test_a_cache_in_8_bits(numbers: str) -> None:
    """Its codes are PyTorch's to make and to read; beside the reference, in pieces and after going back."""
    transforms = [burnish.QuantizeCache(numbers)]  # type: ignore[arg-type]
    ids = torch.randint(1, 90, (2, 12))
    with burnish.compile(build("llama"), backend="reference", transforms=transforms) as compiled:
        expected = compiled(ids)
    with burnish.compile(build("llama"), backend="triton-interpret", transforms=transforms) as compiled:
        session = compiled.session(batch=2)
        session.append(ids[:, :7])
        session.rewind(4)
        found = [session.append(part, every=True) for part in ids[:, 4:].split([1, 6, 1], dim=1)]
        torch.testing.assert_close(torch.cat(found, 1), expected[:, 4:], rtol=1e-4, atol=1e-4)
        told = [note for record in compiled.trace.passes for note in record.notes]
        assert any("no kernel for burnish.to_codes" in note for note in told)
