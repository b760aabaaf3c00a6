"""Rotary embeddings are raised from each spelling; a rotation that is none is left alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import pytest
import torch
from torch import Tensor

from burnish.ir.program import Program
from burnish.passes.raise_.rotary import RAISE_ROTARY
from tests.passes.spelled import Spelled, ops_of, rewritten, spelled_all, text_of, texts

Body = Callable[[Tensor, Tensor], Tensor]  # of x[batch, tokens, 8] and angles[tokens, 4]


def rotated_half(x: Tensor) -> Tensor:
    return torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)


def rotated_neighbours(x: Tensor) -> Tensor:
    return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


def twice(angles: Tensor) -> Tensor:
    return torch.cat((angles, angles), dim=-1)


def all_of(bodies: Mapping[str, Body]) -> dict[str, Program]:
    def with_angles(body: Body) -> Callable[[Spelled, Tensor], Tensor]:
        frequencies = torch.tensor([1.0, 0.5, 0.25, 0.125])
        return lambda m, x: body(x, torch.arange(x.shape[1])[:, None] * frequencies)

    return spelled_all({name: with_angles(body) for name, body in bodies.items()})


def of(body: Body) -> Program:
    return all_of({"": body})[""]


def by_complex_numbers(x: Tensor, angles: Tensor) -> Tensor:
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    turns = torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(pairs * turns).flatten(2).type_as(x)


def neighbours_one_by_one(x: Tensor, angles: Tensor) -> Tensor:
    even, odd = x[..., ::2], x[..., 1::2]
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def unbound_pairs(x: Tensor, angles: Tensor) -> Tensor:
    even, odd = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).view(x.shape)


def halves_one_by_one(x: Tensor, angles: Tensor) -> Tensor:
    x1, x2 = x.chunk(2, dim=-1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)


def halves_turned_back(x: Tensor, angles: Tensor) -> Tensor:
    x1, x2 = x[..., :4], x[..., 4:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((x1 * cos + x2 * sin, x2 * cos + x1 * -sin), dim=-1)


def rotated_by_split(x: Tensor) -> Tensor:
    x1, x2 = x.split(4, dim=-1)
    return torch.cat((-x2, x1), dim=-1)


def rotated_by_unflatten(x: Tensor) -> Tensor:
    pairs = x.unflatten(-1, (4, 2))
    return torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).reshape(x.shape)


SPELLINGS: dict[str, tuple[Body, bool]] = {  # and whether neighbours are paired
    "halves": (lambda x, a: x * twice(a).cos() + rotated_half(x) * twice(a).sin(), False),
    "halves by split": (lambda x, a: rotated_by_split(x) * twice(a).sin() + twice(a).cos() * x, False),
    "turned back": (lambda x, a: x * twice(a).cos() - rotated_half(x) * twice(a).sin(), False),
    "halves one by one": (halves_one_by_one, False),
    "halves one by one, turned back": (halves_turned_back, False),
    "neighbours": (
        lambda x, a: x * a.cos().repeat_interleave(2, -1) + rotated_neighbours(x) * a.sin().repeat_interleave(2, -1),
        True,
    ),
    "neighbours by unflatten": (
        lambda x, a: x * a.cos().repeat_interleave(2, -1) + rotated_by_unflatten(x) * a.sin().repeat_interleave(2, -1),
        True,
    ),
    "neighbours one by one": (neighbours_one_by_one, True),
    "pairs": (unbound_pairs, True),
    "complex numbers": (by_complex_numbers, True),
}


@cache
def spellings() -> dict[str, Program]:
    return all_of({name: body for name, (body, _) in SPELLINGS.items()})


@pytest.mark.parametrize("name", SPELLINGS)
def test_each_spelling(name: str) -> None:
    after, log = rewritten(spellings()[name], RAISE_ROTARY)
    last = text_of(after).splitlines()[-1]
    assert last.startswith(f"%{len(ops_of(after))}: f32[batch, sequence, 8] = burnish.rotary(%0, ")
    assert last.endswith(", True)") == SPELLINGS[name][1]
    assert len(log.rewrites) == 1
    assert not log.refusals


def test_before_and_after() -> None:
    program = spellings()["halves"]
    assert text_of(program).splitlines()[-6:] == [
        "%8: f32[batch, sequence, 4] = aten.neg(%7)",
        "%9: f32[batch, sequence, 4] = aten.slice.Tensor(%0, 2, 0, 4)",
        "%10: f32[batch, sequence, 8] = aten.cat([%8, %9], -1)",
        "%11: f32[sequence, 8] = aten.sin(%4)",
        "%12: f32[batch, sequence, 8] = aten.mul.Tensor(%10, %11)",
        "%13: f32[batch, sequence, 8] = aten.add.Tensor(%6, %12)",
    ]
    after, _ = rewritten(program, RAISE_ROTARY)
    assert text_of(after).splitlines()[-3:] == [
        "%5: f32[sequence, 8] = aten.cos(%4)",
        "%6: f32[sequence, 8] = aten.sin(%4)",
        "%7: f32[batch, sequence, 8] = burnish.rotary(%0, %5, %6)",
    ]


@pytest.mark.parametrize("interleaved", [False, True])
def test_first_elements_only(interleaved: bool) -> None:
    def partial(x: Tensor, angles: Tensor) -> Tensor:
        first, rest = x[..., :4], x[..., 4:]
        cos, sin = (angles[:, :4].cos(), angles[:, :4].sin())
        turned = first * cos + (rotated_neighbours(first) if interleaved else rotated_half(first)) * sin
        return torch.cat((turned, rest), dim=-1)

    after, log = rewritten(of(partial), RAISE_ROTARY)
    assert texts(log) == ["rotary embedding", "rotary embedding of the first elements"]
    assert "burnish.rotary(%0, " in text_of(after).splitlines()[-1]
    assert "aten.cat" not in ops_of(after)


def test_layers_share_their_angles() -> None:
    """What a rule makes of cos and sin is made once, whatever the number of layers."""
    after, _ = rewritten(of(lambda x, a: neighbours_one_by_one(neighbours_one_by_one(x, a), a)), RAISE_ROTARY)
    assert ops_of(after).count("burnish.rotary") == 2
    assert ops_of(after).count("aten.repeat_interleave.self_int") == 2


LOOKS_LIKE_ROTARY: dict[str, Body] = {
    "reversed": lambda x, a: x * twice(a).cos() + x.flip(-1) * twice(a).sin(),
    "halves exchanged without a sign": lambda x, a: (
        x * twice(a).cos() + torch.cat((x[..., 4:], x[..., :4]), -1) * twice(a).sin()
    ),
    "tokens rotated, not elements": lambda x, a: (
        x * twice(a).cos() + torch.cat((-x[:, 1:], x[:, :1]), 1) * twice(a).sin()
    ),
    "quarters": lambda x, a: x * twice(a).cos() + torch.cat((-x[..., 2:], x[..., :2]), -1) * twice(a).sin(),
    "another value rotated": lambda x, a: x * twice(a).cos() + rotated_half(x.exp()) * twice(a).sin(),
    "halves mixed up": lambda x, a: torch.cat(
        (x[..., 4:] * a.cos() - x[..., :4] * a.sin(), x[..., :4] * a.cos() + x[..., 4:] * a.sin()), -1
    ),
}


@cache
def look_alikes() -> dict[str, Program]:
    return all_of(LOOKS_LIKE_ROTARY)


@pytest.mark.parametrize("name", LOOKS_LIKE_ROTARY)
def test_what_only_looks_like_it_stays(name: str) -> None:
    program = look_alikes()[name]
    after, log = rewritten(program, RAISE_ROTARY)
    assert text_of(after) == text_of(program)
    assert not log.rewrites


def test_neighbours_that_come_out_as_halves_are_put_in_order_first() -> None:
    """DeepSeek's way: the order of elements does not matter to the product of queries and keys."""

    def body(x: Tensor, angles: Tensor) -> Tensor:
        even, odd = x[..., ::2], x[..., 1::2]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((even * cos - odd * sin, odd * cos + even * sin), dim=-1)

    after, _ = rewritten(of(body), RAISE_ROTARY)
    assert ops_of(after)[-2:] == ["aten.cat", "burnish.rotary"]
    assert not text_of(after).endswith("True)")


def test_halves_that_come_out_as_neighbours_are_put_in_order_first() -> None:
    def body(x: Tensor, angles: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.stack((first * cos - second * sin, second * cos + first * sin), dim=-1).flatten(-2)

    after, _ = rewritten(of(body), RAISE_ROTARY)
    assert ops_of(after)[-3:] == ["aten.stack", "aten.reshape", "burnish.rotary"]
    assert text_of(after).endswith("True)")


def test_one_angle_for_all_elements_is_refused() -> None:
    after, log = rewritten(of(lambda x, a: x * a[:, :1].cos() + rotated_half(x) * a[:, :1].sin()), RAISE_ROTARY)
    assert "burnish.rotary" not in ops_of(after)
    assert "an angle for each of 8 elements was expected" in log.refusals[0].text


def test_a_rotation_in_another_dtype_stays_in_it() -> None:
    program = of(lambda x, a: (x.double() * twice(a).cos() + rotated_half(x.double()) * twice(a).sin()).float())
    after, _ = rewritten(program, RAISE_ROTARY)
    assert ops_of(after)[-2:] == ["burnish.rotary", "aten._to_copy"]
