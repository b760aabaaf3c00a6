"""The states of a running batch: what one step leaves for the next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from burnish.ir.dtypes import BYTES
from burnish.ir.states import State, StateKind
from burnish.runtime.memory import Memory

_LEAST_ALIGNMENT = 16  # what kernels for GPUs are compiled for


class States:
    """The tensors of all states of a batch, with room for `capacity` tokens, as their `memory` makes them.

    A CACHE is one buffer, read and written in place. Every other state is two, a past and a present, that change
    places after each step: a graph may read such a state after it wrote the new one. Where the executor itself sees to
    that, `in_place`, they are one, too.
    """

    def __init__(
        self,
        specs: Sequence[State],
        batch: int,
        capacity: int,
        memory: Memory,
        past: tuple[Any, ...],
        present: tuple[Any, ...],
    ) -> None:
        self.specs = tuple(specs)
        self.batch = batch
        self.capacity = capacity
        self.memory = memory
        self.past = past
        self.present = present
        self.parity = 0  # 1 while the two buffers are in each other's place
        self._swaps = any(before is not after for before, after in zip(past, present, strict=True))

    @staticmethod
    def allocate(
        specs: Sequence[State],
        batch: int,
        capacity: int,
        memory: Memory,
        in_place: bool = False,
    ) -> States:
        """The states before the first token."""
        shapes = [spec.concrete_shape(batch, capacity) for spec in specs]
        size = sum(math.prod(shape) * BYTES[spec.dtype_name] for shape, spec in zip(shapes, specs, strict=True))
        with memory.room(f"the states of {batch} rows of {capacity} tokens", size):
            past = tuple(memory.zeros(shape, spec.dtype_name) for shape, spec in zip(shapes, specs, strict=True))
            present = tuple(
                tensor
                if in_place or spec.kind is StateKind.CACHE
                else memory.empty(tuple(tensor.shape), spec.dtype_name)
                for spec, tensor in zip(specs, past, strict=True)
            )
        return States(specs, batch, capacity, memory, past, present)

    @property
    def named(self) -> dict[str, Any]:
        """What the next step reads, by the names of the states."""
        return {spec.name: tensor for spec, tensor in zip(self.specs, self.past, strict=True)}

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(
            before.nbytes + (0 if after is before else after.nbytes)
            for before, after in zip(self.past, self.present, strict=True)
        )

    def advance(self) -> None:
        """What was written becomes the past of the next step."""
        if self._swaps:
            self.past, self.present = self.present, self.past
            self.parity = 1 - self.parity

    def row(self, row: int) -> States:
        """One row as states of its own: after steps on them, `accept` them.

        In the same memory, but for a row that begins where kernels, which are compiled for aligned ones, cannot read.
        """
        past = tuple(self._aligned(before[row : row + 1]) for before in self.past)
        present = tuple(
            mine if after is before else self._aligned(after[row : row + 1])
            for mine, before, after in zip(past, self.past, self.present, strict=True)
        )
        return States(self.specs, 1, self.capacity, self.memory, past, present)

    def accept(self, row: int, states: States) -> None:
        """Take over what steps on `row(row)` left."""
        for mine, theirs in zip(self.past, states.past, strict=True):
            if self.memory.address(theirs) != self.memory.address(mine[row : row + 1]):
                mine[row] = theirs[0]  # from this batch's present, or from memory of its own

    def selected(self, rows: Sequence[int], length: int) -> States:
        """The states of these `rows`, as often as they are named, which have at most `length` tokens.

        In the same memory, where their number stays.
        """
        batch = len(rows)
        found = self
        if batch != self.batch:
            found = States.allocate(self.specs, batch, self.capacity, self.memory, in_place=not self._swaps)
        for spec, before, after in zip(self.specs, self.past, found.past, strict=True):
            seen = (slice(None),) * (spec.axis - 1) + (slice(length),) if spec.kind is StateKind.CACHE else ...
            moved = [row for row in range(batch) if found is not self or rows[row] != row]
            # What is written to may be read by a later one.
            read = {source: self.memory.copy(before[source][seen]) for source in {rows[row] for row in moved}}
            for row in moved:
                after[row][seen] = read[rows[row]]
        return found

    def clear(self, row: int | None = None) -> None:
        """Back to before the first token: the whole batch, or one row.

        Caches keep their contents, which nothing sees: no slot is read before its token is written again.
        """
        for spec, tensor in zip(self.specs, self.past, strict=True):
            if spec.kind is not StateKind.CACHE:
                tensor[... if row is None else row] = 0

    def grown(self, capacity: int) -> States:
        """The same states with room for `capacity` tokens, at least as many as now."""
        grown = States.allocate(self.specs, self.batch, capacity, self.memory, in_place=not self._swaps)
        for spec, mine, theirs in zip(self.specs, self.past, grown.past, strict=True):
            if spec.kind is StateKind.CACHE:
                theirs = theirs[(slice(None),) * spec.axis + (slice(self.capacity),)]
            theirs[...] = mine
        return grown

    def _aligned(self, tensor: Any) -> Any:
        """The tensor, or a copy of it where it does not begin at a place that every kernel can read."""
        return tensor if self.memory.address(tensor) % _LEAST_ALIGNMENT == 0 else self.memory.copy(tensor)
