"""out = the `count` greatest elements of each row as float32, and where they are: what sampling from them needs.

A program takes BLOCK elements of a row and keeps its best in their order; the best of all programs are the elements of
a second launch, and so on until one program has a row. The least that is kept is found bit by bit, by counting: 32
counts whatever `count` is, where a sort of as many elements takes longer, and ten times as long to compile. Of equal
elements the first are kept, and NaN is above all.

Reads x[rows, size] once, writes and reads back count / BLOCK times as many integers of 8 bytes, from cache; writes
int32 out[rows, 2, count]: bits of scores, places. Truth: `burnish::top_scores`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.spec import KernelSpec, pointer
from burnish.ir.errors import UnsupportedError

_MOST_CHOICES = 256
_ELEMENTS = 4096  # a program, of rows that one program cannot take
_MOST_ELEMENTS = 8192  # that one program can: with `_ELEMENTS` before, two launches are enough for 128 of 262,144


@triton.jit
def top_scores_kernel(
    x_ptr,
    out_ptr,
    size,
    count,
    PACKED: tl.constexpr,
    LAST_ROUND: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK elements of one row. Between rounds an element and its place are one integer."""
    LAST: tl.constexpr = 0x7FFFFFFF
    LEAST: tl.constexpr = -0x8000000000000000  # below all that can be packed
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = part * BLOCK + tl.arange(0, BLOCK)
    if PACKED:
        packed = tl.load(x_ptr + row * size + columns, mask=columns < size, other=LEAST)
    else:
        x = tl.load(x_ptr + row * size + columns, mask=columns < size, other=0.0).to(tl.float32)
        x = tl.where(x == 0.0, 0.0, x)  # -0.0 is equal to 0.0
        bits = x.to(tl.int32, bitcast=True)
        order = tl.where(bits < 0, bits ^ LAST, bits)  # the floats' order as integers
        order = tl.where(x != x, LAST, order)
        packed = tl.where(columns < size, order.to(tl.int64) * 0x100000000 + columns, LEAST)
    rank = (packed >> 32).to(tl.int32)
    least = tl.full((), -0x80000000, dtype=tl.int32)
    for step in range(32):
        higher = least + (tl.full((), 1, dtype=tl.int32) << (31 - step))  # from below all, which wraps around
        least = tl.where(tl.sum((rank >= higher).to(tl.int32), axis=0) >= count, higher, least)
    above = rank > least
    level = (rank == least).to(tl.int32)
    room = count - tl.sum(above.to(tl.int32), axis=0)
    keep = above | ((level > 0) & (tl.cumsum(level, axis=0) <= room))
    slot = tl.cumsum(keep.to(tl.int32), axis=0) - 1
    if LAST_ROUND:
        tl.store(out_ptr + row * 2 * count + slot, tl.where(rank < 0, rank ^ LAST, rank), mask=keep)
        tl.store(out_ptr + row * 2 * count + count + slot, packed.to(tl.int32), mask=keep)
    else:
        tl.store(out_ptr + (row * tl.num_programs(1) + part) * count + slot, packed, mask=keep)


def top_scores_spec(dtype: torch.dtype, size: int, count: int) -> KernelSpec:
    """A round over rows of `size` elements (int64: packed ones); a grid of (rows, ceil(size / BLOCK), 1)."""
    last = size <= _MOST_ELEMENTS
    block = triton.next_power_of_2(size) if last else _ELEMENTS
    sizes = {name for name, each in (("size", size), ("count", count)) if each % 16 == 0}
    return KernelSpec(
        top_scores_kernel,
        arguments={
            "x_ptr": pointer(dtype),
            "out_ptr": pointer(torch.int32 if last else torch.int64),
            "size": "i32",
            "count": "i32",
        },
        constants={"PACKED": dtype == torch.int64, "LAST_ROUND": last, "BLOCK": block},
        aligned=frozenset({"x_ptr", "out_ptr"} | sizes),
        num_warps=min(16, max(1, block // 256)),
    )


def top_scores(x: torch.Tensor, count: int) -> torch.Tensor:
    """As `burnish::top_scores`."""
    size = x.shape[-1]
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise UnsupportedError(f"scores of {x.dtype}: the kernel takes floating point numbers of 32 or 16 bits")
    if not isinstance(size, int) or not 1 <= count <= min(size, _MOST_CHOICES):
        raise UnsupportedError(f"the best {count} of {size}: the kernel takes up to {_MOST_CHOICES} of a known number")
    rows = x.numel() // size
    given = x.contiguous()
    while size > _MOST_ELEMENTS:
        parts = -(-size // _ELEMENTS)
        best = x.new_empty((rows, parts * count), dtype=torch.int64)
        top_scores_spec(given.dtype, size, count).launch((rows, parts, 1), given, best, size, count)
        given, size = best, parts * count
    out = x.new_empty((*x.shape[:-1], 2, count), dtype=torch.int32)
    top_scores_spec(given.dtype, size, count).launch((rows, 1, 1), given, out, size, count)
    return out
