"""The k greatest or least elements of each row, in order, and where they are: a row a program.

Elements and their places are packed into one integer each, whose greatest is taken k times: of equal elements the
first comes first, and NaN is above all, as in PyTorch. Reads x[rows, size] once (and k of it again, from cache),
writes values and indices [rows, k]. Truth: `aten::topk`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.spec import KernelSpec, pointer
from burnish.ir.errors import UnsupportedError

_MOST_ELEMENTS = 1024
_MOST_CHOICES = 64


@triton.jit
def topk_kernel(
    x_ptr,
    values_ptr,
    indices_ptr,
    size,
    choices,
    LARGEST: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_CHOICES: tl.constexpr,
):
    """One row; BLOCK is the next power of two of `size`, BLOCK_CHOICES of `choices`."""
    TAKEN: tl.constexpr = -0x8000000000000000  # below all that can be packed
    row = tl.program_id(0).to(tl.int64)
    x_row = x_ptr + row * size
    columns = tl.arange(0, BLOCK)
    x = tl.load(x_row + columns, mask=columns < size, other=0.0).to(tl.float32)
    x = tl.where(x == 0.0, 0.0, x)  # -0.0 is equal to 0.0
    bits = x.to(tl.int32, bitcast=True)
    order = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # the floats' order as integers
    order = tl.where(x != x, 0x7FFFFFFF, order)
    if not LARGEST:
        order = ~order
    packed = order.to(tl.int64) * 0x100000000 + (BLOCK - columns)
    packed = tl.where(columns < size, packed, TAKEN)

    slots = tl.arange(0, BLOCK_CHOICES)
    found = tl.zeros((BLOCK_CHOICES,), dtype=tl.int64)
    for choice in range(choices):
        best = tl.max(packed, axis=0)
        found = tl.where(slots == choice, best, found)
        packed = tl.where(packed == best, TAKEN, packed)
    indices = BLOCK - (found & 0xFFFFFFFF)
    inside = slots < choices
    values = tl.load(x_row + indices, mask=inside, other=0.0)
    tl.store(values_ptr + row * choices + slots, values, mask=inside)
    tl.store(indices_ptr + row * choices + slots, indices, mask=inside)


def topk_spec(dtype: torch.dtype, size: int, choices: int, largest: bool = True) -> KernelSpec:
    """The kernel for `choices` of `size` elements."""
    block = triton.next_power_of_2(size)
    return KernelSpec(
        topk_kernel,
        arguments={
            "x_ptr": pointer(dtype),
            "values_ptr": pointer(dtype),
            "indices_ptr": pointer(torch.int64),
            "size": "i32",
            "choices": "i32",
        },
        constants={"LARGEST": largest, "BLOCK": block, "BLOCK_CHOICES": triton.next_power_of_2(choices)},
        aligned=frozenset({"x_ptr", "values_ptr", "indices_ptr"} | ({"size"} if size % 16 == 0 else set())),
        num_warps=max(1, block // 256),
    )


def topk(
    x: torch.Tensor,
    choices: int,
    axis: int = -1,
    largest: bool = True,
    sorted: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `aten::topk`, in order even where that is not asked for."""
    size = x.shape[-1]
    if axis not in (-1, x.dim() - 1):
        raise UnsupportedError(f"topk over axis {axis}: the kernel takes the last axis")
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise UnsupportedError(f"topk of {x.dtype}: the kernel takes floating point numbers of 32 or 16 bits")
    if not isinstance(size, int) or size > _MOST_ELEMENTS or not 1 <= choices <= min(size, _MOST_CHOICES):
        raise UnsupportedError(
            f"topk of {choices} of {size}: the kernel takes up to {_MOST_CHOICES} of up to {_MOST_ELEMENTS}"
        )
    values = x.new_empty((*x.shape[:-1], choices))
    indices = x.new_empty((*x.shape[:-1], choices), dtype=torch.int64)
    spec = topk_spec(x.dtype, size, choices, largest)
    spec.launch((x.numel() // size, 1, 1), x.contiguous(), values, indices, size, choices)
    return values, indices
