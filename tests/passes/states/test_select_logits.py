"""Tokens are picked where one value holds all that the logits need of them, and not in front of what mixes them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor

from burnish.ir.edit import Editor
from burnish.ir.errors import NotCausalError
from burnish.ir.interpreter import run
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.base import Log
from burnish.passes.pipeline import check, run_passes
from burnish.passes.pipelines import raise_operations
from burnish.passes.states.fold_positions import FoldPositions
from burnish.passes.states.select_logits import SelectLogits
from tests.passes.spelled import Body, Spelled, spelled, text_of

aten = torch.ops.aten


def raised(body: Body) -> Program:
    """A body as it is when tokens are picked: what mixes tokens by its name, positions in tables."""
    return run_passes(spelled(body), [*raise_operations(), FoldPositions()], Trace())


def selected(program: Program) -> tuple[Program, Log]:
    """The program with tokens picked, checked, with the numbers that the whole one has for them."""
    log = Log()
    after = SelectLogits().run(program.copy(), log)
    check(after, "select-logits")
    tokens = torch.arange(14).reshape(2, 7)
    for picked in ([6], [3], [0, 6], [1, 2, 5]):
        expected = run(program, [tokens])[0][:, picked]
        found = run(after, [tokens, torch.tensor(picked)])[0]
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    return after, log


def shifted(x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 1, 0))[:, :-1]


def test_before_and_after() -> None:
    program = raised(lambda m, x: m.gate(torch.relu(shifted(x)) * 2))
    assert text_of(program) == snapshot("""\
%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)
%1: f32[batch, sequence, 8] = burnish.shift(%0, 1, 1)
%2: f32[batch, sequence, 8] = aten.relu(%1)
%3: f32[batch, sequence, 8] = aten.mul.Tensor(%2, 2)
%4: f32[batch, sequence, 8] = aten.linear(%3, @gate.weight, @gate.bias)\
""")
    after, log = selected(program)
    assert text_of(after) == snapshot("""\
%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)
%1: f32[batch, sequence, 8] = burnish.shift(%0, 1, 1)
%2: f32[batch, kept, 8] = aten.index_select(%1, 1, %logits_index)
%3: f32[batch, kept, 8] = aten.relu(%2)
%4: f32[batch, kept, 8] = aten.mul.Tensor(%3, 2)
%5: f32[batch, kept, 8] = aten.linear(%4, @gate.weight, @gate.bias)\
""")
    assert [entry.text for entry in log.rewrites] == snapshot(
        ["tokens picked here, 3 ops in front of the logits run on these alone"]
    )


def convolved(m: Spelled, x: Tensor) -> Tensor:
    return m.convolution(x.mT)[:, :, : x.shape[1]].mT


MIXERS: dict[str, Body] = {
    "shift": lambda m, x: shifted(x),
    "convolution": convolved,
    "sum so far": lambda m, x: x.cumsum(1),
    "residual around a convolution": lambda m, x: x + convolved(m, x),
    "sums of sums": lambda m, x: x.cumsum(1).cumsum(1),
    "attention": lambda m, x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "the number of tokens": lambda m, x: x * torch.arange(x.shape[1])[:, None],
}


@pytest.mark.parametrize("mixer", MIXERS)
def test_nothing_that_mixes_tokens_runs_on_picked_ones_alone(mixer: str) -> None:
    after, _ = selected(raised(lambda m, x: torch.tanh(MIXERS[mixer](m, x))))
    ops = [node for node in after.graph.nodes if node.op == "call_function"]
    picking = [node for node in ops if node.target is aten.index_select.default]
    assert len(picking) == 1
    behind = [node.target for node in ops[ops.index(picking[0]) + 1 :]]
    assert aten.tanh.default in behind
    mixing = {aten.cumsum.default, burnish_ops.shift.default, burnish_ops.causal_conv1d.default}
    mixing.add(burnish_ops.attention.default)
    assert not mixing.intersection(behind)


def test_tokens_are_picked_on_the_axis_that_they_lie_on() -> None:
    after, _ = selected(raised(lambda m, x: torch.relu(x.cumsum(1).mT * 2).mT))
    assert text_of(after) == snapshot("""\
%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)
%1: f32[batch, sequence, 8] = aten.cumsum(%0, 1)
%2: f32[batch, kept, 8] = aten.index_select(%1, 1, %logits_index)
%3: f32[batch, 8, kept] = aten.transpose.int(%2, -2, -1)
%4: f32[batch, 8, kept] = aten.mul.Tensor(%3, 2)
%5: f32[batch, 8, kept] = aten.relu(%4)
%6: f32[batch, kept, 8] = aten.transpose.int(%5, -2, -1)\
""")


def test_logits_without_the_tokens_on_their_second_axis_are_refused() -> None:
    program = raised(lambda m, x: x.cumsum(1))
    editor, output = Editor(program), program.output
    with editor.before(output):
        turned = editor.call(aten.transpose.int, output.args[0][0], 0, 1, like=output)
    output.args = ((turned,),)
    with pytest.raises(NotCausalError, match="gives logits that do not have the tokens on their second axis"):
        SelectLogits().run(program, Log())


def test_a_value_that_is_read_elsewhere_stays_whole_there() -> None:
    program = raised(lambda m, x: torch.relu(x) + torch.relu(x).cumsum(1))
    after, log = selected(program)
    assert text_of(after).count("index_select") == 1
    assert [entry.text for entry in log.rewrites] == snapshot(
        ["tokens picked here, 0 ops in front of the logits run on these alone"]
    )
