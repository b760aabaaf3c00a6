"""Activations and gated activations are raised from each spelling; what only looks alike stays."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ir.program import Program
from burnish.passes.raise_.activation import RAISE_ACTIVATIONS
from tests.passes.spelled import Body, Spelled, ops_of, rewritten, spelled, spelled_all, text_of, texts

ROOT = math.sqrt(2 / math.pi)

SPELLINGS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "x sigmoid(x)": (lambda x: x * torch.sigmoid(x), "aten.silu(%0)"),
    "sigmoid(x) x": (lambda x: torch.sigmoid(x) * x, "aten.silu(%0)"),
    "erf, divided": (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), "aten.gelu(%0)"),
    "erf, multiplied": (lambda x: x * 0.5 * (1.0 + torch.erf(x * 0.7071067811865476)), "aten.gelu(%0)"),
    "tanh of a power": (
        lambda x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.044715 * torch.pow(x, 3.0)))),
        "aten.gelu(%0, approximate='tanh')",
    ),
    "tanh of a product": (
        lambda x: x * 0.5 * (1.0 + torch.tanh(x * 0.7978845608 * (1.0 + 0.044715 * x * x))),
        "aten.gelu(%0, approximate='tanh')",
    ),
    "tanh, the sum last": (
        lambda x: 0.5 * (x * (torch.tanh((x * x * x * 0.044715 + x) * 0.79788456) + 1)),
        "aten.gelu(%0, approximate='tanh')",
    ),
}


def _of_x(body: Callable[[Tensor], Tensor]) -> Body:
    return lambda m, x: body(x)


@cache
def spellings() -> dict[str, Program]:
    return spelled_all({name: _of_x(body) for name, (body, _) in SPELLINGS.items()})


@pytest.mark.parametrize("name", SPELLINGS)
def test_activations_by_hand(name: str) -> None:
    after, _ = rewritten(spellings()[name], RAISE_ACTIVATIONS)
    assert text_of(after).splitlines()[1:] == [f"%1: f32[batch, sequence, 8] = {SPELLINGS[name][1]}"]


GATED: dict[str, tuple[Body, str]] = {
    "silu": (lambda m, x: F.silu(m.gate(x)) * m.up(x), "silu"),
    "silu by hand, up first": (lambda m, x: m.up(x) * (m.gate(x) * m.gate(x).sigmoid()), "silu"),
    "gelu": (lambda m, x: F.gelu(m.gate(x)) * m.up(x), "gelu"),
    "gelu by tanh": (lambda m, x: F.gelu(m.gate(x), approximate="tanh") * m.up(x), "gelu_tanh"),
    "relu": (lambda m, x: F.relu(m.gate(x)) * m.up(x), "relu"),
    "sigmoid": (lambda m, x: m.gate(x).sigmoid() * m.up(x), "sigmoid"),
}


@cache
def gated() -> dict[str, Program]:
    return spelled_all({name: body for name, (body, _) in GATED.items()})


@pytest.mark.parametrize("name", GATED)
def test_gated_activations(name: str) -> None:
    after, _ = rewritten(gated()[name], RAISE_ACTIVATIONS)
    gate, up = ("%2", "%1") if "up first" in name else ("%1", "%2")
    assert text_of(after).splitlines()[-1] == (
        f"%3: f32[batch, sequence, 8] = burnish.gated_activation({gate}, {up}, '{GATED[name][1]}')"
    )


def test_before_and_after() -> None:
    program = spelled(lambda m, x: F.silu(m.gate(x)) * m.up(x))
    assert text_of(program) == (
        "%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)\n"
        "%1: f32[batch, sequence, 8] = aten.linear(%0, @gate.weight, @gate.bias)\n"
        "%2: f32[batch, sequence, 8] = aten.silu(%1)\n"
        "%3: f32[batch, sequence, 8] = aten.linear(%0, @up.weight, @up.bias)\n"
        "%4: f32[batch, sequence, 8] = aten.mul.Tensor(%2, %3)"
    )
    after, log = rewritten(program, RAISE_ACTIVATIONS)
    assert text_of(after) == (
        "%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)\n"
        "%1: f32[batch, sequence, 8] = aten.linear(%0, @gate.weight, @gate.bias)\n"
        "%2: f32[batch, sequence, 8] = aten.linear(%0, @up.weight, @up.bias)\n"
        "%3: f32[batch, sequence, 8] = burnish.gated_activation(%1, %2, 'silu')"
    )
    assert texts(log) == ["gated activation"]


def test_gate_and_up_from_one_projection() -> None:
    def packed(m: Spelled, x: Tensor) -> Tensor:
        gate, up = torch.cat((m.gate(x), m.up(x)), -1).chunk(2, dim=-1)
        return F.silu(gate) * up

    after, _ = rewritten(spelled(packed), RAISE_ACTIVATIONS)
    assert ops_of(after)[-1] == "burnish.gated_activation"


LOOKS_ALIKE: dict[str, Body] = {
    "relu squared": lambda m, x: F.relu(x) * F.relu(x),
    "one gate for all elements": lambda m, x: torch.sigmoid(x[..., :1]) * m.up(x),
    "another coefficient": lambda m, x: 0.5 * x * (1.0 + torch.tanh(ROOT * (x + 0.05 * x**3))),
    "no half": lambda m, x: x * (1 + torch.erf(x / math.sqrt(2))),
    "erf of another value": lambda m, x: 0.5 * x * (1 + torch.erf(m.up(x) / math.sqrt(2))),
}


@cache
def look_alikes() -> dict[str, Program]:
    return spelled_all(LOOKS_ALIKE)


@pytest.mark.parametrize("name", LOOKS_ALIKE)
def test_what_only_looks_like_it_stays(name: str) -> None:
    program = look_alikes()[name]
    after, log = rewritten(program, RAISE_ACTIVATIONS)
    assert text_of(after) == text_of(program)
    assert not log.rewrites
