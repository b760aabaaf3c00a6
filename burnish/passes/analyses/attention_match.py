"""Attention found by data flow, from the softmax outwards, however it is spelled.

Above the softmax: scalings, a soft cap, masks by addition, `where` or `masked_fill`, casts and views, up to one matrix
product. Below it: casts, views, the slice that drops a sink, down to one matrix product with the values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, fx

from burnish.ir.arguments import argument
from burnish.ir.labels import rank
from burnish.ir.program import Program, describe, operands
from burnish.ir.traits import keeps_value, reshapes
from burnish.passes.analyses.masks import HIDDEN
from burnish.passes.analyses.position_only import FILLS, PositionOnly

aten = torch.ops.aten

PRODUCTS = {aten.matmul.default, aten.bmm.default}
_OF_SINKS = {aten.sigmoid.default, aten.unsqueeze.default, aten.mul.Tensor}  # between the logsumexp and the product


class NoMatch(Exception):
    """The data flow is not an attention; the message says what stood in the way."""

    def __init__(self, node: fx.Node, reason: str) -> None:
        super().__init__(reason)
        self.node = node
        self.reason = reason


@dataclass
class Match:
    """An attention in the user's spelling; operands are as they enter the two products."""

    softmax: fx.Node
    query: fx.Node  # [..., S, D]
    key_transposed: fx.Node | None = None  # [..., D, T]
    key: fx.Node | None = None  # [..., T, D], where the op takes it so
    products: list[tuple[fx.Node, fx.Node]] = field(
        default_factory=list
    )  # with the values: (product, values[..., T, D])
    scale: float = 1.0
    softcap: float = 0.0
    sinks: fx.Node | None = None
    shifted: bool = False  # by one number for each row, which is left out
    terms: list[tuple[str, Any, float]] = field(default_factory=list)  # inner to outer: what is done to the bias

    @property
    def term_nodes(self) -> list[fx.Node]:
        """The position-only nodes that make up the bias."""
        return [term[1] for term in self.terms if isinstance(term[1], fx.Node)]


def constant(node: Any, positions: PositionOnly) -> float | None:
    """The number that an argument is worth, if it is one number whatever the sizes."""
    if isinstance(node, int | float):
        return float(node)
    if not isinstance(node, fx.Node) or node not in positions or positions.is_sized(node):
        return None
    val = node.meta.get("val")
    if not isinstance(val, Tensor) or val.numel() != 1:
        return None
    return float(positions.evaluate([node], 1, 1)[0])


def match_attention(softmax: fx.Node, program: Program, positions: PositionOnly) -> Match:
    """The attention around `softmax`; NoMatch says why there is none."""
    axis = softmax.args[1]
    if axis not in (-1, rank(softmax) - 1):
        raise NoMatch(softmax, f"softmax over axis {axis}, not the last one")
    scores = softmax.args[0]
    assert isinstance(scores, fx.Node)
    match = Match(softmax, scores)
    outer: list[tuple[str, Any, float]] = []
    product = _walk_up(scores, match, outer, program, positions)
    match.terms = list(reversed(outer))
    _settle_scale(match)
    _read_product(product, match, positions)
    _walk_down(softmax, match)
    if not match.products:
        raise NoMatch(softmax, "nothing multiplies values by the attention weights")
    return match


def _walk_up(
    node: fx.Node, match: Match, outer: list[tuple[str, Any, float]], program: Program, positions: PositionOnly
) -> fx.Node:
    """From the softmax's input to the product of queries and keys; what is passed goes to `outer`."""
    while True:
        target = node.target
        if target in PRODUCTS or target is aten.baddbmm.default:
            return node
        if node.op != "call_function":
            raise NoMatch(node, "the scores are not computed from a product of queries and keys")
        data = [a for a in node.all_input_nodes if a not in positions]
        if keeps_value(node) or reshapes(node):
            node = operands(node)[0]
        elif target in (aten.mul.Tensor, aten.mul.Scalar, aten.div.Tensor, aten.div.Scalar):
            number = constant(node.args[1], positions)
            inner = node.args[0]
            if number is None and target is aten.mul.Tensor:
                number, inner = constant(node.args[0], positions), node.args[1]
            if number is None and len(data) == 1 and target is aten.mul.Tensor:
                gate = next(argument for argument in node.all_input_nodes if argument in positions)
                outer.append(("gate", gate, 1.0))
                node = data[0]
                continue
            if number is None or not isinstance(inner, fx.Node):
                raise NoMatch(node, "the scores are scaled by something that is not a number")
            outer.append(("scale", None, number if "mul" in str(target) else 1.0 / number))
            if inner.target is aten.tanh.default:
                inner = _read_softcap(inner, number, match, outer, positions)
            node = inner
        elif target in (aten.add.Tensor, aten.sub.Tensor):
            node = _read_addition(node, data, outer, positions)
        elif target in (aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf):
            condition, first, second = operands(node)
            if condition not in positions:
                raise NoMatch(node, "the mask depends on the input's data")
            kept, hidden = constant(first, positions), constant(second, positions)
            if hidden is not None and isinstance(first, fx.Node) and first not in positions:
                outer.append(("keep", condition, hidden))
                node = first
            elif kept is not None and isinstance(second, fx.Node) and second not in positions:
                outer.append(("hide", condition, kept))
                node = second
            else:
                raise NoMatch(node, "a where() whose other side is not one number")
        elif target in (aten.masked_fill.Scalar, aten.masked_fill.Tensor):
            condition, number = operands(node)[1], constant(node.args[2], positions)
            if condition not in positions or number is None:
                raise NoMatch(node, "the mask depends on the input's data")
            outer.append(("hide", condition, number))
            node = operands(node)[0]
        elif target in (aten.maximum.default, aten.max.other, aten.clamp.default, aten.clamp_min.default):
            floor = constant(node.args[1], positions)
            if floor is None and len(data) == 1 and data[0] is node.args[0]:
                other = node.args[1]
                floor = _largest(other, positions) if isinstance(other, fx.Node) else None
            if floor is None or floor > HIDDEN or len(node.args) > 2:
                raise NoMatch(node, "the scores are clamped")
            node = data[0]
        elif target is aten.cat.default:
            outer[:] = [term for term in outer if term[0] != "shift"]  # of the sinks, too: all the same to softmax
            node = _read_sinks(node, match, positions)
        else:
            raise NoMatch(node, f"{target} stands between the product and the softmax")


def _largest(node: fx.Node, positions: PositionOnly) -> float | None:
    """The largest entry of a floor for the scores, if it is the same number whatever the sizes."""
    if node not in positions or (positions.is_sized(node) and node.target not in FILLS):
        return None
    return float(positions.evaluate([node], 1, 1)[0].max())


def _read_addition(
    node: fx.Node, data: list[fx.Node], outer: list[tuple[str, Any, float]], positions: PositionOnly
) -> fx.Node:
    first, second = node.args[0], node.args[1]
    sign = -1.0 if node.target is aten.sub.Tensor else 1.0
    sign *= float(argument(node, "alpha"))
    if isinstance(first, fx.Node) and _is_shift(second):
        outer.append(("shift", None, 0.0))
        return first
    if len(data) == 1 and isinstance(first, fx.Node) and isinstance(second, fx.Node):
        if second in positions:
            outer.append(("add", second, sign))
            return first
        if sign == 1.0:
            outer.append(("add", first, 1.0))
            return second
    raise NoMatch(node, "what is added to the scores depends on the input's data")


def _is_shift(node: Any) -> bool:
    """Whether it is one number for each row, a row's maximum mostly: softmax does not see it."""
    if isinstance(node, int | float):
        return True
    if not isinstance(node, fx.Node):
        return False
    source = node.args[0] if str(node.target) == "<built-in function getitem>" else node
    maximum = isinstance(source, fx.Node) and source.target in (aten.amax.default, aten.max.dim)
    return maximum and node.meta["val"].dim() > 1 and node.meta["val"].shape[-1] == 1


def _read_softcap(
    tanh: fx.Node, cap: float, match: Match, outer: list[tuple[str, Any, float]], positions: PositionOnly
) -> fx.Node:
    inner = tanh.args[0]
    assert isinstance(inner, fx.Node)
    number = constant(inner.args[1], positions) if len(inner.args) > 1 else None
    if (inner.target in (aten.div.Tensor, aten.div.Scalar) and number == cap) or (
        inner.target in (aten.mul.Tensor, aten.mul.Scalar) and number is not None and abs(number * cap - 1) < 1e-6
    ):
        pass
    else:
        raise NoMatch(tanh, "a tanh that is not a soft cap: cap * tanh(scores / cap)")
    outer.pop()
    outer.append(("softcap", None, cap))
    found = inner.args[0]
    assert isinstance(found, fx.Node)
    return found


def _read_sinks(node: fx.Node, match: Match, positions: PositionOnly) -> fx.Node:
    """`cat([scores, sinks])`: one more logit a head."""
    parts, axis = argument(node, "tensors"), argument(node, "dim")
    if not isinstance(parts, list | tuple) or len(parts) != 2 or axis not in (-1, rank(node) - 1):
        raise NoMatch(node, "scores joined with something that is not a sink")
    scores: fx.Node = parts[0]
    sinks: fx.Node = parts[1]
    if sinks not in positions or scores in positions or sinks.meta["val"].shape[-1] != 1:
        raise NoMatch(node, "scores joined with something that is not a sink")
    source = sinks
    while keeps_value(source) or reshapes(source) or source.target is aten.expand.default:
        source = operands(source)[0]
    if not _is_vector(source):
        raise NoMatch(node, "sinks that are not one number a head")
    match.sinks = source
    return scores


def _is_vector(node: fx.Node) -> bool:
    """Whether it is a vector of a size of its own: not one with a number for each token."""
    shape = node.meta["val"].shape
    return len(shape) == 1 and isinstance(shape[0], int)


def _settle_scale(match: Match) -> None:
    """Separate what scales the product from what happens to the bias. Order: inner to outer."""
    capped, terms = False, []
    scaled_bias = False
    for kind, node, number in match.terms:
        if kind == "scale":
            if capped:
                raise NoMatch(match.softmax, "scores scaled after their soft cap")
            match.scale *= number
            if scaled_bias:
                terms.append((kind, node, number))
        elif kind == "shift":
            match.shifted = True
        elif kind == "softcap":
            if scaled_bias or match.shifted:
                raise NoMatch(match.softmax, "a soft cap over scores that are masked or shifted")
            match.softcap, capped = number, True
        else:
            if kind in ("keep", "hide") and number > HIDDEN:
                raise NoMatch(match.softmax, f"masked scores are set to {number}, which is not out of sight")
            scaled_bias = True
            terms.append((kind, node, number))
    if match.shifted and match.sinks is not None:
        raise NoMatch(match.softmax, "scores are shifted beside their sinks")
    match.terms = terms


def _read_product(product: fx.Node, match: Match, positions: PositionOnly) -> None:
    arguments: list[Any] = list(product.args)
    if product.target is aten.baddbmm.default:
        beta, alpha = argument(product, "beta"), argument(product, "alpha")
        if arguments[0] not in positions and beta != 0:
            raise NoMatch(product, "what is added to the scores depends on the input's data")
        if any(term[0] == "scale" for term in match.terms):
            raise NoMatch(product, "baddbmm under a scaled mask")
        outer_scale = match.scale
        match.scale *= float(alpha)
        if beta != 0:
            match.terms.insert(0, ("add", arguments[0], float(beta) * outer_scale))
        arguments = arguments[1:]
    match.query, keys = arguments
    # Keys that are scaled, as where the scale's root goes to either side: their heads are found beneath.
    while (
        keys.target in (aten.mul.Tensor, aten.mul.Scalar) and (number := constant(keys.args[1], positions)) is not None
    ):
        match.scale *= number
        keys = operands(keys)[0]
    match.key_transposed = keys


def _walk_down(node: fx.Node, match: Match) -> None:
    """From the softmax to the products with values: one, or several where weights are shared."""
    for user in node.users:
        if user.target is aten.zeros_like.default:  # which reads its shape
            continue
        if user.target in PRODUCTS and user.args[0] is node:
            match.products.append((user, operands(user)[1]))
        elif (
            keeps_value(user)
            or reshapes(user)
            or (user.target is aten.slice.Tensor and match.sinks is not None)
            or (user.target is aten.where.self and _is_for_blind(user, node, match))
        ):
            _walk_down(user, match)
        else:
            raise NoMatch(user, f"{describe(user)} stands between the softmax and the product with the values")


def _is_for_blind(where: fx.Node, weights: fx.Node, match: Match) -> bool:
    """Whether it gives zeros in place of the weights of a query that sees no token: masks that are read have none.

    where(~mask.any(-1), 0, softmax(where(mask, scores, -inf))), or where(bias.amax(-1) == -inf, 0,
    softmax(scores + bias)), as attentions are defined for padding.
    """
    condition, zeros, other = operands(where)
    if other is not weights or zeros.target is not aten.zeros_like.default:
        return False
    if condition.target is aten.eq.Scalar and operands(condition)[1] == float("-inf"):
        wanted, reduction = "add", aten.amax.default
    elif condition.target in (aten.bitwise_not.default, aten.logical_not.default):
        wanted, reduction = "keep", aten.any.dim
    else:
        return False
    found = operands(condition)[0]
    if found.target is not reduction or list(operands(found)[1:]) not in ([-1, True], [[-1], True]):
        return False
    return any(kind == wanted and mask is operands(found)[0] for kind, mask, _ in match.terms)


def sink_scale(match: Match, product: fx.Node, positions: PositionOnly) -> tuple[fx.Node, fx.Node] | None:
    """The node that scales `product` by sigmoid(logsumexp(scores) - sink), and the sinks[H]; None if there is none.

    exp(score) / (sum exp(scores) + exp(sink)) = softmax(scores) * sigmoid(logsumexp(scores) - sink): a sink by another
    spelling.
    """
    last = rank(product) - 1
    for total in match.softmax.all_input_nodes[0].users:
        if total.target is not aten.logsumexp.default or list(operands(total)[1]) not in ([-1], [last]):
            continue
        node, sinks = total, cast("fx.Node | None", None)
        while len(node.users) == 1 and node.target is not aten.mul.Tensor:
            user = next(iter(node.users))
            read = operands(user)
            if user.target is aten.sub.Tensor and read[0] is node and read[1] in positions:
                sinks = read[1]
            elif user.target not in _OF_SINKS and not keeps_value(user):
                break
            node = user
        if node.target is aten.mul.Tensor and product in node.args and isinstance(sinks, fx.Node):
            while reshapes(sinks):
                sinks = operands(sinks)[0]
            if match.shifted:
                raise NoMatch(match.softmax, "scores are shifted beside their sinks")
            if _is_vector(sinks):
                return node, sinks
    return None
