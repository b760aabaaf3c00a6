"""out = where each row is greatest: of equal elements the first; NaN is above all, as in PyTorch.

Reads x[rows, size] once and writes out[rows] int64. A row is taken in parts, a program each; what each finds goes to
best[rows, parts], and the last program of a row to come takes the greatest of them, which is still in cache.
Truth: `torch.argmax`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.plan.launches import counters
from burnish.codegen.triton.spec import KernelSpec, pointer
from burnish.ir.errors import UnsupportedError

_MOST_ELEMENTS = 2048  # a program: so that a vocabulary of 128,000 is half a program for each multiprocessor of an H100


@triton.jit
def argmax_kernel(
    x_ptr,
    best_ptr,
    counters_ptr,
    out_ptr,
    size,
    PARTS: tl.constexpr,
    BLOCK_PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """BLOCK elements of one row. Elements and their places are packed into one integer each, the greater the better."""
    LAST: tl.constexpr = 0x7FFFFFFF
    LEAST: tl.constexpr = -0x8000000000000000  # below all that can be packed
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    columns = part * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * size + columns, mask=columns < size, other=0.0).to(tl.float32)
    x = tl.where(x == 0.0, 0.0, x)  # -0.0 is equal to 0.0
    bits = x.to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ LAST, bits)  # the floats' order as integers
    order = tl.where(x != x, LAST, order)
    packed = order.to(tl.int64) * 0x100000000 + (LAST - columns)
    best = tl.max(tl.where(columns < size, packed, LEAST), axis=0)
    if PARTS == 1:
        tl.store(out_ptr + row, LAST - (best & 0xFFFFFFFF))
    else:
        tl.store(best_ptr + row * PARTS + part, best)
        # The last of a row to come here finds all parts written. It leaves the counter as it was.
        tl.debug_barrier()
        if tl.atomic_add(counters_ptr + row, 1, sem="acq_rel") == PARTS - 1:
            tl.store(counters_ptr + row, 0)
            parts = tl.arange(0, BLOCK_PARTS)
            # .cg: past the first-level cache, for the parts may have been written while this program runs.
            found = tl.load(best_ptr + row * PARTS + parts, mask=parts < PARTS, other=LEAST, cache_modifier=".cg")
            tl.store(out_ptr + row, LAST - (tl.max(found, axis=0) & 0xFFFFFFFF))


def argmax_spec(dtype: torch.dtype, size: int) -> KernelSpec:
    """The kernel for rows of `size` elements; a grid of (rows, PARTS, 1)."""
    block = min(_MOST_ELEMENTS, triton.next_power_of_2(size))
    parts = -(-size // block)
    arguments = {"x_ptr": pointer(dtype)}
    if parts > 1:
        arguments |= {"best_ptr": pointer(torch.int64), "counters_ptr": pointer(torch.int32)}
    arguments |= {"out_ptr": pointer(torch.int64), "size": "i32"}
    return KernelSpec(
        argmax_kernel,
        arguments,
        constants={
            **({} if parts > 1 else {"best_ptr": None, "counters_ptr": None}),
            "PARTS": parts,
            "BLOCK_PARTS": triton.next_power_of_2(parts),
            "BLOCK": block,
        },
        aligned=frozenset(
            {name for name in arguments if name.endswith("_ptr")} | ({"size"} if size % 16 == 0 else set())
        ),
        num_warps=max(1, block // 512),
    )


def argmax(x: torch.Tensor, axis: int | None = None, keepdim: bool = False) -> torch.Tensor:
    """As `torch.argmax`, over the last axis."""
    size = x.shape[-1]
    if axis not in (-1, x.dim() - 1):
        raise UnsupportedError(f"argmax over axis {axis}: the kernel takes the last axis")
    if not isinstance(size, int):
        raise UnsupportedError("argmax over an axis that grows with the text: the kernel takes one of a known size")
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise UnsupportedError(f"argmax of {x.dtype}: the kernel takes floating point numbers of 32 or 16 bits")
    spec = argmax_spec(x.dtype, size)
    rows, parts = x.numel() // size, -(-size // int(spec.constants["BLOCK"]))  # type: ignore[arg-type]
    out = x.new_empty(x.shape[:-1], dtype=torch.int64)
    given = []
    if parts > 1:
        given = [x.new_empty((rows, parts), dtype=torch.int64), counters(x, (rows,))]
    spec.launch((rows, parts, 1), x.contiguous(), *given, out, size)
    return out.unsqueeze(-1) if keepdim else out
