"""out[..., i] = x[..., index[..., i]]: elements of each row by their places.

Reads index and one element of x for each of its own, writes as many. Truth: `aten::gather` over the last axis.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.spec import TYPES, KernelSpec, pointer
from burnish.ir.errors import UnsupportedError

_BLOCK = 256


@triton.jit
def gather_kernel(x_ptr, index_ptr, out_ptr, count, size_x, size_out, BLOCK: tl.constexpr):
    """BLOCK elements of out[rows, size_out], `count` in all."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    index = tl.load(index_ptr + place, mask=inside, other=0)
    row = place // size_out
    tl.store(out_ptr + place, tl.load(x_ptr + row * size_x + index, mask=inside), mask=inside)


def gather_spec(dtype: torch.dtype) -> KernelSpec:
    """The kernel for elements of `dtype`."""
    return KernelSpec(
        gather_kernel,
        arguments={
            "x_ptr": pointer(dtype),
            "index_ptr": pointer(torch.int64),
            "out_ptr": pointer(dtype),
            **dict.fromkeys(("count", "size_x", "size_out"), "i32"),
        },
        constants={"BLOCK": _BLOCK},
        aligned=frozenset({"x_ptr", "index_ptr", "out_ptr"}),
        num_warps=2,
    )


def gather(x: torch.Tensor, axis: int, index: torch.Tensor, *, sparse_grad: bool = False) -> torch.Tensor:
    """As `aten::gather`."""
    check_rows("gather", x, axis, index)
    out = x.new_empty(index.shape)
    count = index.numel()
    gather_spec(x.dtype).launch(
        (-(-count // _BLOCK), 1, 1), x.contiguous(), index.contiguous(), out, count, x.shape[-1], index.shape[-1]
    )
    return out


def check_rows(name: str, x: torch.Tensor, axis: int, index: torch.Tensor) -> None:
    """Raise UnsupportedError unless `index` has places in the last axis, for each row of `x`."""
    if x.dim() == 0 or axis not in (-1, x.dim() - 1):
        raise UnsupportedError(f"{name} over axis {axis}: the kernel takes the last axis")
    if x.dtype not in TYPES:
        raise UnsupportedError(f"{name} of {x.dtype}: the kernel takes {', '.join(map(str, TYPES))}")
    if index.dtype != torch.int64 or index.dim() != x.dim() or index.shape[:-1] != x.shape[:-1]:
        raise UnsupportedError(f"{name} by {index.dtype} places for some rows: the kernel takes int64 for each row")
