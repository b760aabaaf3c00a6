"""Translations of ATen ops that move elements and compute none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.builder import Size, origin_of_size
from burnish.codegen.onnx.context import Arguments, Context, Heads, Result, Translate, dtype_of, shape_of
from burnish.ir.errors import UnsupportedError
from burnish.ir.program import describe
from burnish.ir.shapes import same_shape, same_size

aten = torch.ops.aten
_END = 2**63 - 1


def _same(c: Context, node: fx.Node, a: Arguments) -> Result:
    return c.results[next(iter(a.values()))]


_RESHAPES = (
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
)


def _reshape(c: Context, node: fx.Node, a: Arguments) -> Result:
    source: fx.Node = a["self"]
    after = shape_of(node)
    while source.target in _RESHAPES:  # of a view of a view, only the last counts
        source = source.all_input_nodes[0]
        if same_shape(shape_of(source), after):
            return c.value(source)
    source = a["self"]
    value, before = c.value(source), shape_of(source)
    heads = c.heads(value)
    if heads is not None and not heads.first and len(after) == 3 and same_shape(before[:2], after[:2]):
        return heads.joined
    result = c.reshape(value, before, after)
    if len(before) == 3 and len(after) == 4 and same_shape(before[:2], after[:2]):
        count, size = after[2:]
        if isinstance(count, int) and isinstance(size, int):
            c.remember_heads(result, Heads(value, False, count, size))
    return result


def _permute_to(c: Context, source: fx.Node, order: list[int]) -> ir.Value:
    """The value of `source` with its axes in `order`; heads that were split off and are joined again cost nothing."""
    value = c.value(source)
    if order == sorted(order):
        return value
    heads = c.heads(value) or _heads_of(c, value, shape_of(source))
    if order != [0, 2, 1, 3] or heads is None:
        return c.builder.op("Transpose", value, perm=order)
    return c.split_heads(heads.joined, heads.count, heads.size, first=not heads.first)


def _heads_of(c: Context, value: ir.Value, shape: Sequence[Size]) -> Heads | None:
    """The heads of any value that has the shape [B, S, H, D]: joining them is a view."""
    if len(shape) != 4 or isinstance(shape[1], int):
        return None
    count, size = shape[2:]
    if not isinstance(count, int) or not isinstance(size, int):
        return None
    joined = c.builder.op("Reshape", value, c.builder.constant([0, 0, count * size]))
    return Heads(joined, False, count, size)


def _transpose(c: Context, node: fx.Node, a: Arguments) -> Result:
    rank = len(shape_of(node))
    order = list(range(rank))
    first, second = a["dim0"] % rank, a["dim1"] % rank
    order[first], order[second] = second, first
    return _permute_to(c, a["self"], order)


def _permute(c: Context, node: fx.Node, a: Arguments) -> Result:
    rank = len(shape_of(node))
    return _permute_to(c, a["self"], [axis % rank for axis in a["dims"]])


def _turn_last_two(c: Context, node: fx.Node, a: Arguments) -> Result:
    order = list(range(len(shape_of(node))))
    order[-2:] = reversed(order[-2:])
    return _permute_to(c, a["self"], order)


def _expand(c: Context, node: fx.Node, a: Arguments) -> Result:
    source: fx.Node = a["self"]
    value, before, after = c.value(source), shape_of(source), shape_of(node)
    if same_shape(before, after):
        return value
    added = len(after) - len(before)
    # 1 stands for "as it was": only the sizes that change are looked up.
    sizes = [1 if axis >= added and same_size(size, before[axis - added]) else size for axis, size in enumerate(after)]
    return c.builder.op("Expand", value, c.builder.shape(sizes))


def _unsqueeze(c: Context, node: fx.Node, a: Arguments) -> Result:
    value, shape, axis = c.value(a["self"]), shape_of(a["self"]), a["dim"] % len(shape_of(node))
    result = c.unsqueeze(value, axis)
    if len(shape) == 3 and axis in (1, 2) and isinstance(shape[2], int):
        c.remember_heads(result, Heads(value, axis == 1, 1, shape[2]))  # one head
    return result


def _squeeze(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    before = shape_of(a["self"])
    chosen = a.get("dim", range(len(before)))
    chosen = [chosen] if isinstance(chosen, int) else list(chosen)
    axes = [axis % len(before) for axis in chosen if same_size(before[axis], 1)]
    if len(axes) != len(before) - len(shape_of(node)):  # the trace found that a symbolic size is one
        axes = [axis % len(before) for axis in chosen if not isinstance(before[axis], int) or before[axis] == 1]
        if len(axes) != len(before) - len(shape_of(node)):
            raise UnsupportedError(f"{describe(node)} takes away some of the axes of sizes that are not numbers")
    value = c.value(a["self"])
    heads = c.heads(value)
    if heads is not None and axes == [1 if heads.first else 2]:
        return heads.joined
    return c.builder.op("Squeeze", value, c.builder.constant(axes)) if axes else value


def _slice_along(c: Context, value: ir.Value, axis: int, start: ir.Value, end: ir.Value, step: int = 1) -> ir.Value:
    steps = None if step == 1 else c.builder.constant([step])
    return c.builder.op("Slice", value, start, end, c.builder.constant([axis]), steps)


def _bound(c: Context, argument: Any, default: int) -> ir.Value | None:
    """A bound of a slice as int64[1]."""
    if argument is None:
        return c.builder.constant([default])
    size = origin_of_size(argument)
    return None if size is None else c.builder.size(size)


def _slice(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    value, before, after = c.value(a["self"]), shape_of(a["self"]), shape_of(node)
    axis = a["dim"] % len(before)
    if a["step"] == 1 and same_size(before[axis], after[axis]):
        return value
    start, end = _bound(c, a["start"], 0), _bound(c, a["end"], _END)
    if start is None or end is None:
        return None
    heads = c.heads(value)
    if heads is not None and axis == 3:
        part = _slice_along(c, c.apart(heads), axis, start, end, a["step"])
        return c.regroup(part, heads, int(after[axis]))
    return _slice_along(c, value, axis, start, end, a["step"])


def _narrow(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    start, length = origin_of_size(a["start"]), origin_of_size(a["length"])
    if start is None or length is None or (isinstance(start, int) and start < 0):
        return None
    axis = a["dim"] % len(shape_of(node))
    return _slice_along(c, c.value(a["self"]), axis, c.builder.size(start), c.builder.size(start + length))


def _select(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    index = origin_of_size(a["index"])
    if index is None:
        return None
    axis = a["dim"] % len(shape_of(a["self"]))
    return c.builder.op("Gather", c.value(a["self"]), c.builder.scalar(index), axis=axis)


def _index_select(c: Context, node: fx.Node, a: Arguments) -> Result:
    return c.builder.op("Gather", c.value(a["self"]), c.value(a["index"]), axis=a["dim"] % len(shape_of(node)))


def _index(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """Indexing by one tensor of numbers."""
    axes = [axis for axis, index in enumerate(a["indices"]) if index is not None]
    if len(axes) != 1 or dtype_of(a["indices"][axes[0]]) not in (torch.int64, torch.int32):
        return None
    return c.builder.op("Gather", c.value(a["self"]), c.value(a["indices"][axes[0]]), axis=axes[0])


def _gather(c: Context, node: fx.Node, a: Arguments) -> Result:
    axis = a["dim"] % max(1, len(shape_of(a["self"])))
    return c.builder.op("GatherElements", c.value(a["self"]), c.value(a["index"]), axis=axis)


def _scatter(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """One update for each index; a number is spread over them."""
    index: fx.Node = a["index"]
    updates = c.tensor(a.get("src", a.get("value")), dtype_of(node))
    if "value" in a:
        updates = c.builder.op("Expand", updates, c.builder.shape(shape_of(index)))
    elif not same_shape(shape_of(a["src"]), shape_of(index)):
        return None
    axis = a["dim"] % max(1, len(shape_of(node)))
    return c.builder.op("ScatterElements", c.value(a["self"]), c.value(index), updates, axis=axis)


def _cat(c: Context, node: fx.Node, a: Arguments) -> Result:
    parts = [part for part in a["tensors"] if shape_of(part) != (0,)]  # torch lets [0] stand for nothing at all
    values = [c.tensor(part, dtype_of(node)) for part in parts]
    axis = a["dim"] % len(shape_of(node))
    if len(values) == 1:
        return values[0]
    known = [heads for value in values if (heads := c.heads(value)) is not None]
    if len(known) == len(values) and axis == 3 and len({(heads.first, heads.count) for heads in known}) == 1:
        together = c.builder.op("Concat", *(c.apart(heads) for heads in known), axis=axis)
        return c.regroup(together, known[0], sum(heads.size for heads in known))
    return c.builder.op("Concat", *values, axis=axis)


def _stack(c: Context, node: fx.Node, a: Arguments) -> Result:
    axis = a["dim"] % len(shape_of(node))
    values = [c.unsqueeze(c.tensor(part, dtype_of(node)), axis) for part in a["tensors"]]
    return c.builder.op("Concat", *values, axis=axis)


def _split(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """All forms of split and chunk: the sizes are those of the results."""
    parts: list[torch.Tensor] = list(node.meta["val"])
    axis = a["dim"] % parts[0].dim()
    sizes = [part.shape[axis] for part in parts]
    if len(sizes) == 1:
        return [c.value(a["self"])]
    heads = c.heads(c.value(a["self"]))
    if heads is not None and axis == 3:
        shape = c.builder.constant(sizes)
        pieces = c.builder.ops("Split", c.apart(heads), shape, count=len(sizes), axis=axis)
        return [c.regroup(piece, heads, int(size)) for piece, size in zip(pieces, sizes, strict=True)]
    return list(c.builder.ops("Split", c.value(a["self"]), c.builder.shape(sizes), count=len(sizes), axis=axis))


def _unbind(c: Context, node: fx.Node, a: Arguments) -> Result:
    count = len(node.meta["val"])
    axis = a["dim"] % len(shape_of(a["self"]))
    return [c.builder.op("Gather", c.value(a["self"]), c.builder.constant(index), axis=axis) for index in range(count)]


def _repeat(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    sizes = [origin_of_size(size) for size in a["repeats"]]
    if any(size is None for size in sizes):
        return None
    value, before = c.value(a["self"]), shape_of(a["self"])
    padded = (1,) * (len(sizes) - len(before)) + before
    value = c.reshape(value, before, padded)
    return c.builder.op("Tile", value, c.builder.shape([size for size in sizes if size is not None]))


def _repeat_interleave(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    before = shape_of(a["self"])
    if a["dim"] is None or not isinstance(a["repeats"], int):
        return None
    axis = a["dim"] % len(before)
    wide = [1] * (len(before) + 1)
    wide[axis + 1] = a["repeats"]
    apart = c.builder.op("Expand", c.unsqueeze(c.value(a["self"]), axis + 1), c.builder.constant(wide))
    return c.reshape(apart, (*before[: axis + 1], a["repeats"], *before[axis + 1 :]), shape_of(node))


def _embedding(c: Context, node: fx.Node, a: Arguments) -> Result:
    return c.builder.op("Gather", c.value(a["weight"]), c.value(a["indices"]), axis=0)


def _cast(c: Context, node: fx.Node, a: Arguments) -> Result:
    source: fx.Node = a["self"]
    return c.cast(c.value(source), dtype_of(source), dtype_of(node))


def getitem(c: Context, node: fx.Node) -> ir.Value:
    """One of the tensors of a list."""
    source, index = node.args
    assert isinstance(source, fx.Node)
    assert isinstance(index, int)
    parts = c.results[source]
    assert isinstance(parts, list)
    return parts[index]


VIEWS: dict[Any, Translate] = {
    **dict.fromkeys(
        (
            aten.alias.default,
            aten.clone.default,
            aten.contiguous.default,
            aten.detach.default,
            aten.detach_.default,
            aten.dropout.default,
            aten.lift_fresh_copy.default,
        ),
        _same,
    ),
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys((aten.transpose.int, aten.swapaxes.default), _transpose),
    aten.permute.default: _permute,
    **dict.fromkeys((aten.t.default, aten.mT.default, aten.numpy_T.default), _turn_last_two),
    **dict.fromkeys((aten.expand.default, aten.broadcast_to.default, aten.expand_as.default), _expand),
    aten.unsqueeze.default: _unsqueeze,
    **dict.fromkeys((aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims), _squeeze),
    aten.slice.Tensor: _slice,
    aten.narrow.default: _narrow,
    aten.select.int: _select,
    aten.index_select.default: _index_select,
    aten.index.Tensor: _index,
    aten.gather.default: _gather,
    aten.scatter.src: _scatter,
    aten.scatter.value: _scatter,
    **dict.fromkeys((aten.cat.default, aten.concat.default, aten.concatenate.default), _cat),
    aten.stack.default: _stack,
    **dict.fromkeys(
        (
            aten.split.Tensor,
            aten.split.sizes,
            aten.split_with_sizes.default,
            aten.chunk.default,
            aten.tensor_split.sections,
        ),
        _split,
    ),
    aten.unbind.int: _unbind,
    aten.repeat.default: _repeat,
    aten.repeat_interleave.self_int: _repeat_interleave,
    aten.embedding.default: _embedding,
    **dict.fromkeys(
        (
            aten._to_copy.default,
            aten.to.device,
            aten.to.dtype,
            aten.to.dtype_layout,
            aten.to.other,
            aten.type_as.default,
        ),
        _cast,
    ),
}
