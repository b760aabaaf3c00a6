"""Blocks of rows of what depends on positions alone, without ever holding tokens x tokens.

A mask over 8,192 tokens has 67 million entries, and none of them is known to be like another until it is looked at.
Here rows `start` to `stop` of a value are computed from the rows of its arguments that they need: the walk goes from
the value backwards. What has tokens on one axis at most is computed whole, once. An op that no rule here covers is
computed whole where that fits into memory, and refused by name otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.errors import UnsupportedError
from burnish.ir.program import describe
from burnish.ir.shapes import is_batch
from burnish.passes.analyses.block_rules import GATHERS, rule_of
from burnish.passes.analyses.position_only import PositionOnly, sequence_axes

SMALL = 2**20  # entries: values up to this are computed whole, whatever their axes
WHOLE = 2**24  # entries: so are those up to this, where there is no other way
GATHER_COST = 8  # reading by an index takes as long as this many other ops (measured)


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
            return self.part(node, axis, start, stop)

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
        wide = [node for node in self.positions.ancestors(targets) if not self.is_small(node)]
        return sum(GATHER_COST if node.target in GATHERS else 1 for node in wide)

    def vectors(self, targets: list[fx.Node]) -> list[Tensor]:
        """The values with tokens on one axis that `targets` are computed from, the tokens last."""
        found = []
        for node in self.positions.ancestors(targets):
            value = node.meta.get("val")
            if isinstance(value, Tensor) and self.is_small(node) and not self._is_wide(node):
                axes = [axis for axis, size in enumerate(self.shape(node)) if size == self.length]
                found += [self.whole(node).movedim(axis, -1) for axis in axes[:1] if self.length > 1]
        return found

    # ------------------------------------------------------------ what is computed whole

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

    def is_small(self, node: fx.Node) -> bool:
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

    # ------------------------------------------------------------ for the rules

    def part(self, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
        """A block of an axis that has more than one entry, computed once for what `block` was asked for."""
        key = (node, axis, start, stop)
        if key not in self._blocks:
            rule = None if node in self._wholes or self.is_small(node) else rule_of(node.target)
            found = None
            if rule is not None:
                try:
                    found = rule(self, node, axis, start, stop)
                except (RuntimeError, IndexError) as error:  # of an op that was given these rows
                    raise self.positions.not_computed(node, self.length, error) from error
            value = self.whole(node).narrow(axis, start, stop - start) if found is None else found
            if list(value.shape) != self.narrowed(node, axis, start, stop):
                raise self._misshapen(node, value)
            self._blocks[key] = value
        return self._blocks[key]

    def narrowed(self, node: fx.Node, axis: int, start: int, stop: int) -> list[int]:
        """The shape of a block."""
        shape = list(self.shape(node))
        shape[axis] = stop - start
        return shape

    def argument(self, node: fx.Node) -> Any:
        """What an argument is worth: a size as a number, a tensor whole."""
        value = node.meta.get("val")
        return self.whole(node) if isinstance(value, Tensor) else self.positions.size(value, self.batch, self.length)

    def call(self, node: fx.Node, known: Mapping[fx.Node, Tensor]) -> Any:
        """The node's op on what its arguments are worth, those of `known` as told there."""

        def argument(given: fx.Node) -> Any:
            return known[given] if given in known else self.argument(given)

        args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def aligned(self, node: fx.Node, rank: int, axis: int, start: int, stop: int) -> Tensor:
        """The block of an operand that broadcasts to `rank` axes, of which `axis` is the one that is cut."""
        shape = self.shape(node)
        own = axis - (rank - len(shape))
        return self.whole(node) if own < 0 or shape[own] == 1 else self.part(node, own, start, stop)
