"""One rule an op that only moves elements: where its output's tokens stand, or the error that it mixes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import sympy
import torch
from torch import fx

from burnish.ir.ops import burnish_ops
from burnish.passes.analyses.token_label import Label, TokenAxis, size_expression

if TYPE_CHECKING:
    from burnish.passes.analyses.token_axis import TokenAxes

aten = torch.ops.aten

Rule = Callable[["TokenAxes", fx.Node], Label]


def _reshape(axes: TokenAxes, node: fx.Node) -> Label:
    source = node.args[0]
    assert isinstance(source, fx.Node)
    label = axes.of(source)
    if label is None:
        return None
    before, after = source.meta["val"].shape, node.meta["val"].shape
    wanted = axes.suffix(before, label.axis) * label.inner
    for axis, size in enumerate(after):
        expression = size_expression(size)
        if axes.symbol not in expression.free_symbols:
            continue
        inner = sympy.simplify(wanted / axes.suffix(after, axis))
        outer = sympy.simplify(expression / (axes.symbol * inner))
        if inner.is_integer is False or axes.symbol in outer.free_symbols or axes.symbol in inner.free_symbols:
            break
        whole = sympy.denom(sympy.together(inner)) == 1 and sympy.denom(sympy.together(outer)) == 1
        if not whole:
            break
        return TokenAxis(axis, inner)
    raise axes.mixes(node, f"reads {tuple(before)} as {tuple(after)}, which puts parts of different tokens together")


def _same(axes: TokenAxes, node: fx.Node) -> Label:
    return axes.of(node.args[0])  # type: ignore[arg-type]


def _permute(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if label is None:
        return None
    rank = axes.rank(node)
    order = [int(axis) % rank for axis in node.args[1]]  # type: ignore[union-attr, arg-type]
    return TokenAxis(order.index(label.axis), label.inner)


def _transpose(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if label is None:
        return None
    rank = axes.rank(node)
    first, second = (int(axis) % rank for axis in (node.args[1:] or (0, 1)))  # type: ignore[arg-type]
    swapped = {first: second, second: first}
    return TokenAxis(swapped.get(label.axis, label.axis), label.inner)


def _expand(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if label is None:
        return None
    return TokenAxis(label.axis + axes.rank(node) - axes.rank(node.args[0]), label.inner)  # type: ignore[arg-type]


def _unsqueeze(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if label is None:
        return None
    axis = int(node.args[1]) % axes.rank(node)  # type: ignore[arg-type]
    return TokenAxis(label.axis + (axis <= label.axis), label.inner)


def _squeeze(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if label is None:
        return None
    rank = axes.rank(node.args[0])  # type: ignore[arg-type]
    wanted = node.args[1] if len(node.args) > 1 else list(range(rank))
    listed = [wanted] if isinstance(wanted, int) else list(wanted)  # type: ignore[arg-type]
    gone = [int(axis) % rank for axis in listed if node.args[0].meta["val"].shape[axis] == 1]  # type: ignore[union-attr]
    return TokenAxis(label.axis - sum(axis < label.axis for axis in gone), label.inner)


def argument_of(node: fx.Node, index: int, name: str, default: Any) -> Any:
    """An argument by its place or its name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _slice(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    axis = int(argument_of(node, 1, "dim", 0)) % axes.rank(node)
    if label is not None and label.axis == axis:
        raise axes.mixes(node, "takes some tokens out, counted from the start or the end of the sequence")
    return label


def _select(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if label is None:
        return None
    axis = int(node.args[1]) % axes.rank(node.args[0])  # type: ignore[arg-type]
    if label.axis == axis:
        raise axes.mixes(node, "takes one token out, counted from the start or the end of the sequence")
    return TokenAxis(label.axis - (axis < label.axis), label.inner)


def _cat(axes: TokenAxes, node: fx.Node) -> Label:
    parts = node.args[0]
    found = {axes.of(part) for part in parts}  # type: ignore[union-attr, arg-type]
    label = next((each for each in found if each is not None), None)
    if label is None:
        return None
    axis = int(argument_of(node, 1, "dim", 0)) % axes.rank(node)
    if len(found) != 1 or label.axis == axis:
        raise axes.mixes(node, "joins values along the tokens' axis")
    return label


def _stack(axes: TokenAxes, node: fx.Node) -> Label:
    found = {axes.of(part) for part in node.args[0]}  # type: ignore[union-attr, arg-type]
    if len(found) != 1:
        raise axes.mixes(node, "stacks values with and without tokens")
    label = found.pop()
    axis = int(argument_of(node, 1, "dim", 0)) % axes.rank(node)
    return None if label is None else TokenAxis(label.axis + (axis <= label.axis), label.inner)


def _pad(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    amounts = list(node.args[1])  # type: ignore[arg-type]
    rank = axes.rank(node)
    if label is not None:
        behind = rank - 1 - label.axis
        if any(amount != 0 for amount in amounts[2 * behind : 2 * behind + 2]):
            raise axes.mixes(node, "moves tokens along their axis by padding it")
    return label


VIEW_RULES: dict[Any, Rule] = {
    burnish_ops.rms_norm.default: _same,
    burnish_ops.positions.default: _same,
    burnish_ops.causal_conv1d.default: _same,
    burnish_ops.shift.default: _same,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.flatten.using_ints: _reshape,
    aten.unflatten.int: _reshape,
    aten.view_as.default: _reshape,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.t.default: _transpose,
    aten.expand.default: _expand,
    aten.expand_as.default: _expand,
    aten.unsqueeze.default: _unsqueeze,
    aten.squeeze.dim: _squeeze,
    aten.squeeze.dims: _squeeze,
    aten.squeeze.default: _squeeze,
    aten.slice.Tensor: _slice,
    aten.narrow.default: _slice,
    aten.select.int: _select,
    aten.cat.default: _cat,
    aten.stack.default: _stack,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.view_as_complex.default: _same,
    aten.view_as_real.default: _same,
    aten.contiguous.default: _same,
    aten.clone.default: _same,
    aten._to_copy.default: _same,
    aten.to.dtype: _same,
    aten.type_as.default: _same,
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.repeat.default: _expand,  # repeated tokens stay apart: copies are the outer part of the axis
}
