"""A learned scale for each output of a linear goes into its weight and bias.

scale * (x @ weight.T + bias) = x @ (scale * weight).T + scale * bias
"""

from __future__ import annotations

import torch
from torch import fx

from burnish.ir.edit import Editor
from burnish.ir.program import Program, value
from burnish.ir.weights import Scaled
from burnish.passes.rules import Rules
from burnish.rewrite.engine import Refusal, Rule
from burnish.rewrite.matching import Match
from burnish.rewrite.pattern import Argument, Variable, mul
from burnish.rewrite.words import linear

aten = torch.ops.aten


def _is_stored(node: fx.Node) -> bool:
    return node.op == "get_attr" and value(node).is_floating_point()


x = Variable("x")
scale = Variable("scale", lambda node: _is_stored(node) and value(node).dim() == 1, "a weight with one axis")
weight = Variable("weight", _is_stored, "a weight")
bias = Argument("bias")
product = linear(x, weight, bias)


def _require_alone(program: Program, match: Match) -> None:
    """Refusal if others read the product, or the scale is not one number for each of its outputs."""
    if len(match.node(product).users) > 1:
        raise Refusal("others read the linear as it is, too", match.node(product))
    if value(match.node(scale)).shape[0] != value(match.node(weight)).shape[0]:
        raise Refusal("the scale is not one number for each output", match.node(scale))
    if len({value(match.node(each)).dtype for each in (scale, weight)}) > 1:
        raise Refusal("the scale is in another dtype than the weight", match.node(scale))
    if match[bias] is not None and not _is_stored(match[bias]):
        raise Refusal("the bias is computed", match.node(product))


def _scaled(editor: Editor, match: Match) -> fx.Node:
    weights = editor.program.weights
    factor = weights[str(match.node(scale).target)]
    new = [
        None if each is None else editor.weight(f"{each.target}.scaled", Scaled(weights[str(each.target)], factor))
        for each in (match[weight], match[bias])
    ]
    return editor.call(aten.linear.default, match.node(x), *new, like=match.root)


FOLD_SCALES = Rules("fold-scales", (Rule("a linear's scale", mul(scale, product), _scaled, _require_alone),))
