"""Whole models as launch plans, run by the interpreter and beside the reference."""

from __future__ import annotations

import torch

from burnish.codegen.triton.interpreted import InterpretedExecutor
from burnish.codegen.triton.lower import plan
from burnish.frontend import read
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import lower_for_gpu, make_incremental
from burnish.runtime.executor import Step
from burnish.runtime.executor_reference import ReferenceExecutor
from burnish.runtime.plan import Plan
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU
from tests.zoo.configs import build


def fused(model_type: str) -> Program:
    """A type of the zoo, ready to be planned."""
    return run_passes(read(build(model_type)).program, [*make_incremental(), *lower_for_gpu(torch.float32)], Trace())


def interpreted(program: Program, launches: Plan) -> InterpretedExecutor:
    """What runs the plan of a program."""
    weights = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    return InterpretedExecutor(launches, {name: program.weights[name].materialize() for name in weights})


def planned(program: Program) -> InterpretedExecutor:
    """What runs a program, planned."""
    return interpreted(program, plan(program)[0])


def assert_steps_match(program: Program, found: InterpretedExecutor, batch: int, counts: list[int]) -> None:
    """Prompts and single tokens, one after the other, against the reference."""
    reference = ReferenceExecutor(program)
    mine = States.allocate(program.states, batch, 48, ON_CPU, in_place=True)
    theirs = States.allocate(program.states, batch, 48, ON_CPU)
    position = torch.zeros(batch, dtype=torch.int64)
    for count in counts:
        tokens = torch.randint(1, 90, (batch, count))
        kept = torch.tensor([count - 1]) if count % 2 else torch.arange(count)
        step = Step(tokens, position, kept)
        right = reference.step(step, theirs)
        assert right.kind == "logits"
        torch.testing.assert_close(found.step(step, mine).values, right.values, rtol=1e-4, atol=1e-4)
        position = position + count
