"""out = 0, of the shape of x: writes out, reads nothing. Truth: `aten::zeros_like`."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.spec import TYPES, KernelSpec, pointer
from burnish.ir.errors import UnsupportedError

_BLOCK = 1024


@triton.jit
def zeros_like_kernel(out_ptr, count, BLOCK: tl.constexpr):
    """BLOCK elements of `count`."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out_ptr + place, tl.zeros((BLOCK,), out_ptr.dtype.element_ty), mask=place < count)


def zeros_like_spec(dtype: torch.dtype) -> KernelSpec:
    """The kernel for elements of `dtype`."""
    return KernelSpec(
        zeros_like_kernel,
        arguments={"out_ptr": pointer(dtype), "count": "i32"},
        constants={"BLOCK": _BLOCK},
        aligned=frozenset({"out_ptr"}),
    )


def zeros_like(x: torch.Tensor, *, dtype: torch.dtype | None = None, **placement: Any) -> torch.Tensor:
    """As `aten::zeros_like`, dense; `placement`: ATen's layout, device and memory format, which are those of `x`."""
    dtype = dtype or x.dtype
    if dtype not in TYPES:
        raise UnsupportedError(f"zeros of {dtype}: the kernel takes {', '.join(map(str, TYPES))}")
    out = x.new_empty(x.shape, dtype=dtype)
    zeros_like_spec(dtype).launch((-(-out.numel() // _BLOCK), 1, 1), out, out.numel())
    return out
