"""Projections of one input become one product, unless one of their weights is used otherwise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from inline_snapshot import snapshot
from torch import Tensor

from burnish.passes.fuse.pack_linears import PackLinears, packed_name
from tests.passes.spelled import Body, Spelled, rewritten, spelled, text_of, texts


def test_before_and_after() -> None:
    program = spelled(lambda m, x: m.gate(x) * torch.relu(m.up(x)))
    assert text_of(program) == snapshot("""\
%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)
%1: f32[batch, sequence, 8] = aten.linear(%0, @gate.weight, @gate.bias)
%2: f32[batch, sequence, 8] = aten.linear(%0, @up.weight, @up.bias)
%3: f32[batch, sequence, 8] = aten.relu(%2)
%4: f32[batch, sequence, 8] = aten.mul.Tensor(%1, %3)\
""")
    after, log = rewritten(program, PackLinears())
    assert text_of(after) == snapshot("""\
%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)
%1: f32[batch, sequence, 16] = aten.linear(%0, @"gate+up.weight", @"gate+up.bias")
%2: f32[batch, sequence, 8] = getitem(%split_with_sizes_default, 0)
%3: f32[batch, sequence, 8] = getitem(%split_with_sizes_default, 1)
%4: f32[batch, sequence, 8] = aten.relu(%3)
%5: f32[batch, sequence, 8] = aten.mul.Tensor(%2, %4)\
""")
    assert texts(log) == ["packed gate, up"]
    weight = after.weights["gate+up.weight"].materialize()
    parts = [program.weights[f"{name}.weight"].materialize() for name in ("gate", "up")]
    assert torch.equal(weight, torch.cat(parts))


def chained(m: Spelled, x: Tensor) -> Tensor:
    return m.up(m.gate(x))


REFUSED: dict[str, tuple[Body, str]] = {
    "a weight that is read elsewhere": (
        lambda m, x: m.gate(x) + m.up(x) + m.up.weight.sum(),
        "its weight is used elsewhere too, and would be stored twice",
    ),
    "a weight that is computed": (
        lambda m, x: m.gate(x) + F.linear(x, m.up.weight.softmax(0) * x.mean()),
        "its weight is computed in the graph",
    ),
    "a bias for one alone": (
        lambda m, x: m.gate(x) + F.linear(x, m.up.weight),
        "some of the projections of this input have a bias and some have none",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_stays_says_why(case: str) -> None:
    body, reason = REFUSED[case]
    program = spelled(body)
    after, log = rewritten(program, PackLinears())
    assert text_of(after) == text_of(program)
    assert not log.rewrites
    assert any(reason in entry.text for entry in log.refusals)


@pytest.mark.parametrize("body", [chained, lambda m, x: m.gate(x) + m.up(torch.relu(x))])
def test_products_of_other_values_are_left_alone(body: Body) -> None:
    program = spelled(body)
    after, log = rewritten(program, PackLinears())
    assert text_of(after) == text_of(program)
    assert not log.rewrites
    assert not log.refusals


def test_names_tell_what_was_packed() -> None:
    assert packed_name(["a.q.weight", "a.k.weight", "a.v.weight"]) == "a.q+k+v.weight"
    assert packed_name(["a.q.weight", "head.weight"]) == "a.q.weight+head.weight"
