"""Whole models through the interpreter, kernel by kernel, against the reference."""

from __future__ import annotations

import pytest
import torch

from burnish.codegen.triton.executor import TritonExecutor
from burnish.frontend import read
from burnish.ir.fused_group import MEMBERS
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import fuse_for_gpu, make_incremental
from tests.zoo.configs import build


def fused(model_type: str) -> Program:
    return run_passes(read(build(model_type)).program, [*make_incremental(), *fuse_for_gpu()], Trace())


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "bloom"])
def test_prompt_and_tokens_match_the_reference(model_type: str) -> None:
    program = fused(model_type)
    executor = TritonExecutor(program)
    ids = torch.randint(100, (2, 23), generator=torch.Generator().manual_seed(0))
    expected = found = [state.allocate(2, 32) for state in program.states]
    start = 0
    for count in (19, 1, 3):
        given = [ids[:, start : start + count], torch.full((2,), start), torch.arange(count)]
        right, *expected = run(program, [*given, *expected])
        logits, *found = executor.run([*given, *found])
        torch.testing.assert_close(logits, right, rtol=1e-4, atol=1e-4)
        start += count
    assert executor.kernels["attention"] == 2 * 3
    assert executor.kernels["fused_linear"] >= (2 * 3 + 1) * 3  # what is left of a layer, and the head


def test_what_has_no_kernel_is_told() -> None:
    program = fused("lfm2")
    executor = TritonExecutor(program)
    states = [state.allocate(1, 8) for state in program.states]
    executor.run([torch.tensor([[5, 7]]), torch.tensor([0]), torch.tensor([1]), *states])
    assert "there is no kernel for aten.conv1d.default" in executor.fallbacks.values()
    assert not set(executor.fallbacks) & {node.name for node in program.graph.nodes if node.target in MEMBERS}
