"""One stretch of memory for all temporaries of a step: those that never live together share bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 256  # bytes; kernels were promised 16, and tensor descriptors ask for 128


@dataclass(frozen=True)
class Lifetime:
    """A buffer of `size` bytes, in use from step `first` to step `last`."""

    size: int
    first: int
    last: int


def place(buffers: Sequence[Lifetime]) -> tuple[list[int], int]:
    """An offset for each buffer, and the bytes of the arena.

    Greedy by size (Pisarchyk and Lee, 2020): the largest buffer first, each at the lowest offset where nothing lies
    that lives at the same time.
    """
    offsets = [0] * len(buffers)
    placed: list[int] = []
    total = 0
    for index in sorted(range(len(buffers)), key=lambda index: (-buffers[index].size, index)):
        mine = buffers[index]
        size = _aligned(mine.size)
        offset = 0
        for other in sorted(placed, key=offsets.__getitem__):
            theirs = buffers[other]
            if theirs.last < mine.first or mine.last < theirs.first:
                continue
            if offset + size <= offsets[other]:
                break
            offset = max(offset, offsets[other] + _aligned(theirs.size))
        offsets[index] = offset
        placed.append(index)
        total = max(total, offset + size)
    return offsets, total


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
