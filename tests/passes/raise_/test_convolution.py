"""Causal convolutions and shifts are raised from each spelling; those that see later tokens are refused."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.ir.program import Program
from burnish.passes.raise_.convolution import RAISE_CONVOLUTIONS
from tests.passes.spelled import Body, Spelled, ops_of, rewritten, spelled, spelled_all, text_of, texts


def over_tokens(body: Body) -> Body:
    """`body` of x[batch, WIDTH, tokens]."""
    return lambda m, x: body(m, x.transpose(1, 2)).transpose(1, 2)


def conv(m: Spelled, x: Tensor, **options: int) -> Tensor:
    return F.conv1d(x, m.convolution.weight, m.convolution.bias, groups=8, **options)


CONVOLUTIONS: dict[str, Body] = {
    "padded in front": lambda m, x: conv(m, F.pad(x, (2, 0))),
    "zeros in front": lambda m, x: conv(m, torch.cat((x.new_zeros(x.shape[0], 8, 2), x), -1)),
    "cut off behind, by size": lambda m, x: m.convolution(x)[..., : x.shape[-1]],
    "cut off behind, by number": lambda m, x: m.convolution(x)[:, :, :-2],
}


@cache
def convolutions() -> dict[str, Program]:
    return spelled_all({name: over_tokens(body) for name, body in CONVOLUTIONS.items()})


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_causal_convolutions(name: str) -> None:
    after, log = rewritten(convolutions()[name], RAISE_CONVOLUTIONS)
    assert text_of(after).splitlines()[-2] == (
        "%2: f32[batch, 8, sequence] = burnish.causal_conv1d(%1, @convolution.weight, @convolution.bias, 1, 8)"
    )
    assert not log.refusals


def test_two_convolutions_padded_at_once() -> None:
    """The inner one gives its bias before the first token, which the outer one sees: no zeros, but a constant."""

    def both(m: Spelled, x: Tensor) -> Tensor:
        inner = conv(m, F.pad(x, (6, 0)))
        return F.conv1d(inner, m.up.weight.reshape(8, 4, 2).repeat(1, 1, 2)[..., :3], m.up.bias, dilation=2, groups=2)

    after, log = rewritten(spelled(over_tokens(both)), RAISE_CONVOLUTIONS)
    assert ops_of(after).count("burnish.causal_conv1d") == 2
    assert texts(log) == ["two causal convolutions, padded in front"]
    assert not log.refusals


def test_before_and_after() -> None:
    program = spelled(over_tokens(lambda m, x: conv(m, F.pad(x, (4, 0)), dilation=2)))
    assert text_of(program) == (
        "%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)\n"
        "%1: f32[batch, 8, sequence] = aten.transpose.int(%0, 1, 2)\n"
        "%2: f32[batch, 8, sequence + 4] = aten.pad(%1, [4, 0])\n"
        "%3: f32[batch, 8, sequence] = aten.conv1d(%2, @convolution.weight, @convolution.bias, [1], [0], [2], 8)\n"
        "%4: f32[batch, sequence, 8] = aten.transpose.int(%3, 1, 2)"
    )
    after, log = rewritten(program, RAISE_CONVOLUTIONS)
    assert text_of(after) == (
        "%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)\n"
        "%1: f32[batch, 8, sequence] = aten.transpose.int(%0, 1, 2)\n"
        "%2: f32[batch, 8, sequence] = burnish.causal_conv1d(%1, @convolution.weight, @convolution.bias, 2, 8)\n"
        "%3: f32[batch, sequence, 8] = aten.transpose.int(%2, 1, 2)"
    )
    assert texts(log) == ["causal convolution, padded in front"]


NOT_CAUSAL: dict[str, Body] = {
    "symmetric": lambda m, x: conv(m, x, padding=1),
    "same": lambda m, x: F.conv1d(x, m.convolution.weight, padding="same", groups=8),
    "padded in front, too little": lambda m, x: conv(m, F.pad(x, (1, 1))),
    "cut off in front": lambda m, x: m.convolution(x)[..., 2:],
    "symmetric, with dilation": lambda m, x: conv(m, x, padding=2, dilation=2),
}


@cache
def not_causal() -> dict[str, Program]:
    return spelled_all({name: over_tokens(body) for name, body in NOT_CAUSAL.items()})


@pytest.mark.parametrize("name", NOT_CAUSAL)
def test_convolutions_that_see_later_tokens_are_refused(name: str) -> None:
    program = not_causal()[name]
    after, log = rewritten(program, RAISE_CONVOLUTIONS)
    assert text_of(after) == text_of(program)
    if name != "cut off in front":  # state insertion refuses the slice
        assert "is not causal" in log.refusals[0].text


def test_learned_values_in_front_are_refused() -> None:
    def body(m: Spelled, x: Tensor) -> Tensor:
        return conv(m, torch.cat((m.weight[None, :, None].expand(x.shape[0], -1, 2), x), -1))

    program = spelled(over_tokens(body))
    _, log = rewritten(program, RAISE_CONVOLUTIONS)
    assert "what stands before the first token is not zeros" in log.refusals[0].text


def test_a_convolution_over_elements_stays() -> None:
    """Tokens are its channels' rows: it is nobody's causal convolution, and no refusal either."""

    def body(m: Spelled, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)[:, None]
        return F.conv1d(rows, m.weight.view(1, 1, 8), padding=4)[:, 0, :8].view(x.shape)

    program = spelled(body)
    after, log = rewritten(program, RAISE_CONVOLUTIONS)
    assert "aten.conv1d" in ops_of(after)
    assert not log.refusals


def _projected(m: Spelled, x: Tensor) -> Tensor:
    before = F.linear(torch.zeros(x.shape[0], 1, 8), m.up.weight)
    return torch.cat((before, x[:, :-1]), dim=1)


SHIFTS: dict[str, tuple[Body, int]] = {
    "padded and cut": (lambda m, x: F.pad(x, (0, 0, 1, -1)), 1),
    "a module that pads": (lambda m, x: nn.ZeroPad2d((0, 0, 1, -1))(x), 1),
    "padded, then cut by size": (lambda m, x: F.pad(x, (0, 0, 2, 0))[:, : x.shape[1]], 2),
    "padded, then cut by number": (lambda m, x: F.pad(x, (0, 0, 2, 0))[:, :-2], 2),
    "zeros joined": (lambda m, x: torch.cat((torch.zeros_like(x[:, :1]), x[:, :-1]), dim=1), 1),
    "new zeros joined": (lambda m, x: torch.cat((x.new_zeros(x.shape[0], 3, 8), x), 1)[:, : x.shape[1]], 3),
    "zeros through a projection": (lambda m, x: _projected(m, x), 1),
    "expanded zeros joined": (
        lambda m, x: torch.cat((torch.zeros(1, 1, 8).expand(x.shape[0], -1, -1), x[:, :-1]), 1),
        1,
    ),
}


@cache
def shifts() -> dict[str, Program]:
    return spelled_all({name: body for name, (body, _) in SHIFTS.items()})


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts(name: str) -> None:
    after, _ = rewritten(shifts()[name], RAISE_CONVOLUTIONS)
    expected = f"%1: f32[batch, sequence, 8] = burnish.shift(%0, 1, {SHIFTS[name][1]})"
    assert text_of(after).splitlines()[1:] == [expected]


NOT_SHIFTS: dict[str, tuple[Body, str | None]] = {
    "towards the first": (lambda m, x: F.pad(x, (0, 0, -1, 1)), "a token would see later ones"),
    "ones in front": (lambda m, x: torch.cat((torch.ones_like(x[:, :1]), x[:, :-1]), 1), "is not zeros"),
    "elements, not tokens": (lambda m, x: F.pad(x, (1, -1)), None),
    "rolled": (lambda m, x: torch.cat((x[:, -1:], x[:, :-1]), 1), "is not zeros"),
    "padded with ones": (lambda m, x: F.pad(x, (0, 0, 1, -1), value=1.0), None),
}


@cache
def not_shifts() -> dict[str, Program]:
    return spelled_all({name: body for name, (body, _) in NOT_SHIFTS.items()})


@pytest.mark.parametrize("name", NOT_SHIFTS)
def test_what_is_no_shift_stays(name: str) -> None:
    program, reason = not_shifts()[name], NOT_SHIFTS[name][1]
    after, log = rewritten(program, RAISE_CONVOLUTIONS)
    assert text_of(after) == text_of(program)
    assert [reason in entry.text for entry in log.refusals] == ([True] if reason else [])
