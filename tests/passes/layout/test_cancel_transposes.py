"""Permutes that need not be carried out, and those that must."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim

from burnish.ir.program import Program
from burnish.passes.base import Pass
from burnish.passes.layout.assign_layout import AssignLayout
from burnish.passes.layout.cancel_transposes import CancelTransposes
from tests.passes.layout.graphs import graph, moved, of_calls, permutes, rewritten, text_of

aten = torch.ops.aten
IMAGE = (2, 3, 4, 5)
FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)


def test_two_permutes_meet_through_what_lies_between_as_text() -> None:
    program = graph(lambda x: torch.relu(x.permute(LAST)).permute(FIRST) + 1, IMAGE)
    assert text_of(program) == "\n".join(
        [
            "%0: f32[2, 4, 5, 3] = aten.permute(%x, [0, 2, 3, 1])",
            "%1: f32[2, 4, 5, 3] = aten.relu(%0)",
            "%2: f32[2, 3, 4, 5] = aten.permute(%1, [0, 3, 1, 2])",
            "%3: f32[2, 3, 4, 5] = aten.add.Tensor(%2, 1)",
        ]
    )
    after, log = rewritten(program, CancelTransposes())
    assert text_of(after) == "\n".join(
        ["%0: f32[2, 3, 4, 5] = aten.relu(%x)", "%1: f32[2, 3, 4, 5] = aten.add.Tensor(%0, 1)"]
    )
    assert log.notes == ["conversions: 2 that move 1.9 kB before, 0 that move 0 B after"]
    assert [entry.text for entry in log.rewrites] == [
        "not carried out: who reads it works in the order that there is",
        "in the order [0, 3, 1, 2]: 1.9 kB more would be moved in the order [0, 1, 2, 3]",
        "not carried out: who reads it works in the order that there is",
    ]


NORM, LINEAR = nn.LayerNorm(3), nn.Linear(3, 3)


@pytest.mark.parametrize(
    ("function", "left"),
    [
        (lambda x: x.permute(LAST).transpose(1, 3), 1),
        (lambda x: x.transpose(1, 2).transpose(1, 2) * 2, 0),
        (lambda x: x.permute(LAST).softmax(-1).permute(FIRST), 0),
        (lambda x: x.permute(LAST).log_softmax(1).permute(FIRST), 0),
        (lambda x: x.permute(LAST).mean(-1, keepdim=True).permute(FIRST), 0),
        (lambda x: x.permute(LAST).amax(3), 0),
        (lambda x: torch.cat([x.permute(LAST), 2 * x.permute(LAST)], -1).permute(FIRST), 0),
        (lambda x: x.permute(LAST)[:, 1:, :, ::2].permute(FIRST), 0),
        (lambda x: x.permute(LAST)[:, :, 1].transpose(1, 2), 0),
        (lambda x: F.pad(x.permute(LAST), (1, 2, 0, 3)).permute(FIRST), 0),
        (lambda x: x.permute(LAST).cumsum(1).permute(FIRST), 0),
        (lambda x: x.permute(LAST).flip(1, 3).permute(FIRST), 0),
        (lambda x: (x.permute(LAST) * torch.arange(3.0) + torch.ones(5, 1)).permute(FIRST), 0),
        (lambda x: x.flatten(2).transpose(1, 2).relu().transpose(1, 2).unflatten(2, (4, 5)), 0),
        (lambda x: x.permute(LAST).reshape(2, 20, 3).transpose(1, 2), 0),
        (lambda x: x.permute(LAST).unsqueeze(1).relu().squeeze(1).permute(FIRST), 0),
        (lambda x: x.permute(LAST)[:, :, :, :1].expand(-1, -1, -1, 7).permute(FIRST), 0),
        (lambda x: torch.where(x.permute(LAST) > 0, x.permute(LAST), 0.5).permute(FIRST), 0),
        (lambda x: x.transpose(2, 3).add(1).mT, 0),
    ],
    ids=range(19),
)
def test_permutes_cancel_through(function: Callable[[Tensor], Any], left: int) -> None:
    after, log = rewritten(graph(function, IMAGE), CancelTransposes())
    assert len(permutes(after)) == left
    assert log.rewrites


def test_a_permute_goes_where_less_is_moved() -> None:
    after, _ = rewritten(graph(lambda x: x.permute(LAST).softmax(-1).mean(2), IMAGE), CancelTransposes())
    assert text_of(after).splitlines()[-1] == "%2: f32[2, 4, 3] = aten.permute(%1, [0, 2, 1])"


def test_a_norm_between_permutes_keeps_its_axis_last() -> None:
    program = graph(lambda x, norm: norm(x.permute(LAST)).permute(FIRST), IMAGE, NORM)
    after, log = rewritten(program, CancelTransposes())
    assert text_of(after) == text_of(program)
    assert "layer_norm.default), which works in nothing else" in log.refusals[0].text
    assert not log.rewrites


def test_what_several_read_is_converted_once() -> None:
    """A chain of norms over channels: what is between them is channels last, and the shortcut too."""

    def chain(x: Tensor, norm: nn.Module) -> Tensor:
        for _ in range(3):
            x = x + torch.relu(norm(x.permute(LAST)).permute(FIRST))
        return x

    program = graph(chain, IMAGE, NORM)
    assert len(permutes(program)) == 6
    assert len(permutes(rewritten(program, CancelTransposes())[0])) == 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.permute(LAST).reshape(2, 4, 15),  # joins axes that do not lie side by side
        lambda x: x.transpose(2, 3) @ x,  # a product
        lambda x: x.permute(LAST),  # an output lies as it is written
        lambda x: x.permute(LAST).sort(1)[0].permute(FIRST),  # nothing is known of it
        lambda x: F.prelu(x.permute(LAST), torch.ones(4)),  # it has a weight for each of the second axis
    ],
)
def test_it_stays_away(function: Callable[[Tensor], Any]) -> None:
    program = graph(function, IMAGE)
    after, log = rewritten(program, CancelTransposes())
    assert text_of(after) == text_of(program)
    assert log.rewrites == []
    assert len(log.refusals) == len(permutes(program))


def test_sizes_that_are_not_known_stay_so() -> None:
    """The tokens of an image, for any number of rows."""

    def tokens(x: Tensor, norm: nn.Module, linear: nn.Module) -> Tensor:
        x = torch.relu(x).flatten(2).transpose(1, 2)
        return linear(norm(x)).transpose(1, 2).reshape(x.shape[0], 3, 4, 5)

    program = graph(tokens, IMAGE, NORM, LINEAR, shapes={"x": {0: Dim("rows")}})
    after, log = rewritten(program, CancelTransposes())
    assert len(permutes(after)) == 2
    assert log.rewrites == []  # two are needed, wherever they stand


@st.composite
def programs(draw: Any, pools: bool = False) -> Program:
    """Up to 12 ops, a third of them permutes, on any value so far; the last two are given.

    pools: with those, too, which backends run in an order of their own.
    """
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=2, max_size=4)))

    def build(editor: Any, x: Any) -> list[Any]:
        values = [x]

        def call(target: Any, *args: Any) -> None:
            values.append(editor.call(target, *args, like=x))

        for _ in range(draw(st.integers(1, 12))):
            at = draw(st.sampled_from(values[-4:]))
            sizes = [int(size) for size in at.meta["val"].shape]
            rank = len(sizes)
            if not 2 <= rank <= 5:
                call(aten.unsqueeze.default, at, draw(st.integers(0, rank))) if rank < 2 else None
                continue
            axis = draw(st.integers(-rank, rank - 1))
            kind = draw(st.integers(0, 20 if pools and rank == 4 else 17))
            if kind <= 5:
                call(aten.permute.default, at, draw(st.permutations(range(rank))))
            elif kind == 6:
                call(aten.relu.default, at)
            elif kind == 7:
                others = [each for each in values if _broadcasts(each, sizes)]
                call(aten.add.Tensor, at, draw(st.sampled_from(others)))
            elif kind == 8:
                call(aten.softmax.int, at, axis)
            elif kind == 9:
                call(aten.mean.dim, at, [axis], draw(st.booleans()))
            elif kind == 10:
                call(aten.cat.default, [at, at], axis)
            elif kind == 11:
                call(aten.slice.Tensor, at, axis, 0, draw(st.integers(1, 3)))
            elif kind == 12:
                call(aten.layer_norm.default, at, sizes[-1:])
            elif kind == 13:
                place = draw(st.integers(0, rank - 2))
                joined = [*sizes[:place], sizes[place] * sizes[place + 1], *sizes[place + 2 :]]
                call(aten.reshape.default, at, joined)
            elif kind == 14:
                call(aten.unsqueeze.default, at, draw(st.integers(-rank - 1, rank)))
            elif kind == 15:
                call(aten.transpose.int, at, axis, draw(st.integers(-rank, rank - 1)))
            elif kind == 16:
                call(aten.constant_pad_nd.default, at, [1, 0, 0, 2])
            elif kind == 17:
                call(aten.select.int, at, axis, 0)
            else:
                call(aten.max_pool2d.default, at, [min(2, sizes[2]), 1], [1, 1])
        return values[-2:]

    return of_calls(shape, build)


def _broadcasts(node: Any, sizes: list[int]) -> bool:
    shape = [int(size) for size in node.meta["val"].shape]
    pairs = zip(reversed(shape), reversed(sizes), strict=False)
    return len(shape) <= len(sizes) and all(one in (1, other) for one, other in pairs)


@pytest.mark.parametrize("by", [CancelTransposes(), AssignLayout("pytorch"), AssignLayout("onnxruntime")])
@settings(max_examples=150, deadline=None)
@given(program=programs())
def test_any_program_gives_the_same_and_moves_no_more(by: Pass, program: Program) -> None:
    after, _ = rewritten(program, by)
    assert moved(after) <= moved(program)


@pytest.mark.parametrize("by", [CancelTransposes(), AssignLayout("pytorch"), AssignLayout("onnxruntime")])
@settings(max_examples=150, deadline=None)
@given(program=programs(pools=True))
def test_any_program_with_pools_gives_the_same(by: Pass, program: Program) -> None:
    rewritten(program, by)


class Factors(nn.Module):
    """A weight for each of the last three axes."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.randn(4, 5, 3))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors


def test_a_weight_is_stored_in_the_order_in_which_it_is_read() -> None:
    program = graph(lambda x, factors: factors(x.permute(LAST)).permute(FIRST), IMAGE, Factors())
    after, _ = rewritten(program, CancelTransposes())
    assert text_of(after) == "%0: f32[2, 3, 4, 5] = aten.mul.Tensor(%x, @layers.0.factors.permuted)"
