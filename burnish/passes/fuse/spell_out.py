"""What a generated kernel has no formula for is spelled in operations that it has: then it is fused like any other.

Joins along a new axis, repeated elements, norms and variances of rows, the largest of a row with its place, means and
matrix products over a few, masked writes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from burnish.ir.arguments import arguments
from burnish.ir.edit import Editor, remove_dead
from burnish.ir.fused_group import MOST_FOLDED
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, value
from burnish.ir.shapes import same_shape
from burnish.ir.weights import Stored
from burnish.passes.base import Effect, Log
from burnish.rewrite.engine import Lookalike, Refusal

aten = torch.ops.aten


@dataclass(frozen=True)
class SpellOut:
    """stack, repeat, var, vector norm, max, clamp by tensors, index_put, short mean and matmul -> what groups have."""

    name: ClassVar[str] = "spell-out"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Spell these out in `program`, in place."""
        editor = Editor(program)
        for node in list(program.graph.nodes):
            spell = _SPELLINGS.get(node.target)
            if spell is None or not node.users:
                continue
            try:
                with editor.before(node):
                    spelled = spell(editor, node)
            except Lookalike:
                continue
            except Refusal as refusal:
                log.refuse(node, refusal.reason)
                continue
            if spelled is not None:
                editor.replace(node, spelled)
            log.rewrite(node, _TOLD[node.target])
        remove_dead(program)
        return program


def _stack(editor: Editor, node: fx.Node) -> fx.Node:
    """Joined along an axis of 1, that each gets."""
    given = arguments(node)
    axis = given["dim"] % value(node).dim()
    parts = [editor.call(aten.unsqueeze.default, each, axis, like=node) for each in given["tensors"]]
    return parts[0] if len(parts) == 1 else editor.call(aten.cat.default, parts, axis, like=node)


def _repeat(editor: Editor, node: fx.Node) -> fx.Node:
    """Copies of an axis of 1 as an expansion; of a longer one as an axis of their own in front, which joins it."""
    given = arguments(node)
    x, repeats = given["self"], list(given["repeats"])
    for _ in range(len(repeats) - value(x).dim()):
        x = editor.call(aten.unsqueeze.default, x, 0, like=node)
    wide: list[int] = []
    joined: list[Any] = []
    source = x
    for axis, (size, count) in reversed(list(enumerate(zip(value(x).shape, repeats, strict=True)))):
        wide[:0] = [-1] if count == 1 else [count] if size == 1 else [count, -1]
        if count != 1 and size != 1:
            x = editor.call(aten.unsqueeze.default, x, axis, like=node)
        result = value(node).shape[axis]
        if not isinstance(result, int) and count == 1:
            result = editor.call(aten.sym_size.int, source, axis, like=node)
        joined.insert(0, -1 if isinstance(result, torch.SymInt) else result)
    if joined.count(-1) > 1:
        raise Refusal("it repeats several axes of sizes that are not known ahead", node)
    x = editor.call(aten.expand.default, x, wide, like=node)
    return x if len(wide) == len(repeats) else editor.call(aten.reshape.default, x, joined, like=node)


def _variance(editor: Editor, node: fx.Node) -> fx.Node:
    """sum((x - mean)^2) / (size - correction)."""
    given = arguments(node)
    size = _row_size(node, given["dim"])
    correction = given["correction"] if "correction" in given else int(given["unbiased"])
    count = max(0, size - (1 if correction is None else correction))
    mean = editor.call(aten.mean.dim, given["self"], [-1], True, like=node)
    deviation = editor.call(aten.sub.Tensor, given["self"], mean, like=node)
    square = editor.call(aten.mul.Tensor, deviation, deviation, like=node)
    total = editor.call(aten.sum.dim_IntList, square, [-1], bool(given["keepdim"]), like=node)
    return editor.call(aten.div.Tensor, total, float(count), like=node)


def _vector_norm(editor: Editor, node: fx.Node) -> fx.Node:
    """sqrt(sum(x^2))."""
    given = arguments(node)
    _row_size(node, given["dim"])
    if given["ord"] != 2 or given["dtype"] is not None:
        raise Refusal(f"a vector norm of order {given['ord']}, in {given['dtype']}", node)
    square = editor.call(aten.mul.Tensor, given["self"], given["self"], like=node)
    total = editor.call(aten.sum.dim_IntList, square, [-1], given["keepdim"], like=node)
    return editor.call(aten.sqrt.default, total, like=node)


def _every_expert(editor: Editor, node: fx.Node) -> fx.Node:
    """x[E, N, K] by stored weights [E, K, M]: experts, each of which all tokens choose."""
    given = arguments(node)
    x, weight = given["self"], given["mat2"]
    if weight.op != "get_attr" or value(weight).dtype != value(x).dtype:
        raise Refusal("a product of values that are computed, a matrix at a time", node)
    numbers = editor.weight("numbers_of_experts", Stored(torch.arange(value(weight).shape[0])))
    count = editor.call(aten.sym_size.int, x, 1, like=node)
    experts = editor.call(aten.expand.default, numbers, [count, -1], like=node)
    by_tokens = editor.call(aten.transpose.int, x, 0, 1, like=node)
    by_outputs = editor.call(aten.transpose.int, weight, 1, 2, like=node)
    products = editor.call(burnish_ops.moe_linear.default, by_tokens, by_outputs, None, experts, like=node)
    return editor.call(aten.transpose.int, products, 0, 1, like=node)


def _full(editor: Editor, node: fx.Node) -> fx.Node:
    """One number, stored once, as an expansion."""
    given = arguments(node)
    shape: list[Any] = list(value(node).shape)
    for axis, size in enumerate(shape):
        if not isinstance(size, int):
            shape[axis] = editor.call(aten.sym_size.int, given["self"], axis, like=node)
    number = torch.full((), given["fill_value"], dtype=value(node).dtype)
    stored = editor.weight(f"number_{given['fill_value']}", Stored(number))
    return editor.call(aten.expand.default, stored, shape, like=node)


def _largest(editor: Editor, node: fx.Node) -> None:
    """The largest of a row, and where it is, each by itself: the one of them that is read, or both."""
    given = arguments(node)
    x, keepdim = given["self"], given["keepdim"]
    _row_size(node, [given["dim"]])
    if not value(x).is_floating_point():
        raise Refusal("the largest of whole numbers", node)
    for item in list(node.users):
        if item.args[1] == 0:
            found = editor.call(aten.amax.default, x, [-1], keepdim, like=node)
        else:
            found = editor.call(aten.argmax.default, x, -1, keepdim, like=node)
        editor.replace(item, found)


def _clamp(editor: Editor, node: fx.Node) -> fx.Node:
    """The larger of x and the least, the smaller of that and the most."""
    given = arguments(node)
    x: fx.Node = given["self"]
    for bound, target in (("min", aten.maximum.default), ("max", aten.minimum.default)):
        if given[bound] is not None:
            x = editor.call(target, x, given[bound], like=node)
    return x


def _mean(editor: Editor, node: fx.Node) -> fx.Node:
    """The mean over a short axis that is not the last one, as a sum of a few."""
    given = arguments(node)
    x = given["self"]
    dims = given["dim"] or []
    axes = [dim % value(x).dim() for dim in dims]
    if axes == [value(x).dim() - 1]:
        raise Lookalike("groups have the mean of a row", node)
    size = value(x).shape[axes[0]] if len(axes) == 1 else None
    if not isinstance(size, int) or size > MOST_FOLDED or given["dtype"] is not None:
        raise Refusal(f"a mean over {dims}, not over up to {MOST_FOLDED} along one axis", node)
    total = editor.call(aten.sum.dim_IntList, x, axes, given["keepdim"], like=node)
    return editor.call(aten.div.Tensor, total, float(size), like=node)


def _matmul(editor: Editor, node: fx.Node) -> fx.Node:
    """A product of [..., N, K] and [..., K, M] with few K and M: the sum of K products of a column and a row."""
    given = arguments(node)
    first, second = value(given["self"]), value(given["other"])
    if first.dim() < 2 or first.dim() != second.dim():
        raise Refusal(f"a product of values with {first.dim()} and {second.dim()} axes", node)
    if not all(isinstance(size, int) and size <= MOST_FOLDED for size in second.shape[-2:]):
        raise Refusal(f"a product by more than {MOST_FOLDED} x {MOST_FOLDED} values that are computed", node)
    columns = editor.call(aten.unsqueeze.default, given["self"], -1, like=node)
    rows = editor.call(aten.unsqueeze.default, given["other"], -3, like=node)
    products = editor.call(aten.mul.Tensor, columns, rows, like=node)
    return editor.call(aten.sum.dim_IntList, products, [value(products).dim() - 2], like=node)


def _masked_write(editor: Editor, node: fx.Node) -> fx.Node:
    """x[mask] = number: where(mask, number, x)."""
    given = arguments(node)
    x, indices, number = given["self"], given["indices"], given["values"]
    mask = indices[0] if len(indices) == 1 else None
    if mask is None or value(mask).dtype != torch.bool or not same_shape(value(mask).shape, value(x).shape):
        raise Refusal("it writes at places that are counted, not at those of one mask of its shape", node)
    if value(number).dim() != 0 or value(number).dtype != value(x).dtype or given["accumulate"]:
        raise Refusal("what it writes is not one number of its own type", node)
    return editor.call(aten.where.self, mask, number, x, like=node)


def _row_size(node: fx.Node, dims: Any) -> int:
    """The size of the last axis of what `node` reads; Refusal unless `dims` are that axis and it is known ahead."""
    source = value(arguments(node)["self"])
    rank, size = source.dim(), source.shape[-1]
    if not isinstance(dims, list | tuple) or [dim % rank for dim in dims] != [rank - 1] or not isinstance(size, int):
        raise Refusal(f"it goes over the axes {dims}, not over a last one of a size that is known ahead", node)
    return size


_SPELLINGS: dict[Any, Callable[[Editor, fx.Node], fx.Node | None]] = {
    aten.bmm.default: _every_expert,
    aten.clamp.Tensor: _clamp,
    aten.full_like.default: _full,
    aten.index_put.default: _masked_write,
    aten.linalg_vector_norm.default: _vector_norm,
    aten.matmul.default: _matmul,
    aten.max.dim: _largest,
    aten.mean.dim: _mean,
    aten.repeat.default: _repeat,
    aten.stack.default: _stack,
    aten.var.correction: _variance,
    aten.var.dim: _variance,
}
_TOLD = {
    aten.bmm.default: "a matrix product for each expert as experts that all tokens choose",
    aten.clamp.Tensor: "bounds as the larger and the smaller of two",
    aten.full_like.default: "one number everywhere as an expansion",
    aten.index_put.default: "a write at the places of a mask as a choice",
    aten.linalg_vector_norm.default: "a vector norm as the root of a sum of squares",
    aten.matmul.default: "a product over a few as a sum of products",
    aten.max.dim: "the largest and its place, each by itself",
    aten.mean.dim: "a mean over a few as a sum",
    aten.repeat.default: "repeated elements as an expansion",
    aten.stack.default: "a stack as a join",
    aten.var.correction: "a variance as a mean of squares",
    aten.var.dim: "a variance as a mean of squares",
}
