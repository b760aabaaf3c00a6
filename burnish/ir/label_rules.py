"""One rule an op that computes: where the entries stand in its result, or the error that it mixes them.

A rule holds for whatever is followed: tokens, rows of the batch, or picked tokens. Arguments go by the names of the
op's schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.arguments import argument
from burnish.ir.labels import Along, AxisLabel, Label, Labels, Rule, rank
from burnish.ir.shapes import shape_expressions


def tensors_of(node: fx.Node) -> list[fx.Node]:
    """The node's tensor arguments, also those in lists."""
    return [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]


def _moved(label: AxisLabel, axes: int) -> AxisLabel:
    return AxisLabel(label.axis + axes, label.inner)


def pointwise(labels: Labels, node: fx.Node) -> Label:
    """Each element for itself: where the operands' entries stand, once they are broadcast to one shape."""
    found: AxisLabel | None = None
    for each in node.all_input_nodes:
        val = each.meta.get("val")
        if isinstance(val, torch.SymInt | torch.SymFloat):
            if labels.symbol in val.node.expr.free_symbols:
                raise labels.mixes(node, "computes with the number of {}, which a step does not know")
            continue
        label = labels.of(each)
        if label is None:
            continue
        aligned = _moved(label, rank(node) - rank(each))
        if found is not None and aligned != found:
            raise labels.mixes(node, "combines {} on one axis with those on another")
        found = aligned
    return found


def like_first(labels: Labels, node: fx.Node) -> Label:
    """Where the first argument's entries stand; no other argument has any."""
    first = node.args[0]
    if any(labels.of(each) for each in node.all_input_nodes if each is not first):
        raise labels.mixes(node, "reads a value by one that is made from the {}")
    return labels.of(first)


def _axes_of(node: fx.Node, name: str) -> list[int]:
    """The axes that an argument lists, counted from the front; all if it lists none."""
    count, listed = rank(node.args[0]), argument(node, name)
    if listed is None or listed == []:
        return list(range(count))
    return sorted({int(axis) % count for axis in ([listed] if isinstance(listed, int) else listed)})


def along(how: str, name: str = "dim") -> Rule:
    """An op that works along the axis (or axes) that its argument `name` gives: the entries must not be on it."""

    def rule(labels: Labels, node: fx.Node) -> Label:
        label = like_first(labels, node)
        if not isinstance(label, AxisLabel):
            return None
        used = _axes_of(node, name)
        if label.axis in used:
            raise labels.mixes(node, how)
        val = node.meta["val"]
        several = isinstance(val, tuple | list)
        kept = (val[0] if several else val).dim() == rank(node.args[0])
        moved = label if kept else _moved(label, -sum(axis < label.axis for axis in used))
        return tuple(moved for _ in val) if several else moved

    return rule


def reduces_all(labels: Labels, node: fx.Node) -> Label:
    """One number from all of a value."""
    if labels.of(node.args[0]) is not None:
        raise labels.mixes(node, "reduces over all {}")
    return None


def linear(labels: Labels, node: fx.Node) -> Label:
    """The last axis of the input by a matrix."""
    x, *others = (argument(node, name) for name in ("input", "weight", "bias"))
    label = labels.of(x)
    if any(labels.of(each) for each in others):
        raise labels.mixes(node, "multiplies by a matrix made from the {}")
    if label is not None and label.axis == rank(x) - 1:
        raise labels.mixes(node, "multiplies along the axis of the {}")
    return label


def matmul(labels: Labels, node: fx.Node) -> Label:
    """The last two axes as matrices."""
    return _product(labels, node, node.args[0], node.args[1])


def addmm(labels: Labels, node: fx.Node) -> Label:
    """A matrix, and a product of two."""
    added, left, right = node.args[:3]
    if labels.of(added) is not None:
        raise labels.mixes(node, "adds a matrix made from the {}")
    return _product(labels, node, left, right)


def _product(labels: Labels, node: fx.Node, left: Any, right: Any) -> Label:
    first, second = labels.of(left), labels.of(right)
    summed_right = max(rank(right) - 2, 0)
    if (first is not None and first.axis == rank(left) - 1) or (second is not None and second.axis == summed_right):
        raise labels.mixes(node, "sums over the {}")
    found = [
        _moved(label, rank(node) - rank(operand))
        for label, operand in ((first, left), (second, right))
        if label is not None
    ]
    if len(found) == 2 and found[0] != found[1]:
        raise labels.mixes(node, "multiplies all {} with one another, and is no attention that burnish recognises")
    return found[0] if found else None


def einsum(labels: Labels, node: fx.Node) -> Label:
    """Sums of products by letters: the entries keep one letter everywhere, and it is not summed over."""
    left, _, right = str(node.args[0]).replace(" ", "").partition("->")
    operands = node.args[1]
    assert isinstance(operands, list | tuple)
    found: set[tuple[str, Any]] = set()
    for term, operand in zip(left.split(","), operands, strict=True):
        label = labels.of(operand)
        if label is not None:
            found.add((term[label.axis], label.inner))
    if not found:
        return None
    if len(found) != 1 or "." in left:
        raise labels.mixes(node, "multiplies all {} with one another, and is no attention that burnish recognises")
    letter, inner = found.pop()
    if letter not in right:
        raise labels.mixes(node, "sums over the {}")
    return AxisLabel(right.index(letter), inner)


def embedding(labels: Labels, node: fx.Node) -> Label:
    """Rows of a table by ids."""
    table, ids = node.args[:2]
    if labels.of(table) is not None:
        raise labels.mixes(node, "looks up rows of a table made from the {}")
    return labels.of(ids)


def layer_norm(labels: Labels, node: fx.Node) -> Label:
    """The last axes, as many as the normalized shape has."""
    label = like_first(labels, node)
    normalized = argument(node, "normalized_shape")
    if isinstance(label, AxisLabel) and label.axis >= rank(node) - len(normalized):
        raise labels.mixes(node, "normalises over the {}")
    return label


def _refusing(how: str, uses: Callable[[int, int], bool]) -> Rule:
    """An op that works along the axes of its first argument for which `uses(axis, rank)` holds."""

    def rule(labels: Labels, node: fx.Node) -> Label:
        label = like_first(labels, node)
        if isinstance(label, AxisLabel) and uses(label.axis, rank(node.args[0])):
            raise labels.mixes(node, how)
        return label

    return rule


def last_axis(how: str) -> Rule:
    """An op that works along the last axis of its first argument, whatever its arguments say."""
    return _refusing(how, lambda axis, axes: axis == axes - 1)


def last_two_axes(how: str) -> Rule:
    """An op that works along the last two axes of its first argument."""
    return _refusing(how, lambda axis, axes: axis >= axes - 2)


def first_axis_apart(how: str) -> Rule:
    """An op that keeps the first axis of its first argument apart, and no other."""
    return _refusing(how, lambda axis, _: axis != 0)


def convolution(labels: Labels, node: fx.Node) -> Label:
    """x[B, C, S]: the first axis apart, and the last one where the window is one entry wide and skips and adds none."""
    x, weight = node.args[:2]
    if any(labels.of(argument(node, name)) is not None for name in ("weight", "bias")):
        raise labels.mixes(node, "convolves with weights made from the {}")
    label = like_first(labels, node)
    if not isinstance(label, AxisLabel) or label.axis == 0:
        return label
    assert isinstance(x, fx.Node)
    assert isinstance(weight, fx.Node)
    last = rank(x) - 1
    alone = shape_expressions(weight)[-1] == 1 and shape_expressions(node)[last] == shape_expressions(x)[last]
    if label.axis != last or not alone:
        raise labels.mixes(node, "convolves over the {} with a window that reaches later ones, or is not recognised")
    return label


_second_axis_by_numbers = _refusing("has a scale of its own for each place among the {}", lambda axis, _: axis == 1)


def batch_norm(labels: Labels, node: fx.Node) -> Label:
    """A batch norm that does not train: its second axis by numbers of weights, each element for itself."""
    if argument(node, "training"):
        if labels.of(node.args[0]) is not None:
            raise labels.mixes(node, "normalises over the {} (its norm is in training mode)")
        return None
    return _second_axis_by_numbers(labels, node)


def gather(labels: Labels, node: fx.Node) -> Label:
    """Elements along an axis by an index of the same rank."""
    source, axis, index = node.args[0], int(argument(node, "dim")), argument(node, "index")
    first, second = labels.of(source), labels.of(index)
    if first is None:  # a table without entries: each reads for itself
        return second
    if first != second or first.axis == axis % rank(node):
        raise labels.mixes(node, "reads {} by an index")
    return first


def scatter(labels: Labels, node: fx.Node) -> Label:
    """Elements written along an axis by an index: all operands have the entries on one axis, and it is another."""
    operands = [each for each in tensors_of(node) if rank(each) > 0]
    found = {labels.of(each) for each in operands}
    if found == {None}:
        return None
    label = labels.of(node.args[0])
    if len(found) != 1 or label is None or label.axis == int(argument(node, "dim")) % rank(node):
        raise labels.mixes(node, "writes among the {}")
    return label


def index(labels: Labels, node: fx.Node) -> Label:
    """A table without entries read by one index with them, or entries along another axis by a constant index."""
    source, indices = node.args[0], node.args[1]
    assert isinstance(indices, list | tuple)
    given = [(place, each) for place, each in enumerate(indices) if each is not None]
    label = labels.of(source)
    if len(given) != 1:
        raise labels.mixes(node, "reads by several indices")
    ((place, one),) = given
    if one.meta["val"].dtype == torch.bool:
        raise labels.mixes(node, "reads by a mask")
    if label is not None:
        if labels.of(one) is not None or rank(one) != 1 or place == label.axis:
            raise labels.mixes(node, "reads {} by an index")
        return label
    found = labels.of(one)
    return None if found is None else _moved(found, place)


def index_put(labels: Labels, node: fx.Node) -> Label:
    """x[mask] = number: each entry is written by its own mask."""
    source, indices, values = node.args[:3]
    assert isinstance(indices, list | tuple)
    mask = indices[0] if len(indices) == 1 else None
    if not isinstance(mask, fx.Node) or mask.meta["val"].dtype != torch.bool or not _is_number(values):
        raise labels.mixes(node, "writes among the {}")
    label, chosen = labels.of(source), labels.of(mask)
    if labels.of(values) is not None or (chosen is not None and chosen != label):
        raise labels.mixes(node, "writes among the {}")
    return label


def _is_number(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.meta["val"].numel() == 1


def index_select(labels: Labels, node: fx.Node) -> Label:
    """Elements of an axis by an index; the input that picks tokens may pick them."""
    source, picked = node.args[0], node.args[2]
    label = labels.of(source)
    axis = int(argument(node, "dim")) % rank(source)
    if isinstance(picked, fx.Node) and picked.op == "placeholder":
        if labels.along is Along.KEPT:
            return AxisLabel(axis)
        if label is not None and label.axis == axis:
            if labels.along is Along.TOKENS:
                return None  # what follows has no tokens, but those whose logits are asked for
            raise labels.mixes(node, "picks {} by an index")
        return label
    return along("picks {} by an index")(labels, node)


# ---------------------------------------------------------------- others of the library's own


def lookup(labels: Labels, node: fx.Node) -> Label:
    """Rows of a table by position [B, S]."""
    return labels.of(node.args[1])


def moe_linear(labels: Labels, node: fx.Node) -> Label:
    """x[N, K|1, in] by the weights of experts[N, K]."""
    x, weight, bias, experts = (argument(node, name) for name in ("x", "weight", "bias", "experts"))
    found = {labels.of(each) for each in (x, experts)} - {None}
    if any(labels.of(each) for each in (weight, bias)) or len(found) > 1:
        raise labels.mixes(node, "multiplies by matrices made from the {}")
    label = found.pop() if found else None
    if label is not None and label.axis != 0:
        raise labels.mixes(node, "multiplies along the axis of the {}")
    return label


def filled(labels: Labels, shape: Iterable[Any], others: frozenset[Any]) -> Label:
    """One number everywhere: any axis whose size follows the entries will do."""
    for axis, size in enumerate(shape):
        if labels.symbol not in size.free_symbols:
            continue
        inner = size / labels.symbol
        if labels.along is Along.TOKENS:  # rows stand outside of tokens
            for other in size.free_symbols & others:
                inner = inner / other
        return AxisLabel(axis, inner)
    return None
