"""One rule an op that only moves elements: where the entries stand in its result, or the error that it mixes them."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import sympy
from torch import fx

from burnish.ir.arguments import argument
from burnish.ir.labels import AxisLabel, Label, Labels, rank
from burnish.ir.program import operands, value
from burnish.ir.shapes import shape_expressions


def same(labels: Labels, node: fx.Node) -> Label:
    """On the axes that they are on."""
    return labels.of(node.args[0])


def reshape(labels: Labels, node: fx.Node) -> Label:
    """The same elements in the same order, in another shape."""
    label = labels.of(node.args[0])
    if label is None:
        return None
    before, after = shape_expressions(operands(node)[0]), shape_expressions(node)
    found = _reshaped(before, label, after, labels.symbol)
    if found is None:
        shapes = f"reads {_text(before)} as {_text(after)}"
        raise labels.mixes(node, shapes + ", which puts parts of different {} together")
    return found


def _text(shape: tuple[sympy.Expr, ...]) -> str:
    return f"({', '.join(str(size) for size in shape)})"


@lru_cache(maxsize=4096)  # layers are alike, and sympy is slow
def _reshaped(
    before: tuple[sympy.Expr, ...], label: AxisLabel, after: tuple[sympy.Expr, ...], symbol: sympy.Symbol
) -> AxisLabel | None:
    wanted = _product(before[label.axis + 1 :]) * label.inner
    for axis, size in enumerate(after):
        if symbol not in size.free_symbols:
            continue
        inner = sympy.simplify(wanted / _product(after[axis + 1 :]))
        outer = sympy.simplify(size / (symbol * inner))
        if symbol in outer.free_symbols or symbol in inner.free_symbols:
            return None
        whole = all(sympy.denom(sympy.together(each)) == 1 for each in (inner, outer))
        return AxisLabel(axis, inner) if whole else None
    return None


def _product(sizes: tuple[sympy.Expr, ...]) -> sympy.Expr:
    product: sympy.Expr = sympy.S.One
    for size in sizes:
        product = product * size
    return product


def permute(labels: Labels, node: fx.Node) -> Label:
    """Axes in another order."""
    label = labels.of(node.args[0])
    if label is None:
        return None
    order = [int(axis) % rank(node) for axis in argument(node, "dims")]
    return AxisLabel(order.index(label.axis), label.inner)


def transpose(labels: Labels, node: fx.Node) -> Label:
    """Two axes for each other."""
    label = labels.of(node.args[0])
    if label is None:
        return None
    axes = (0, 1) if len(node.args) == 1 else operands(node)[1:3]  # t() has none
    first, second = (int(axis) % rank(node) for axis in axes)
    return AxisLabel({first: second, second: first}.get(label.axis, label.axis), label.inner)


def last_two(labels: Labels, node: fx.Node) -> Label:
    """The last two axes for each other."""
    label = labels.of(node.args[0])
    if label is None:
        return None
    last = rank(node) - 1
    return AxisLabel({last: last - 1, last - 1: last}.get(label.axis, label.axis), label.inner)


def reversed_axes(labels: Labels, node: fx.Node) -> Label:
    """All axes in the other order."""
    label = labels.of(node.args[0])
    return None if label is None else AxisLabel(rank(node) - 1 - label.axis, label.inner)


def expand(labels: Labels, node: fx.Node) -> Label:
    """Copies on new axes in front or on axes of size 1; repeated entries are the outer part of their axis."""
    label = labels.of(node.args[0])
    return None if label is None else AxisLabel(label.axis + rank(node) - rank(node.args[0]), label.inner)


def unsqueeze(labels: Labels, node: fx.Node) -> Label:
    """A new axis of size 1."""
    label = labels.of(node.args[0])
    if label is None:
        return None
    axis = int(argument(node, "dim")) % rank(node)
    return AxisLabel(label.axis + (axis <= label.axis), label.inner)


def squeeze(labels: Labels, node: fx.Node) -> Label:
    """Without some of the axes of size 1."""
    source = operands(node)[0]
    label = labels.of(source)
    if label is None:
        return None
    wanted = operands(node)[1] if len(node.args) > 1 else list(range(rank(source)))
    listed = [wanted] if isinstance(wanted, int) else list(wanted)
    gone = [int(axis) % rank(source) for axis in listed if value(source).shape[axis] == 1]
    return AxisLabel(label.axis - sum(axis < label.axis for axis in gone), label.inner)


def slice_(labels: Labels, node: fx.Node) -> Label:
    """Some of an axis."""
    label = labels.of(node.args[0])
    if label is not None and label.axis == int(argument(node, "dim")) % rank(node):
        raise labels.mixes(node, "takes some of the {} out, counted from the first or the last")
    return label


def select(labels: Labels, node: fx.Node) -> Label:
    """One of an axis."""
    label = labels.of(node.args[0])
    if label is None:
        return None
    axis = int(argument(node, "dim")) % rank(node.args[0])
    if label.axis == axis:
        raise labels.mixes(node, "takes one of the {} out, counted from the first or the last")
    return AxisLabel(label.axis - (axis < label.axis), label.inner)


def cat(labels: Labels, node: fx.Node) -> Label:
    """Values joined along an axis."""
    label = _one_label(labels, node, "joins values with and without {}")
    if label is not None and label.axis == int(argument(node, "dim")) % rank(node):
        raise labels.mixes(node, "joins values along the axis of the {}")
    return label


def stack(labels: Labels, node: fx.Node) -> Label:
    """Values joined along a new axis."""
    label = _one_label(labels, node, "stacks values with and without {}")
    axis = int(argument(node, "dim")) % rank(node)
    return None if label is None else AxisLabel(label.axis + (axis <= label.axis), label.inner)


def _one_label(labels: Labels, node: fx.Node, otherwise: str) -> AxisLabel | None:
    parts: Any = node.args[0]
    found = {labels.of(part) for part in parts}
    if len(found) != 1:
        raise labels.mixes(node, otherwise)
    return found.pop()


def pad(labels: Labels, node: fx.Node) -> Label:
    """Numbers beside the first and the last of an axis."""
    label = labels.of(node.args[0])
    amounts = list(argument(node, "pad"))
    if label is not None:
        behind = rank(node) - 1 - label.axis
        if any(amount != 0 for amount in amounts[2 * behind : 2 * behind + 2]):
            raise labels.mixes(node, "moves the {} along their axis by padding it")
    return label


def getitem(labels: Labels, node: fx.Node) -> Label:
    """One of several values."""
    parts = labels.parts(node.args[0])
    return parts[int(operands(node)[1])] if isinstance(parts, tuple) else parts
