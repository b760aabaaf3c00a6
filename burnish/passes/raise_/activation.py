"""Activations written out become one op; an activation times another value becomes `burnish::gated_activation`."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import torch
from torch import fx

from burnish.ir.edit import Editor
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, value
from burnish.ir.shapes import same_shape
from burnish.passes.rules import Rules
from burnish.rewrite.engine import Lookalike, Refusal, Rule
from burnish.rewrite.matching import Match
from burnish.rewrite.pattern import Either, Number, Pattern, Variable, div, either, mul, op, power
from burnish.rewrite.words import erf, sigmoid, tanh

aten = torch.ops.aten

x, gate, up = Variable("x"), Variable("gate"), Variable("up")

# How exactly authors write sqrt(2 / pi): 0.79788456 and 0.7978845608 are in use.
_PRECISION = 1e-6


def product(*factors: Any) -> Either:
    """The product of three factors in any order and grouping."""
    return either(*(mul(mul(a, b), c) for a, b, c in permutations(factors) if _index(factors, a) < _index(factors, b)))


def _index(factors: tuple[Any, ...], factor: Any) -> int:
    return next(index for index, each in enumerate(factors) if each is factor)


# ---------------------------------------------------------------- activations written out

cube: Pattern = either(power(x, 3), mul(mul(x, x), x))
root_two_over_pi, coefficient, root_half = Number("sqrt(2 / pi)"), Number("0.044715"), Number("1 / sqrt(2)")
root_two = Number("sqrt(2)")
_inner = either(
    mul(root_two_over_pi, x + coefficient * cube),
    product(root_two_over_pi, x, 1 + product(coefficient, x, x)),
    product(root_two_over_pi, x, 1 + coefficient * mul(x, x)),
    product(root_two_over_pi, x, 1 + coefficient * power(x, 2)),
)
_scaled = either(div(x, root_two), mul(x, root_half))


def _require_tanh_gelu(program: Program, match: Match) -> None:
    _require_about(match, root_two_over_pi, math.sqrt(2 / math.pi))
    _require_about(match, coefficient, 0.044715)


def _require_gelu(program: Program, match: Match) -> None:
    if root_two in match:
        _require_about(match, root_two, math.sqrt(2))
    else:
        _require_about(match, root_half, math.sqrt(0.5))


def _require_about(match: Match, number: Number, wanted: float) -> None:
    found = match.number(number)
    if abs(found - wanted) > _PRECISION * wanted:
        raise Refusal(f"{number.name} is {wanted:.8g}, and here it is {found:.8g}", match.root)


def _to_silu(editor: Editor, match: Match) -> fx.Node:
    return editor.call(aten.silu.default, match.node(x), like=match.root)


def _to_gelu(editor: Editor, match: Match) -> fx.Node:
    return editor.call(aten.gelu.default, match.node(x), like=match.root)


def _to_tanh_gelu(editor: Editor, match: Match) -> fx.Node:
    return editor.call(aten.gelu.default, match.node(x), like=match.root, approximate="tanh")


# ---------------------------------------------------------------- gated activations

_ACTIVATIONS: dict[str, Pattern] = {
    "silu": op("silu", aten.silu.default)(gate),
    "gelu": op("gelu", aten.gelu.default)(gate),
    "gelu_tanh": op("gelu", aten.gelu.default)(gate, approximate="tanh"),
    "relu": op("relu", aten.relu.default)(gate),
    "sigmoid": sigmoid(gate),
}


def _require_gated(program: Program, match: Match) -> None:
    """Refusal unless both factors have the product's shape, and the second is not the first (relu(x) * relu(x))."""
    first, second = match.node(gate), match.node(up)
    for factor in (first, second):
        if not same_shape(value(factor).shape, value(match.root).shape):
            raise Refusal("a factor that is repeated to the product's shape", factor)
    if second in first.users:
        raise Lookalike("both factors are made from one value", match.root)


def _to_gated(editor: Editor, match: Match) -> fx.Node:
    name = next(name for name, pattern in _ACTIVATIONS.items() if pattern in match)
    return editor.call(burnish_ops.gated_activation.default, match.node(gate), match.node(up), name, like=match.root)


RAISE_ACTIVATIONS = Rules(
    "raise-activations",
    (
        Rule("silu", mul(x, sigmoid(x)), _to_silu),
        Rule("gelu", product(0.5, x, 1 + erf(_scaled)), _to_gelu, _require_gelu),
        Rule("gelu by tanh", product(0.5, x, 1 + tanh(_inner)), _to_tanh_gelu, _require_tanh_gelu),
        Rule("gated activation", mul(either(*_ACTIVATIONS.values()), up), _to_gated, _require_gated),
    ),
)
