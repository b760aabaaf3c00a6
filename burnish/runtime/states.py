"""The states of a running batch: what one step leaves for the next."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from burnish.ir.states import State, StateKind
from burnish.runtime.device_memory import room_for

_ALIGNMENT = 64  # a cache line, and the widest vector
_LEAST_ALIGNMENT = 16  # what kernels for GPUs are compiled for


class States:
    """The tensors of all states of a batch, with room for `capacity` tokens.

    A CACHE is one buffer, read and written in place. Every other state is two, a past and a present, that change
    places after each step: a graph may read such a state after it wrote the new one. Where the executor itself sees to
    that, `in_place`, they are one, too.
    """

    def __init__(
        self,
        specs: Sequence[State],
        batch: int,
        capacity: int,
        past: tuple[torch.Tensor, ...],
        present: tuple[torch.Tensor, ...],
    ) -> None:
        self.specs = tuple(specs)
        self.batch = batch
        self.capacity = capacity
        self.past = past
        self.present = present
        self.parity = 0  # 1 while the two buffers are in each other's place
        self._swaps = any(before is not after for before, after in zip(past, present, strict=True))

    @staticmethod
    def allocate(
        specs: Sequence[State],
        batch: int,
        capacity: int,
        device: torch.device | None = None,
        in_place: bool = False,
    ) -> States:
        """The states before the first token, on `device` (the CPU if None)."""
        shapes = [spec.concrete_shape(batch, capacity) for spec in specs]
        size = sum(math.prod(shape) * spec.dtype.itemsize for shape, spec in zip(shapes, specs, strict=True))
        with room_for(f"the states of {batch} rows of {capacity} tokens", size, device):
            past = tuple(_zeros(shape, spec.dtype, device) for shape, spec in zip(shapes, specs, strict=True))
            present = tuple(
                tensor if in_place or spec.kind is StateKind.CACHE else torch.empty_like(tensor)
                for spec, tensor in zip(specs, past, strict=True)
            )
        return States(specs, batch, capacity, past, present)

    @property
    def named(self) -> dict[str, torch.Tensor]:
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
        past = tuple(_aligned(before[row : row + 1]) for before in self.past)
        present = tuple(
            mine if after is before else _aligned(after[row : row + 1])
            for mine, before, after in zip(past, self.past, self.present, strict=True)
        )
        return States(self.specs, 1, self.capacity, past, present)

    def accept(self, row: int, states: States) -> None:
        """Take over what steps on `row(row)` left."""
        for mine, theirs in zip(self.past, states.past, strict=True):
            if theirs.data_ptr() != mine[row].data_ptr():  # in this batch's present, or in memory of its own
                mine[row].copy_(theirs[0])

    def clear(self, row: int | None = None) -> None:
        """Back to before the first token: the whole batch, or one row.

        Caches keep their contents, which nothing sees: no slot is read before its token is written again.
        """
        for spec, tensor in zip(self.specs, self.past, strict=True):
            if spec.kind is not StateKind.CACHE:
                (tensor if row is None else tensor[row]).zero_()

    def grown(self, capacity: int) -> States:
        """The same states with room for `capacity` tokens, at least as many as now."""
        device = self.past[0].device if self.past else None
        grown = States.allocate(self.specs, self.batch, capacity, device, in_place=not self._swaps)
        for spec, mine, theirs in zip(self.specs, self.past, grown.past, strict=True):
            if spec.kind is StateKind.CACHE:
                theirs = theirs.narrow(spec.axis, 0, self.capacity)
            theirs.copy_(mine)
        return grown


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy of it where it does not begin at a place that every kernel can read."""
    return tensor if tensor.data_ptr() % _LEAST_ALIGNMENT == 0 else tensor.clone()


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | None) -> torch.Tensor:
    """A tensor of zeros. On the CPU its memory is only taken as it is written: a cache is mostly room for tokens."""
    if device is not None and device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    size = math.prod(shape) * dtype.itemsize
    memory = np.zeros(size + _ALIGNMENT, dtype=np.uint8)  # by calloc, unlike torch.zeros
    start = -memory.ctypes.data % _ALIGNMENT
    return torch.from_numpy(memory[start : start + size]).view(dtype).view(shape)
