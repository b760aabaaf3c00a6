"""How an op's block of rows is computed from blocks of its arguments: a rule for each op or kind of op.

A rule gives entries `start` to `stop` along `axis` of the node's value, or None where it cannot say.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from burnish.ir.program import operands
from burnish.passes.analyses.position_only import FILLS

if TYPE_CHECKING:
    from burnish.passes.analyses.position_blocks import PositionBlocks

    Rule = Callable[[PositionBlocks, fx.Node, int, int, int], Tensor | None]

aten = torch.ops.aten

# Elementwise, but not tagged so by torch.
_ELEMENTWISE = {
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
    aten.where.Scalar,
    aten.masked_fill.Tensor,
    aten.floor_divide.default,
    aten.isin.Tensor_Scalar,
    aten.__and__.Scalar,
    aten.__and__.Tensor,
    aten.__or__.Scalar,
    aten.__or__.Tensor,
    aten._to_copy.default,
    aten.to.dtype,
    aten.type_as.default,
    aten.contiguous.default,
}
# Elementwise in one argument, by its place; each entry reads the other tensors whole.
_READERS: dict[Any, int] = {
    aten.embedding.default: 1,
    aten.take.default: 1,
    aten.isin.Tensor_Tensor: 0,
    aten.bucketize.Tensor: 0,
}
# These read entries from all over a tensor.
GATHERS = {aten.index.Tensor, aten.gather.default, *_READERS}


def _elementwise(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
    shape = blocks.narrowed(node, axis, start, stop)
    rank = len(shape)
    operands = {
        given: blocks.aligned(given, rank, axis, start, stop)
        for given in node.all_input_nodes
        if isinstance(given.meta.get("val"), Tensor)
    }
    for each in range(-rank, 0):  # where all operands repeat themselves, one entry stands for all
        along = [value for value in operands.values() if value.dim() >= -each]
        if all(value.shape[each] == 1 or value.stride(each) == 0 for value in along):
            operands = {
                given: value.narrow(each, 0, 1) if value.dim() >= -each else value for given, value in operands.items()
            }
    value: Tensor = blocks.call(node, operands)
    return value.expand(shape)


def _fill(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
    target = node.target
    assert isinstance(target, torch._ops.OpOverload)
    if "empty" in target._schema.name:
        return None  # its entries are whatever was there
    shape = blocks.narrowed(node, axis, start, stop)
    first = target._schema.arguments[0].name
    ones = [1] * len(shape)
    place = next((place for place, given in enumerate(target._schema.arguments) if given.name == "size"), None)
    arguments = [ones if at == place else given for at, given in enumerate(node.args)]
    if first == "self":  # read for its dtype alone
        arguments[0] = torch.empty(ones, dtype=operands(node)[0].meta["val"].dtype)
    args, kwargs = fx.map_arg((tuple(arguments), node.kwargs), blocks.argument)
    value: Tensor = target(*args, **kwargs)
    return value.expand(shape)


def _view(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
    """A block of a view, which is found from where the view's entries lie in what it is a view of.

    Along one axis of the source (`own`) the block is a range of it, or an arithmetic sequence.
    """
    viewed: fx.Node = operands(node)[0] if node.target is operator.getitem else node
    source = viewed.args[0]
    if not isinstance(source, fx.Node) or not isinstance(viewed.target, torch._ops.OpOverload):
        return None

    def view_of(value: Tensor) -> Any:
        out = blocks.call(viewed, {source: value})
        return out[node.args[1]] if node.target is operator.getitem else out

    if blocks.is_small(source):
        found: Tensor = view_of(blocks.whole(source)).narrow(axis, start, stop - start)
        return found
    shape = blocks.shape(source)
    plain = torch.empty(shape, dtype=source.meta["val"].dtype, device="meta")
    view = view_of(plain)
    if view._base is not plain or view.dtype != plain.dtype or view.numel() == 0:
        return None
    places = _places(view, plain)
    if places is None or (place := places[axis]) is None:
        return None
    own, step = place
    first = [(view.storage_offset() // plain.stride(each)) % size for each, size in enumerate(shape)]
    spanning = False
    for each, place in enumerate(places):
        if place is None or each == axis:
            continue
        last = first[place[0]] + (view.shape[each] - 1) * place[1]
        spans = last >= shape[place[0]]
        reach = (first[place[0]] * plain.stride(place[0])) + (view.shape[each] - 1) * view.stride(each)
        if place[0] == own or (spans and place[0] > own and reach >= plain.stride(own)):
            return None  # the block is not a range of one axis of the source
        spanning = spanning or spans
    if first[own] + (view.shape[axis] - 1) * step >= shape[own]:
        return None
    block = blocks.part(source, own, first[own] + start * step, first[own] + (stop - 1) * step + 1)
    block = block.contiguous() if spanning else block
    first[own] = 0
    offset = block.storage_offset() + sum(index * block.stride(each) for each, index in enumerate(first))
    strides = [0 if place is None else place[1] * block.stride(place[0]) for place in places]
    return block.as_strided(blocks.narrowed(node, axis, start, stop), strides, offset)


def _read(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
    index = operands(node)[_READERS[node.target]]
    if not isinstance(index, fx.Node) or axis >= len(blocks.shape(index)):
        return None
    entries = blocks.part(index, axis, start, stop)
    value: Tensor = blocks.call(node, {index: entries})
    return value


def _places(view: Tensor, plain: Tensor) -> list[tuple[int, int] | None] | None:
    """For each axis of a view of `plain`, the axis that it walks along and the step; None for one of a single place.

    None in place of the list where an axis walks along two at once, as a diagonal does.
    """
    places: list[tuple[int, int] | None] = []
    for size, stride in zip(view.shape, view.stride(), strict=True):
        if size == 1 or stride == 0:
            places.append(None)
            continue
        walked = [
            (axis, stride // plain.stride(axis))
            for axis in range(plain.dim())
            if plain.shape[axis] > 1
            and stride % plain.stride(axis) == 0
            and plain.stride(axis) <= stride < plain.stride(axis) * plain.shape[axis]
        ]
        if len(walked) != 1:
            return None
        places.append(walked[0])
    return places


def _triangle(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
    rank = len(blocks.shape(node))
    source = node.args[0]
    assert isinstance(source, fx.Node)
    diagonal = node.args[1] if len(node.args) > 1 else node.kwargs.get("diagonal", 0)
    diagonal = blocks.argument(diagonal) if isinstance(diagonal, fx.Node) else diagonal
    assert isinstance(diagonal, int)
    moved = start if axis == rank - 2 else -start if axis == rank - 1 else 0
    assert isinstance(node.target, torch._ops.OpOverload)
    value: Tensor = node.target(blocks.part(source, axis, start, stop), diagonal + moved)
    return value


def _index(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
    source, indices = operands(node)[:2]
    places = [place for place, index in enumerate(indices) if index is not None]
    given: list[fx.Node] = [index for index in indices if index is not None]
    if not isinstance(source, fx.Node) or any(index.meta["val"].dtype in (torch.bool, torch.uint8) for index in given):
        return None
    rank = max(len(blocks.shape(index)) for index in given)
    ahead = places[0] if places == list(range(places[0], places[-1] + 1)) else 0
    if ahead <= axis < ahead + rank:  # along the indices: each entry reads for itself
        cut = {index: blocks.aligned(index, rank, axis - ahead, start, stop) for index in given}
        values = [None if index is None else cut[index] for index in indices]
        value: Tensor = aten.index.Tensor(blocks.whole(source), values)
        return value
    kept = [place for place in range(len(blocks.shape(source))) if place not in places]
    own = kept[axis if axis < ahead else axis - rank]
    cut_source = blocks.part(source, own, start, stop)
    value = aten.index.Tensor(cut_source, [None if index is None else blocks.whole(index) for index in indices])
    return value


def _gather(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
    source, dim, index = node.args[:3]
    assert isinstance(source, fx.Node)
    assert isinstance(index, fx.Node)
    assert isinstance(dim, int)
    along = dim % len(blocks.shape(source)) == axis
    cut = blocks.whole(source) if along else blocks.part(source, axis, start, stop)
    value: Tensor = aten.gather.default(cut, dim, blocks.part(index, axis, start, stop))
    return value


def _join(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
    parts: list[fx.Node] = list(operands(node)[0])
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    assert isinstance(dim, int)
    dim %= len(blocks.shape(node))
    if dim != axis:
        return torch.cat([blocks.part(part, axis, start, stop) for part in parts], dim)
    pieces, ahead = [], 0
    for part in parts:
        size = blocks.shape(part)[axis]
        low, high = max(start - ahead, 0), min(stop - ahead, size)
        if low < high:
            whole = (low, high) == (0, size) and size == 1
            pieces.append(blocks.whole(part) if whole else blocks.part(part, axis, low, high))
        ahead += size
    return torch.cat(pieces, dim)


def _stack(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
    parts: list[fx.Node] = list(operands(node)[0])
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    assert isinstance(dim, int)
    dim %= len(blocks.shape(node))
    if dim == axis:
        return None
    return torch.stack([blocks.part(part, axis - (axis > dim), start, stop) for part in parts], dim)


def _repeat(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
    source, repeats = operands(node)[:2]
    assert isinstance(source, fx.Node)
    own = axis - (len(repeats) - len(blocks.shape(source)))
    if own < 0 or repeats[axis] != 1:
        return None
    value: Tensor = blocks.call(node, {source: blocks.part(source, own, start, stop)})
    return value


def _product(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
    first, second = node.args
    assert isinstance(first, fx.Node)
    assert isinstance(second, fx.Node)
    rank = len(blocks.shape(node))
    if first is second or min(len(blocks.shape(first)), len(blocks.shape(second))) < 2 or axis < rank - 2:
        return None
    cut, own = (first, len(blocks.shape(first)) - 2) if axis == rank - 2 else (second, len(blocks.shape(second)) - 1)
    value: Tensor = blocks.call(node, {cut: blocks.part(cut, own, start, stop)})
    return value


def _on_other_axes(place: int) -> Rule:
    """For an op that works along the axes in argument `place` alone, and leaves the order of the others."""

    def rule(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
        source, given = node.args[0], node.args[place] if len(node.args) > place else None
        assert isinstance(source, fx.Node)
        rank = len(blocks.shape(source))
        axes = [given] if isinstance(given, int) else given
        if not isinstance(axes, list | tuple) or not axes:
            return None  # all of them
        along = {int(each) % rank for each in axes}
        rest = [each for each in range(rank) if each not in along]
        own = axis if len(blocks.shape(node)) == rank else rest[axis]
        if own in along:
            return None
        value: Tensor = blocks.call(node, {source: blocks.part(source, own, start, stop)})
        return value

    return rule


_RULES: dict[Any, Rule] = {
    aten.repeat.default: _repeat,
    aten.matmul.default: _product,
    aten.mm.default: _product,
    aten.bmm.default: _product,
    aten.cumsum.default: _on_other_axes(1),
    aten.flip.default: _on_other_axes(1),
    aten.roll.default: _on_other_axes(2),
    aten.sum.dim_IntList: _on_other_axes(1),
    aten.any.dim: _on_other_axes(1),
    aten.all.dim: _on_other_axes(1),
    aten.amax.default: _on_other_axes(1),
    aten.amin.default: _on_other_axes(1),
    aten.tril.default: _triangle,
    aten.triu.default: _triangle,
    aten.index.Tensor: _index,
    aten.gather.default: _gather,
    aten.cat.default: _join,
    aten.stack.default: _stack,
}


def rule_of(target: Any) -> Rule | None:
    """The rule for an op, by its name or by what it says of itself; None if there is none."""
    if target is operator.getitem:
        return _view
    if target in FILLS:
        return _fill
    if target in _RULES or not isinstance(target, torch._ops.OpOverload):
        return _RULES.get(target)
    if target in _ELEMENTWISE or torch.Tag.pointwise in target.tags:
        return _elementwise
    if target in _READERS:
        return _read
    is_view = target._schema.returns[0].alias_info is not None and target is not aten.as_strided.default
    return _view if is_view else None
