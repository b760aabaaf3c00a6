"""out = x, but out[..., index[..., i]] = source[..., i] or a number: elements of each row put in their places.

A program takes BLOCK elements of a row and compares them with each of the row's places, so that no two programs write
the same element, and the last of equal places wins. Reads x, index and source, writes out: right for many elements and
few places. Truth: `aten::scatter` over the last axis.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.kernels.gather import check_rows
from burnish.codegen.triton.spec import KernelSpec, pointer
from burnish.ir.errors import UnsupportedError


@triton.jit
def scatter_kernel(
    x_ptr, index_ptr, source_ptr, out_ptr, value, size, places, HAS_SOURCE: tl.constexpr, BLOCK: tl.constexpr
):
    """Rows and blocks of them by the first and second number of the program."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < size
    x = tl.load(x_ptr + row * size + columns, mask=inside)
    for place in range(places):
        index = tl.load(index_ptr + row * places + place)
        source = tl.load(source_ptr + row * places + place) if HAS_SOURCE else tl.cast(value, x.dtype)
        x = tl.where(columns == index, source, x)
    tl.store(out_ptr + row * size + columns, x, mask=inside)


def scatter_spec(dtype: torch.dtype, size: int, has_source: bool) -> KernelSpec:
    """The kernel for rows of `size` elements of `dtype`."""
    block = min(1024, triton.next_power_of_2(size))
    return KernelSpec(
        scatter_kernel,
        arguments={
            "x_ptr": pointer(dtype),
            "index_ptr": pointer(torch.int64),
            "source_ptr": pointer(dtype),
            "out_ptr": pointer(dtype),
            "value": "fp32" if dtype.is_floating_point else "i32",
            "size": "i32",
            "places": "i32",
        },
        constants={"HAS_SOURCE": has_source, "BLOCK": block},
        aligned=frozenset({"x_ptr", "index_ptr", "source_ptr", "out_ptr"} | ({"size"} if size % 16 == 0 else set())),
        num_warps=max(1, block // 256),
    )


def scatter_value(x: torch.Tensor, axis: int, index: torch.Tensor, value: float) -> torch.Tensor:
    """As `aten::scatter.value`."""
    number = float(value) if x.is_floating_point() else int(value)
    if isinstance(number, int) and not -(2**31) <= number < 2**31:
        raise UnsupportedError(f"scatter of the number {number}: the kernel takes those of 32 bits")
    return _scatter(x, axis, index, None, number)


def scatter_source(x: torch.Tensor, axis: int, index: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """As `aten::scatter.src`."""
    if source.shape != index.shape:
        raise UnsupportedError("scatter of a part of a tensor: the kernel takes an element for each place")
    return _scatter(x, axis, index, source.contiguous(), 0.0 if x.is_floating_point() else 0)


def _scatter(
    x: torch.Tensor, axis: int, index: torch.Tensor, source: torch.Tensor | None, value: float
) -> torch.Tensor:
    check_rows("scatter", x, axis, index)
    size = x.shape[-1]
    if not isinstance(size, int):
        raise UnsupportedError("scatter into rows of any size: the kernel takes rows of a size that is known")
    spec = scatter_spec(x.dtype, size, source is not None)
    x = x.contiguous()
    out = x.new_empty(x.shape)
    spec.launch(
        (x.numel() // size, -(-size // int(spec.constants["BLOCK"] or 1)), 1),
        *(x, index.contiguous(), x if source is None else source, out, value, size, index.shape[-1]),
    )
    return out
