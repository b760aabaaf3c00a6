"""How fast this machine computes and reads memory, by the native library: what a model's speed is held against."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from burnish.runtime.native.library import own_library

_TRIES = 10  # the best counts: others use the machine, too
_PEAK_NANOSECONDS = 20_000_000
_ONE_CORE = 1.3  # times one thread, for two: siblings on one core gain little, and cores of their own nearly twice


@dataclass(frozen=True)
class Peak:
    """Sums of products in registers, float32, operations a second: of one thread, and of several together."""

    threads: int
    alone: float
    together: float

    @property
    def shares_cores(self) -> bool:
        """Whether several threads do about what one does: they are on one core, or others use the machine."""
        return self.threads > 1 and self.together < _ONE_CORE * self.alone


def peak(threads: int) -> Peak:
    """What `threads` compute. Virtual machines do not tell which of their processors share a core: so it is timed."""
    with _team(1) as (functions, one), _team(threads) as (_, team):
        best = {1: 0.0, threads: 0.0}
        for _ in range(_TRIES):  # in turns
            for count, pool in ((1, one), (threads, team)):
                done = functions.burnish_peak(pool, _PEAK_NANOSECONDS)
                best[count] = max(best[count], done * 1e9 / _PEAK_NANOSECONDS)
    return Peak(threads, best[1], best[threads])


def read_bandwidth(threads: int, size: int) -> float:
    """Bytes a second that `threads` read of a memory of `size` bytes, in pages of 2 MiB, over and over.

    As a model reads its weights: what of them stays in a cache does so here.
    """
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory has small pages
    memory = mmap.mmap(-1, max(size, mmap.PAGESIZE), flags=private)
    memory.madvise(mmap.MADV_HUGEPAGE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ctypes.memset(address, 0, len(memory))  # untouched, all pages are one
    floats = len(memory) // 4
    with _team(threads) as (functions, pool):
        times: list[int] = [functions.burnish_reading(pool, address, floats) for _ in range(_TRIES)]
    return 4e9 * floats / min(times)


@contextmanager
def _team(threads: int) -> Iterator[tuple[Any, int]]:
    functions = own_library().functions
    pool = functions.burnish_open(threads)
    try:
        yield functions, pool
    finally:
        functions.burnish_close(pool)
