"""out[r, t] = sum of x[r, i] over i <= t: running totals of rows, a row a program.

A program goes over its row by BLOCK, with the total so far. Reads x and writes out once; whole numbers are added as
int64, the rest in float32. Truth: `aten::cumsum` over the last axis.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.spec import TYPES, KernelSpec, pointer
from burnish.ir.errors import UnsupportedError

_BLOCK = 256


@triton.jit
def cumsum_kernel(x_ptr, out_ptr, size, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    """One row of `size` elements; WHOLE: of whole numbers."""
    TOTAL: tl.constexpr = tl.int64 if WHOLE else tl.float32
    row = tl.program_id(0).to(tl.int64) * size
    total = tl.zeros((1,), dtype=TOTAL)
    for start in range(0, size, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = columns < size
        x = tl.load(x_ptr + row + columns, mask=inside, other=0).to(TOTAL)
        tl.store(out_ptr + row + columns, (total + tl.cumsum(x, axis=0)).to(out_ptr.dtype.element_ty), mask=inside)
        total += tl.sum(x, axis=0)


def cumsum_spec(dtype: torch.dtype, out_dtype: torch.dtype) -> KernelSpec:
    """The kernel for elements of `dtype` and totals of `out_dtype`."""
    return KernelSpec(
        cumsum_kernel,
        arguments={"x_ptr": pointer(dtype), "out_ptr": pointer(out_dtype), "size": "i32"},
        constants={"WHOLE": not out_dtype.is_floating_point, "BLOCK": _BLOCK},
        aligned=frozenset({"x_ptr", "out_ptr"}),
        num_warps=2,
    )


def cumsum(x: torch.Tensor, axis: int, *, dtype: torch.dtype | None = None) -> torch.Tensor:
    """As `aten::cumsum`."""
    if x.dim() == 0 or axis not in (-1, x.dim() - 1):
        raise UnsupportedError(f"running totals over axis {axis}: the kernel takes the last axis")
    out_dtype = dtype or (x.dtype if x.is_floating_point() else torch.int64)
    if x.dtype not in TYPES or out_dtype not in TYPES or (x.is_floating_point() and not out_dtype.is_floating_point):
        raise UnsupportedError(
            f"running totals of {x.dtype} as {out_dtype}: the kernel takes {', '.join(map(str, TYPES))}"
        )
    out = x.new_empty(x.shape, dtype=out_dtype)
    size = x.shape[-1]
    cumsum_spec(x.dtype, out_dtype).launch((x.numel() // size, 1, 1), x.contiguous(), out, size)
    return out
