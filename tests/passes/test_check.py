"""The cheap checks: each rule of the language, broken, is named with the pass and the node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import fx

from burnish.ir.edit import Editor
from burnish.ir.errors import InvalidProgramError, UsageError
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.ir.weights import Stored, Weights
from burnish.passes.base import Effect, Log
from burnish.passes.pipeline import Failure, run_passes
from burnish.passes.pipelines import make_incremental
from tests.ir.decoders import decoder

aten = torch.ops.aten


@dataclass(frozen=True)
class Breaks:
    """A pass that does what it should not."""

    harm: Callable[[Program], None]
    name: ClassVar[str] = "breaks"
    effect: ClassVar[Effect] = Effect.EXACT
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        self.harm(program)
        return program


@pytest.fixture(scope="module")
def captured() -> Program:
    return decoder()


@pytest.fixture(scope="module")
def step(captured: Program) -> Program:
    return run_passes(captured, make_incremental(), Trace())


def first(program: Program, target: Any) -> fx.Node:
    return next(node for node in program.graph.nodes if node.target is target)


def read_later(program: Program) -> None:
    linear = first(program, aten.linear.default)
    linear.prepend(next(iter(linear.users)))


def lose_type(program: Program) -> None:
    del first(program, aten.linear.default).meta["val"]


def reshape_weight(program: Program) -> None:
    name = next(name for name, weight in program.weights.items() if len(weight.shape) == 2)
    rows, columns = program.weights[name].shape
    program.weights = Weights({**program.weights, name: Stored(torch.zeros(columns, rows + 1))})


def lose_weight(program: Program) -> None:
    program.weights = Weights({})


def lose_output(program: Program) -> None:
    program.output.args = (list(program.output.args[0]) * 2,)  # type: ignore[arg-type]


def change_type(program: Program) -> None:
    linear = first(program, aten.linear.default)
    editor = Editor(program)
    with editor.before(linear):
        other = editor.call(aten._to_copy.default, linear.args[0], like=linear, dtype=torch.float64)
        weight = editor.call(aten._to_copy.default, linear.args[1], like=linear, dtype=torch.float64)
    linear.args = (other, weight, *linear.args[2:])


def settle_tokens(program: Program) -> None:
    """As an op does that is given sizes which only fit for one number of tokens."""
    assert program.tokens.meta["val"].shape[1] == 5


def crash(program: Program) -> None:
    raise ZeroDivisionError("of its own")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (read_later, "which comes later"),
        (lose_type, "has no type"),
        (reshape_weight, "but the graph reads it as torch.float32"),
        (lose_weight, "which does not exist"),
        (lose_output, "2 outputs for logits and 0 states"),
        (change_type, r"gives f64\[batch, sequence, 8\], but is said to give f32"),
        (crash, "ZeroDivisionError: of its own"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_rule_is_named(captured: Program, harm: Callable[[Program], None], told: str) -> None:
    failures: list[Failure] = []
    with pytest.raises(InvalidProgramError, match=told) as raised:
        run_passes(captured, [Breaks(harm)], Trace(), on_failure=failures.append)
    assert "the pass breaks" in str(raised.value)
    assert "report" in str(raised.value)
    (failure,) = failures
    assert failure.before is captured
    assert [each.name for each in failure.passes] == ["breaks"]


def test_a_pass_that_settles_the_number_of_tokens_is_named() -> None:
    own = decoder()  # its sizes are of no use to others afterwards
    with pytest.raises(InvalidProgramError, match="the number of tokens is no longer any number, but 5"):
        run_passes(own, [Breaks(settle_tokens)], Trace())


def test_the_place_in_the_source_is_named(captured: Program) -> None:
    with pytest.raises(InvalidProgramError, match=r"in layers\.0 \(Layer\), decoder\.py:12: `x = x"):
        run_passes(captured, [Breaks(change_type)], Trace())


def forget_position(program: Program) -> None:
    attention = first(program, burnish_ops.attention.default)
    attention.args = (*attention.args[:3], None, *attention.args[4:])


def attend_to_new_tokens_alone(program: Program) -> None:
    attention = first(program, burnish_ops.attention.default)
    editor = Editor(program)
    with editor.before(attention):
        query = attention.args[0]
        other = editor.call(aten.scaled_dot_product_attention.default, query, query, query, like=attention)
    attention.replace_all_uses_with(other)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (forget_position, "does not know the position of the new tokens"),
        (attend_to_new_tokens_alone, "cannot run on the new tokens alone"),
    ],
)
def test_a_step_has_ops_of_its_own(step: Program, harm: Callable[[Program], None], told: str) -> None:
    with pytest.raises(InvalidProgramError, match=told):
        run_passes(step, [Breaks(harm)], Trace())


def test_a_pass_that_was_left_out_is_named(captured: Program) -> None:
    """That is the fault of who chose the passes, and of no pass."""
    chosen = [each for each in make_incremental() if each.name != "select-logits"]
    with pytest.raises(UsageError, match="no logits_index: fold-positions, select-logits and insert-states make one"):
        run_passes(captured, chosen, Trace())
