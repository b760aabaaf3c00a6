"""What is written part by part is joined; what stays of the old value stays."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from burnish.passes.raise_.join_writes import JoinWrites
from tests.passes.spelled import Body, Spelled, ops_of, rewritten, spelled


def halves(m: Spelled, x: Tensor) -> Tensor:
    out = x.new_empty(x.shape)
    out[..., :3].copy_(m.gate(x)[..., :3])
    out[..., 3:].copy_(m.up(x)[..., 3:])
    return out


def middle(m: Spelled, x: Tensor) -> Tensor:
    out = m.gate(x)
    out[..., 2:5] = m.up(x)[..., :3]
    return out


def overlapping(m: Spelled, x: Tensor) -> Tensor:
    out = m.gate(x)
    out[..., 2:6] = 1.5
    out[..., 4:7] = m.up(x)[..., :3]
    return out


def one_entry(m: Spelled, x: Tensor) -> Tensor:
    out = m.gate(x)
    out[..., -1] = m.up(x)[..., 0]
    return out


def two_axes(m: Spelled, x: Tensor) -> Tensor:
    out = x.unflatten(-1, (2, 4)).clone()
    out[..., 1:] = x.unflatten(-1, (2, 4))[..., :3] * 2
    out[:, :, 0] = m.up(x)[..., :4]
    return out.flatten(-2)


def cast(m: Spelled, x: Tensor) -> Tensor:
    out = x.new_zeros(x.shape, dtype=torch.float64)
    out[..., :4] = m.gate(x)[..., :4]
    return out.float()


@pytest.mark.parametrize(
    "body", [halves, middle, overlapping, one_entry, two_axes, cast], ids=lambda body: body.__name__
)
def test_writes_are_joined(body: Body) -> None:
    after, log = rewritten(spelled(body), JoinWrites())
    assert not {"aten.copy", "aten.slice_scatter", "aten.select_scatter"} & set(ops_of(after))
    assert not log.refusals


def test_nothing_is_left_of_what_was_overwritten() -> None:
    after, _ = rewritten(spelled(halves), JoinWrites())
    assert "aten.new_empty" not in ops_of(after)


def test_a_write_among_the_tokens_stays() -> None:
    def first_token(m: Spelled, x: Tensor) -> Tensor:
        out = m.gate(x)
        out[:, 0] = 0.0
        return out

    after, log = rewritten(spelled(first_token), JoinWrites())
    assert "aten.select_scatter" in ops_of(after)
    assert log.refusals
