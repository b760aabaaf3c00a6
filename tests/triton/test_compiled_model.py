"""A model compiled to a launch plan, run by Triton's interpreter, saved and loaded again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import burnish
from burnish.codegen.triton.interpreted import InterpretedExecutor
from burnish.codegen.triton.planner import plan
from burnish.frontend import read
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import fuse_for_gpu, make_incremental
from burnish.runtime.executor_reference import ReferenceExecutor
from burnish.runtime.states import States
from tests.zoo.configs import build


def fused(model_type: str) -> Program:
    return run_passes(read(build(model_type)).program, [*make_incremental(), *fuse_for_gpu()], Trace())


def executor(program: Program) -> InterpretedExecutor:
    weights = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    launches, _ = plan(program)
    return InterpretedExecutor(launches, {name: program.weights[name].materialize() for name in weights})


def assert_steps_match(program: Program, found: InterpretedExecutor, batch: int, counts: list[int]) -> None:
    """Prompts and single tokens, one after the other, against the reference."""
    reference = ReferenceExecutor(program)
    mine = States.allocate(program.states, batch, 48, in_place=True)
    theirs = States.allocate(program.states, batch, 48)
    position = torch.zeros(batch, dtype=torch.int64)
    for count in counts:
        tokens = torch.randint(1, 90, (batch, count))
        kept = torch.tensor([count - 1]) if count % 2 else torch.arange(count)
        right = reference.step(tokens, position, kept, theirs)
        torch.testing.assert_close(found.step(tokens, position, kept, mine), right, rtol=1e-4, atol=1e-4)
        position = position + count


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "bloom", "lfm2"])
def test_prompts_and_tokens_of_whole_models(model_type: str) -> None:
    """Caches, rings and windows; batches of one and of few rows."""
    program = fused(model_type)
    found = executor(program)
    for batch, counts in ((1, [5, 1, 1, 18, 1]), (3, [1, 4, 1])):
        assert_steps_match(program, found, batch, counts)


def test_many_rows() -> None:
    program = fused("llama")
    assert_steps_match(program, executor(program), 18, [1, 1])


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 4), st.lists(st.integers(1, 9), min_size=1, max_size=3))
def test_one_plan_is_right_for_all_sizes(batch: int, counts: list[int]) -> None:
    if not _LLAMA:
        _LLAMA.append((program := fused("llama"), executor(program)))
    program, found = _LLAMA[0]
    assert_steps_match(program, found, batch, counts)


_LLAMA: list[tuple[Program, InterpretedExecutor]] = []


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
