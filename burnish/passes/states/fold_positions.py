"""What depends on position alone becomes a table that is read by position.

Rotary cosines and sines, learned and sinusoidal position embeddings, position-dependent scales: however they were
written, they are evaluated once at the maximum length, checked to be the same at shorter lengths, and read with
`burnish::lookup`. Where the graph that computes them makes each row from its position alone, the table is kept as that
formula, checked to give the very same rows, and takes no room.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.ops import burnish_ops
from burnish.ir.position_table import PositionTable, stored_bytes
from burnish.ir.program import Program, describe
from burnish.ir.shapes import is_batch, is_sequence
from burnish.ir.weights import Stored, Weight, nbytes
from burnish.passes.analyses.position_formula import NoFormula, formula_of
from burnish.passes.analyses.position_only import FILLS, PositionOnly, sequence_axes
from burnish.passes.base import Effect, Log

aten = torch.ops.aten

_COMPARED = 2**27  # entries of shorter tables that are compared with the longest, at most
_CONSTANT_BYTES = 2**20  # larger ones stay expressions over their weights
_CHECKED_ROWS = 2**16  # of a formula, each of whose lines is proved to keep rows apart, so many are compared


class NotATable(Exception):
    """Why a position-only value cannot become a table."""


@dataclass(frozen=True)
class FoldPositions:
    """Position-only values -> burnish::lookup(table, burnish::positions(tokens))."""

    name: ClassVar[str] = "fold-positions"
    effect: ClassVar[Effect] = Effect.EXACT
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Fold each position-only value that meets data, in place."""
        folder = _Folder(program, log)
        remove_dead(program)
        for node in [node for node in program.graph.nodes if folder.is_small_constant(node)]:
            folder.fold_constant(node)
        frontier = [node for node in program.graph.nodes if folder.meets_data(node)]
        for node in frontier:
            try:
                folder.fold(node)
            except NotATable as reason:
                log.refuse(node, str(reason))
        remove_dead(program)
        return program


def shorter_lengths(longest: int) -> list[int]:
    """Lengths below `longest` that a table of positions must not depend on: all up to 64, both sides of the powers of
    two, and some that are drawn, the same ones each time.
    """
    powers = [2**power + near for power in range(6, longest.bit_length()) for near in (-1, 0, 1)]
    drawn = random.Random(longest).sample(range(longest), min(16, longest))
    return sorted({each for each in (*range(1, 65), *powers, *drawn, longest - 1) if 0 < each < longest})


class _Folder:
    def __init__(self, program: Program, log: Log) -> None:
        self.program = program
        self.log = log
        self.known = PositionOnly(program)
        self.editor = Editor(program)
        self.positions: fx.Node | None = None
        self.tables: list[tuple[Weight, fx.Node]] = []
        self.kept: dict[fx.Node, str] = {}  # how the table of a node is, in words

    def meets_data(self, node: fx.Node) -> bool:
        """Whether `node` is position-only, depends on a size, and is read by something that is not."""
        return (
            node in self.known
            and self.known.is_sized(node)
            and node.target not in FILLS
            and isinstance(node.meta.get("val"), Tensor)
            and any(user not in self.known for user in node.users)
        )

    def is_small_constant(self, node: fx.Node) -> bool:
        """Whether `node` is computed from weights alone, is read by something that is not, and is small."""
        val = node.meta.get("val")
        if node.op != "call_function" or node not in self.known or self.known.is_sized(node):
            return False
        if not isinstance(val, Tensor) or val.numel() * val.dtype.itemsize > _CONSTANT_BYTES:
            return False
        return any(user not in self.known or self.known.is_sized(user) for user in node.users)

    def fold_constant(self, node: fx.Node) -> None:
        """What is computed from weights alone, computed now."""
        value: Tensor = self.known.evaluate([node], 1, 1)[0]
        weight = self.editor.weight(node.name, Stored(value.contiguous()))
        self.known.nodes.add(weight)
        self.editor.replace(node, weight)
        self.log.rewrite(node, "constant")

    def fold(self, node: fx.Node) -> None:
        axes = sequence_axes(self.program, node)
        if len(axes) > 1:
            raise NotATable("it has tokens on more than one axis, and no attention that it could be the mask of")
        if not axes:
            self._fold_constant(node)
            return
        axis = axes[0]
        if not is_sequence(self.program, node.meta["val"].shape[axis]):
            raise NotATable(f"its axis {axis} has size {node.meta['val'].shape[axis]}, not one entry a token")
        users = [user for user in node.users if user not in self.known]
        made: dict[tuple[int, int], fx.Node] = {}
        for user in users:
            rank, slot = self._batch_slot(node, axis, user)
            if (rank, slot) not in made:
                made[rank, slot] = self._lookup(node, axis, rank, slot)
            user.replace_input_with(node, made[rank, slot])
        table = next(iter(made.values()))
        self.log.rewrite(node, f"table of positions, read as {table.name}; {self.kept[node]}")

    # ------------------------------------------------------------ values

    def _values(self, node: fx.Node, axis: int, batch_axis: int | None, longest: int) -> Tensor:
        """The node's value for `longest` tokens, one row of the batch; checked to be the same at shorter lengths."""
        full: Tensor = self.known.evaluate([node], 1, longest)[0]
        compared = 0
        for length in shorter_lengths(longest):
            compared += full.numel() // longest * length
            if compared > _COMPARED:
                break
            short: Tensor = self.known.evaluate([node], 2, length)[0]
            if batch_axis is not None:
                if not torch.equal(short.select(batch_axis, 0), short.select(batch_axis, 1)):
                    raise NotATable("it differs between the rows of a batch")
                short = short.narrow(batch_axis, 0, 1)
            if not torch.allclose(short, full.narrow(axis, 0, length), rtol=1e-6, atol=0, equal_nan=True):
                raise NotATable(
                    f"its first {length} entries are others at {length} tokens than at {longest}: it depends on the "
                    "total length"
                )
        return full

    def _rows(self, node: fx.Node, axis: int, batch_axis: int | None) -> Weight:
        """The node's value as a table [max_length, ...] of the other axes in their order, one row of the batch."""
        longest = self.program.signature.max_length
        try:
            table = formula_of(self.program, self.known, node, longest)
        except NoFormula as reason:
            self.kept[node] = f"stored, since {reason}"
            return Stored(self._values(node, axis, batch_axis, longest).movedim(axis, 0).contiguous())
        count = min(longest, _CHECKED_ROWS)
        values = self._values(node, axis, batch_axis, count).movedim(axis, 0)
        stored = 2 * stored_bytes(table) > nbytes(table)
        if stored or not torch.equal(table.first(count).nan_to_num(), values.nan_to_num()):
            why = "takes as much room" if stored else "gives other numbers"
            self.kept[node] = f"stored, since its formula {why}"
            return Stored(self._values(node, axis, batch_axis, longest).movedim(axis, 0).contiguous())
        self.kept[node] = "kept as a formula"
        return table

    def _fold_constant(self, node: fx.Node) -> None:
        """A value that has no token axis: it must not depend on the sizes at all."""
        shape = node.meta["val"].shape
        if any(isinstance(size, torch.SymInt) for size in shape):
            batch_axes = [axis for axis, size in enumerate(shape) if is_batch(self.program, size)]
            if len(batch_axes) != 1 or sum(isinstance(size, torch.SymInt) for size in shape) != 1:
                raise NotATable("its shape depends on the batch in a way not handled")
            one: Tensor = self.known.evaluate([node], 1, 5)[0]
            for place, length in enumerate(shorter_lengths(self.program.signature.max_length)):
                many: Tensor = self.known.evaluate([node], 2 + place % 3, length)[0]
                if not torch.equal(one.expand_as(many), many):
                    raise NotATable("it depends on the total length or differs between rows")
            self._broadcast_constant(node, one)
            return
        longest = self.program.signature.max_length
        lengths = [*shorter_lengths(longest), longest]
        values: list[Tensor] = [self.known.evaluate([node], 1, length)[0] for length in lengths]
        if not all(torch.equal(values[0], other) for other in values[1:]):
            raise NotATable("it depends on the total length")
        self.editor.replace(node, self.editor.weight(node.name, Stored(values[0].contiguous())))
        self.log.rewrite(node, "constant")

    def _broadcast_constant(self, node: fx.Node, value: Tensor) -> None:
        """A constant with a batch axis: kept as one row, expanded in the graph."""
        weight = self.editor.weight(node.name, Stored(value.contiguous()))
        with self.editor.before(node):
            batch = self.editor.call(aten.sym_size.int, self.program.tokens, 0, like=node)
            sizes: list[Any] = [batch if is_batch(self.program, size) else size for size in node.meta["val"].shape]
            expanded = self.editor.call(aten.expand.default, weight, sizes, like=node)
        self.editor.replace(node, expanded)
        self.log.rewrite(node, "constant, the same for each row")

    # ------------------------------------------------------------ graph

    def _batch_slot(self, node: fx.Node, axis: int, user: fx.Node) -> tuple[int, int]:
        """The rank that `node`'s value needs to meet `user`'s, and the axis on which the batch stands then."""
        shape = node.meta["val"].shape
        own = [index for index, size in enumerate(shape) if is_batch(self.program, size)]
        if own:
            return len(shape), own[0]
        val = user.meta.get("val")
        result = val if isinstance(val, Tensor) else None
        if result is None:
            raise NotATable(f"it is read by {describe(user)}, which gives no tensor")
        if not (isinstance(user.target, torch._ops.OpOverload) and _broadcasts(user.target)):
            raise NotATable(f"it has no batch axis and is read by {describe(user)}, which does not broadcast")
        batch = [index for index, size in enumerate(result.shape) if is_batch(self.program, size)]
        if not batch:
            raise NotATable(f"{describe(user)} has no batch axis to read positions by")
        rank = max(len(shape), result.dim())
        slot = batch[0] + rank - result.dim()
        shift = rank - len(shape)
        if slot >= shift and shape[slot - shift] != 1:
            raise NotATable(f"it meets the batch of {describe(user)} with an axis of size {shape[slot - shift]}")
        return rank, slot

    def _lookup(self, node: fx.Node, axis: int, rank: int, slot: int) -> fx.Node:
        """`node` read by position, of rank `rank` with the batch on axis `slot`."""
        shape = node.meta["val"].shape
        shift = rank - len(shape)
        batch_axis = slot - shift if slot >= shift else None
        table = self._rows(node, axis, batch_axis if is_own_batch(self.program, shape, batch_axis) else None)
        axis += shift
        rest = [index for index in range(rank) if index not in (axis, slot)]
        sizes = [1] * shift + [size if isinstance(size, int) else 1 for size in shape]
        table = _reshaped(table, [sizes[index] for index in rest])
        with self.editor.before(node):
            looked_up = self.editor.call(
                burnish_ops.lookup.default, self._table(node, table), self._positions(node), like=node
            )
            order = [0] * rank
            order[slot], order[axis] = 0, 1
            for place, index in enumerate(rest):
                order[index] = place + 2
            if order == list(range(rank)):
                return looked_up
            return self.editor.call(aten.permute.default, looked_up, order, like=node)

    def _table(self, node: fx.Node, table: Weight) -> fx.Node:
        for known, weight in self.tables:
            if _same(known, table):
                return weight
        weight = self.editor.weight(f"{node.name}_table", table)
        self.tables.append((table, weight))
        return weight

    def _positions(self, like: fx.Node) -> fx.Node:
        if self.positions is None:
            first = next(n for n in self.program.graph.nodes if n.op not in ("placeholder", "get_attr"))
            with self.editor.before(first):
                self.positions = self.editor.call(
                    burnish_ops.positions.default, self.program.tokens, like=self.program.tokens, name="positions"
                )
        return self.positions


def _reshaped(table: Weight, sizes: list[int]) -> Weight:
    """The table with rows of these sizes."""
    if isinstance(table, PositionTable):
        return table if list(table.row) == sizes else table.with_rows(sizes)
    return Stored(table.materialize().reshape(table.shape[0], *sizes))


def _same(one: Weight, two: Weight) -> bool:
    """Whether two tables are equal; a formula and what is stored are not compared."""
    if isinstance(one, PositionTable) or isinstance(two, PositionTable):
        return isinstance(one, PositionTable) and one.same(two)
    first, second = one.materialize(), two.materialize()
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second)


def is_own_batch(program: Program, shape: Any, axis: int | None) -> bool:
    """Whether the value itself has the batch on that axis (and not a 1 that broadcasts)."""
    return axis is not None and is_batch(program, shape[axis])


def _broadcasts(target: torch._ops.OpOverload) -> bool:
    return torch.Tag.pointwise in target.tags or target is burnish_ops.rotary.default
