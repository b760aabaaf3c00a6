"""Blocks of rows of what depends on positions alone, without ever holding tokens x tokens.

A mask over 8,192 tokens has 67 million entries, and none of them is known to be like another until it is looked at.
Here rows `start` to `stop` of a value are computed from the rows of its arguments that they need: the walk goes from
the value backwards. What has tokens on one axis at most is computed whole, once. An op that no rule here covers is
computed whole where that fits into memory, and refused by name otherwise.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.errors import UnsupportedError
from burnish.ir.program import describe
from burnish.passes.analyses.position_only import FILLS, PositionOnly, is_batch, sequence_axes

aten = torch.ops.aten

SMALL = 2**20  # entries: values up to this are computed whole, whatever their axes
WHOLE = 2**24  # entries: so are those up to this, where there is no other way
GATHER_COST = 8  # reading by an index takes as long as this many other ops (measured)

# Elementwise, but not tagged so by torch.
_ELEMENTWISE = {
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
    aten.where.Scalar,
    aten.masked_fill.Tensor,
    aten.floor_divide.default,
    aten.isin.Tensor_Scalar,
    aten._to_copy.default,
    aten.to.dtype,
    aten.type_as.default,
    aten.contiguous.default,
}
# Elementwise in one argument, by its place; each entry reads the other tensors whole.
_READERS = {
    aten.embedding.default: 1,
    aten.take.default: 1,
    aten.isin.Tensor_Tensor: 0,
    aten.bucketize.Tensor: 0,
}


class PositionBlocks:
    """Values of position-only nodes for `batch` rows of `length` tokens, a block of an axis at a time.

    A tensor that is given has the shape that the program says. An axis along which it is known to repeat itself (the
    batch, mostly) has stride 0, and what is computed from it is computed once.
    """

    def __init__(self, positions: PositionOnly, batch: int, length: int, small: int = SMALL, whole: int = WHOLE):
        self.positions = positions
        self.batch = batch
        self.length = length
        self._small = small
        self._largest = whole
        self._wholes: dict[fx.Node, Tensor] = {}
        self._wide: dict[fx.Node, bool] = {}
        self._fitting: dict[fx.Node, bool] = {}
        self._shapes: dict[fx.Node, tuple[int, ...]] = {}
        self._blocks: dict[tuple[fx.Node, int, int, int], Tensor] = {}  # of the one that is asked for

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """The shape of a node's value."""
        if node not in self._shapes:
            sizes = node.meta["val"].shape
            self._shapes[node] = tuple(int(self.positions.size(size, self.batch, self.length)) for size in sizes)
        return self._shapes[node]

    def block(self, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
        """Entries `start` to `stop` along `axis` of a node's value; all of them where the axis has size 1."""
        self._blocks.clear()
        with torch.no_grad():
            if self.shape(node)[axis] == 1:
                return self.whole(node)
            return self._block(node, axis, start, stop)

    def whole(self, node: fx.Node) -> Tensor:
        """A node's value. UnsupportedError where it, or what it is computed from, does not fit into memory."""
        if node not in self._wholes:
            if not self._fits(node):
                raise UnsupportedError(
                    f"{describe(node)} depends on positions alone, and nothing is known of how {node.target} computes "
                    f"some of its rows from some of its arguments', while all of them for {self.length} tokens do not "
                    "fit into memory: compile with a smaller max_length"
                )
            value = self.positions.evaluate([node], self.batch, self.length)[0]
            self._wholes[node] = self._repeating(node, value)
        return self._wholes[node]

    def cost(self, targets: list[fx.Node]) -> int:
        """How many ops each entry of `targets` takes that is not computed whole."""
        wide = [node for node in self.positions.ancestors(targets) if not self._is_small(node)]
        return sum(GATHER_COST if node.target in (aten.index.Tensor, *_READERS) else 1 for node in wide)

    def vectors(self, targets: list[fx.Node]) -> list[Tensor]:
        """The values with tokens on one axis that `targets` are computed from, the tokens last."""
        found = []
        for node in self.positions.ancestors(targets):
            value = node.meta.get("val")
            if isinstance(value, Tensor) and self._is_small(node) and not self._is_wide(node):
                axes = [axis for axis, size in enumerate(self.shape(node)) if size == self.length]
                found += [self.whole(node).movedim(axis, -1) for axis in axes[:1] if self.length > 1]
        return found

    # ------------------------------------------------------------ which way

    def _count(self, node: fx.Node) -> int:
        value = node.meta.get("val")
        return torch.Size(self.shape(node)).numel() if isinstance(value, Tensor) else 1

    def _is_wide(self, node: fx.Node) -> bool:
        """Whether a value has tokens on more than one axis."""
        if node not in self._wide:
            shape = self.shape(node) if isinstance(node.meta.get("val"), Tensor) else ()
            self._wide[node] = sum(shape[axis] > 1 for axis in sequence_axes(self.positions.program, node)) > 1
        return self._wide[node]

    def _fits(self, node: fx.Node) -> bool:
        """Whether a value, and all that it is computed from, can be held whole."""
        if node not in self._fitting:
            calls = [each for each in self.positions.ancestors([node]) if each.op == "call_function"]
            self._fitting[node] = not any(self._count(each) > self._largest and self._is_wide(each) for each in calls)
        return self._fitting[node]

    def _is_small(self, node: fx.Node) -> bool:
        """Whether a value is computed whole where a block of it is wanted."""
        if node.op != "call_function":
            return True  # a weight is there already
        return (self._count(node) <= self._small or not self._is_wide(node)) and self._fits(node)

    def _repeating(self, node: fx.Node, value: Any) -> Any:
        """`value` with stride 0 on each axis of the batch along which it repeats itself."""
        if not isinstance(value, Tensor):
            return value
        if tuple(value.shape) != self.shape(node):
            raise self._misshapen(node, value)
        for axis, size in enumerate(node.meta["val"].shape):
            if is_batch(self.positions.program, size) and self.batch > 1:
                first = value.narrow(axis, 0, 1)
                if torch.equal(first.expand_as(value), value):
                    value = first.expand_as(value)
        return value

    def _misshapen(self, node: fx.Node, value: Tensor) -> UnsupportedError:
        found = f"it has a shape of {list(value.shape)}, not {list(self.shape(node))}"
        return self.positions.not_computed(node, self.length, found)

    def _block(self, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
        key = (node, axis, start, stop)
        if key not in self._blocks:
            found = None
            if node not in self._wholes and not self._is_small(node):
                try:
                    found = self._by_rule(node, axis, start, stop)
                except (RuntimeError, IndexError) as error:  # of an op that was given these rows
                    raise self.positions.not_computed(node, self.length, error) from error
            value = self.whole(node).narrow(axis, start, stop - start) if found is None else found
            if list(value.shape) != self._narrowed(node, axis, start, stop):
                raise self._misshapen(node, value)
            self._blocks[key] = value
        return self._blocks[key]

    def _narrowed(self, node: fx.Node, axis: int, start: int, stop: int) -> list[int]:
        shape = list(self.shape(node))
        shape[axis] = stop - start
        return shape

    # ------------------------------------------------------------ rules

    def _by_rule(self, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
        """The block computed from blocks of the arguments; None if no rule says how."""
        target = node.target
        if target is operator.getitem:
            return self._view(node, axis, start, stop)
        if not isinstance(target, torch._ops.OpOverload):
            return None
        if target in FILLS:
            return self._fill(node, axis, start, stop)
        if target in _ELEMENTWISE or torch.Tag.pointwise in target.tags:
            return self._elementwise(node, axis, start, stop)
        if target in _READERS:
            return self._read(node, axis, start, stop)
        rule = _RULES.get(target)
        if rule is not None:
            return rule(self, node, axis, start, stop)
        if target._schema.returns[0].alias_info is not None and target is not aten.as_strided.default:
            return self._view(node, axis, start, stop)
        return None

    def _argument(self, node: fx.Node) -> Any:
        """What an argument is worth: a size as a number, a tensor whole."""
        value = node.meta.get("val")
        return self.whole(node) if isinstance(value, Tensor) else self.positions.size(value, self.batch, self.length)

    def _call(self, node: fx.Node, known: Mapping[fx.Node, Tensor]) -> Any:
        """The node's op on what its arguments are worth, those of `known` as told there."""

        def argument(given: fx.Node) -> Any:
            return known[given] if given in known else self._argument(given)

        args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _aligned(self, node: fx.Node, rank: int, axis: int, start: int, stop: int) -> Tensor:
        """The block of an operand that broadcasts to `rank` axes, of which `axis` is the one that is cut."""
        shape = self.shape(node)
        own = axis - (rank - len(shape))
        return self.whole(node) if own < 0 or shape[own] == 1 else self._block(node, own, start, stop)

    def _elementwise(self, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
        shape = self._narrowed(node, axis, start, stop)
        rank = len(shape)
        operands = {
            given: self._aligned(given, rank, axis, start, stop)
            for given in node.all_input_nodes
            if isinstance(given.meta.get("val"), Tensor)
        }
        for each in range(-rank, 0):  # where all operands repeat themselves, one entry stands for all
            along = [value for value in operands.values() if value.dim() >= -each]
            if all(value.shape[each] == 1 or value.stride(each) == 0 for value in along):
                operands = {
                    given: value.narrow(each, 0, 1) if value.dim() >= -each else value
                    for given, value in operands.items()
                }
        value: Tensor = self._call(node, operands)
        return value.expand(shape)

    def _fill(self, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
        target = node.target
        assert isinstance(target, torch._ops.OpOverload)
        if "empty" in target._schema.name:
            return None  # its entries are whatever was there
        shape = self._narrowed(node, axis, start, stop)
        first = target._schema.arguments[0].name
        ones = [1] * len(shape)
        place = next((place for place, given in enumerate(target._schema.arguments) if given.name == "size"), None)
        arguments = [ones if at == place else given for at, given in enumerate(node.args)]
        if first == "self":  # read for its dtype alone
            arguments[0] = torch.empty(ones, dtype=node.args[0].meta["val"].dtype)  # type: ignore[union-attr]
        args, kwargs = fx.map_arg((tuple(arguments), node.kwargs), self._argument)
        value: Tensor = target(*args, **kwargs)
        return value.expand(shape)

    def _view(self, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
        """A block of a view, which is found from where the view's entries lie in what it is a view of.

        Along one axis of the source (`own`) the block is a range of it, or an arithmetic sequence.
        """
        viewed: fx.Node = node.args[0] if node.target is operator.getitem else node  # type: ignore[assignment]
        source = viewed.args[0]
        if not isinstance(source, fx.Node) or not isinstance(viewed.target, torch._ops.OpOverload):
            return None

        def view_of(value: Tensor) -> Any:
            out = self._call(viewed, {source: value})
            return out[node.args[1]] if node.target is operator.getitem else out

        if self._is_small(source):
            found: Tensor = view_of(self.whole(source)).narrow(axis, start, stop - start)
            return found
        shape = self.shape(source)
        plain = torch.empty(shape, dtype=source.meta["val"].dtype, device="meta")
        view = view_of(plain)
        if (
            view.untyped_storage()._cdata != plain.untyped_storage()._cdata
            or view.dtype != plain.dtype
            or view.numel() == 0
        ):
            return None
        places = _places(view, plain)
        if places is None or places[axis] is None:
            return None
        own, step = places[axis]  # type: ignore[misc]
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
        block = self._block(source, own, first[own] + start * step, first[own] + (stop - 1) * step + 1)
        block = block.contiguous() if spanning else block
        first[own] = 0
        offset = block.storage_offset() + sum(index * block.stride(each) for each, index in enumerate(first))
        strides = [0 if place is None else place[1] * block.stride(place[0]) for place in places]
        return block.as_strided(self._narrowed(node, axis, start, stop), strides, offset)

    def _read(self, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
        index = node.args[_READERS[node.target]]  # type: ignore[index]
        if not isinstance(index, fx.Node) or axis >= len(self.shape(index)):
            return None
        entries = self._block(index, axis, start, stop)
        value: Tensor = self._call(node, {index: entries})
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
    diagonal = blocks._argument(diagonal) if isinstance(diagonal, fx.Node) else diagonal
    assert isinstance(diagonal, int)
    moved = start if axis == rank - 2 else -start if axis == rank - 1 else 0
    assert isinstance(node.target, torch._ops.OpOverload)
    value: Tensor = node.target(blocks._block(source, axis, start, stop), diagonal + moved)
    return value


def _index(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
    source, indices = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    places = [place for place, index in enumerate(indices) if index is not None]
    given: list[fx.Node] = [index for index in indices if index is not None]
    if not isinstance(source, fx.Node) or any(index.meta["val"].dtype in (torch.bool, torch.uint8) for index in given):
        return None
    rank = max(len(blocks.shape(index)) for index in given)
    ahead = places[0] if places == list(range(places[0], places[-1] + 1)) else 0
    if ahead <= axis < ahead + rank:  # along the indices: each entry reads for itself
        cut = {index: blocks._aligned(index, rank, axis - ahead, start, stop) for index in given}
        values = [None if index is None else cut[index] for index in indices]
        value: Tensor = aten.index.Tensor(blocks.whole(source), values)
        return value
    kept = [place for place in range(len(blocks.shape(source))) if place not in places]
    own = kept[axis if axis < ahead else axis - rank]
    cut_source = blocks._block(source, own, start, stop)
    value = aten.index.Tensor(cut_source, [None if index is None else blocks.whole(index) for index in indices])
    return value


def _gather(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
    source, dim, index = node.args[:3]
    assert isinstance(source, fx.Node)
    assert isinstance(index, fx.Node)
    assert isinstance(dim, int)
    along = dim % len(blocks.shape(source)) == axis
    cut = blocks.whole(source) if along else blocks._block(source, axis, start, stop)
    value: Tensor = aten.gather.default(cut, dim, blocks._block(index, axis, start, stop))
    return value


def _join(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
    parts: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    assert isinstance(dim, int)
    dim %= len(blocks.shape(node))
    if dim != axis:
        return torch.cat([blocks._block(part, axis, start, stop) for part in parts], dim)
    pieces, ahead = [], 0
    for part in parts:
        size = blocks.shape(part)[axis]
        low, high = max(start - ahead, 0), min(stop - ahead, size)
        if low < high:
            whole = (low, high) == (0, size) and size == 1
            pieces.append(blocks.whole(part) if whole else blocks._block(part, axis, low, high))
        ahead += size
    return torch.cat(pieces, dim)


def _stack(blocks: PositionBlocks, node: fx.Node, axis: int, start: int, stop: int) -> Tensor | None:
    parts: list[fx.Node] = list(node.args[0])  # type: ignore[arg-type]
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    assert isinstance(dim, int)
    dim %= len(blocks.shape(node))
    if dim == axis:
        return None
    return torch.stack([blocks._block(part, axis - (axis > dim), start, stop) for part in parts], dim)


_Rule = Callable[[PositionBlocks, fx.Node, int, int, int], Tensor | None]
_RULES: dict[Any, _Rule] = {
    aten.tril.default: _triangle,
    aten.triu.default: _triangle,
    aten.index.Tensor: _index,
    aten.gather.default: _gather,
    aten.cat.default: _join,
    aten.stack.default: _stack,
}
