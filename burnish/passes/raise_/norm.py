"""RMS and layer norms in every spelling become `burnish::rms_norm` and `aten::layer_norm`.

The rules build on one another, as nodes are visited inputs first: a norm without a weight is found, then its weight,
then its bias.
"""

from __future__ import annotations

import torch
from torch import fx

from burnish.ir.edit import Editor
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, value
from burnish.ir.weights import Cast, Offset, Weight
from burnish.passes.rules import Rules
from burnish.rewrite.engine import Refusal, Rule
from burnish.rewrite.matching import Match
from burnish.rewrite.pattern import Argument, Number, Variable, add, either, mul, sub
from burnish.rewrite.words import (
    aten_rms_norm,
    layer_norm,
    mean,
    over_root,
    population_variance,
    rms_norm,
    square,
    to,
)

aten = torch.ops.aten


def _is_scale(node: fx.Node) -> bool:
    """Whether `node` is a weight with one axis."""
    return node.op == "get_attr" and value(node).dim() == 1 and value(node).is_floating_point()


x = Variable("x")
scale = Variable("weight", _is_scale, "a weight with one axis")
eps, count = Number("eps"), Number("size of the last axis")


# ---------------------------------------------------------------- weights that are computed from weights

stored = Variable("stored", lambda node: node.op == "get_attr" and value(node).is_floating_point(), "a weight")
amount = Number("amount")


def _derived(editor: Editor, match: Match, weight: Weight, suffix: str) -> fx.Node:
    return editor.weight(f"{match.node(stored).target}.{suffix}", weight)


def _source(editor: Editor, match: Match) -> Weight:
    return editor.program.weights[str(match.node(stored).target)]


def _offset(editor: Editor, match: Match) -> fx.Node:
    return _derived(editor, match, Offset(_source(editor, match), match.number(amount)), "offset")


def _cast(editor: Editor, match: Match) -> fx.Node:
    return _derived(editor, match, Cast(_source(editor, match), value(match.root).dtype), "cast")


# ---------------------------------------------------------------- RMS norms


def _require_mean(program: Program, match: Match) -> None:
    """Refusal if a mean that is written as a sum is not divided by the number of elements."""
    size = value(match.node(x)).shape[-1]
    if count in match and match.number(count) != size:
        raise Refusal(f"a sum of {size} elements is divided by {match.number(count):g}, so it is no mean", match.root)


def _to_rms_norm(editor: Editor, match: Match) -> fx.Node:
    return editor.call(burnish_ops.rms_norm.default, match.node(x), None, match.number(eps), like=match.root)


def _weigh_rms_norm(editor: Editor, match: Match) -> fx.Node:
    _require_last_axis(match)
    return editor.call(
        burnish_ops.rms_norm.default, match.node(x), match.node(scale), match.number(eps), like=match.root
    )


def _require_last_axis(match: Match) -> None:
    """Refusal if the weight is not one number for each element of the last axis."""
    weight = match.node(scale)
    if value(weight).shape[0] != value(match.node(x)).shape[-1]:
        raise Refusal(f"a weight of size {value(weight).shape[0]} does not cover the last axis", weight)


narrow = Variable("x")
widened = to(narrow)


def _require_narrowed_back(program: Program, match: Match) -> None:
    before, within, after = (value(each).dtype for each in (match.node(narrow), match.node(widened), match.root))
    if within is not torch.float32 or before.itemsize >= 4 or after is not before:
        raise Refusal(f"from {before} by way of {within} to {after} is not there and back", match.root)


def _to_narrow_rms_norm(editor: Editor, match: Match) -> fx.Node:
    return editor.call(burnish_ops.rms_norm.default, match.node(narrow), None, match.number(eps), like=match.root)


shape, given, given_eps = Argument("shape"), Argument("weight"), Argument("eps")


def _from_aten(editor: Editor, match: Match) -> fx.Node:
    if len(match[shape]) != 1:
        raise Refusal(f"it norms over the last {len(match[shape])} axes, not the last one", match.root)
    found = match[given_eps]
    amount = torch.finfo(value(match.node(x)).dtype).eps if found is None else float(found)
    return editor.call(burnish_ops.rms_norm.default, match.node(x), match[given], amount, like=match.root)


# ---------------------------------------------------------------- layer norms

centred = sub(x, mean(x, count))
bias = Variable("bias", _is_scale, "a weight with one axis")
old_scale = Argument("weight")


def _to_layer_norm(editor: Editor, match: Match) -> fx.Node:
    return _layer_norm(editor, match, None, None)


def _layer_norm(editor: Editor, match: Match, weight: fx.Node | None, bias: fx.Node | None) -> fx.Node:
    source = match.node(x)
    size = int(value(source).shape[-1])
    for each in (weight, bias):
        if each is not None and (value(each).shape[0] != size or value(each).dtype != value(source).dtype):
            raise Refusal(f"a {value(each).dtype} weight of size {value(each).shape[0]} does not fit", each)
    return editor.call(aten.layer_norm.default, source, [size], weight, bias, match.number(eps), like=match.root)


def _weigh_layer_norm(editor: Editor, match: Match) -> fx.Node:
    return _layer_norm(editor, match, match.node(scale), None)


def _bias_layer_norm(editor: Editor, match: Match) -> fx.Node:
    return _layer_norm(editor, match, match[old_scale], match.node(bias))


RAISE_NORMS = Rules(
    "raise-norms",
    (
        Rule("a weight plus a number", add(stored, amount), _offset),
        Rule("a weight in another dtype", to(stored), _cast),
        Rule(
            "layer norm",
            either(
                over_root(centred, mean(square(centred), count) + eps),
                over_root(centred, population_variance(x) + eps),
            ),
            _to_layer_norm,
            _require_mean,
        ),
        Rule("layer norm's weight", mul(scale, layer_norm(x, Argument("shape"), None, None, eps)), _weigh_layer_norm),
        Rule(
            "layer norm's bias",
            add(bias, layer_norm(x, Argument("shape"), old_scale, None, eps)),
            _bias_layer_norm,
        ),
        Rule("RMS norm", over_root(x, mean(square(x), count) + eps), _to_rms_norm, _require_mean),
        Rule(
            "RMS norm computed in float32",
            to(rms_norm(widened, None, eps)),
            _to_narrow_rms_norm,
            _require_narrowed_back,
        ),
        Rule("RMS norm's weight", mul(scale, rms_norm(x, None, eps)), _weigh_rms_norm),
        Rule("RMS norm of ATen", aten_rms_norm(x, shape, given, given_eps), _from_aten),
    ),
)
