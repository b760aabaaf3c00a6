"""y = x / sqrt(mean(x^2) + eps) * weight, a row a program.

Reads x[rows, size] and weight[size] once, writes y[rows, size]: (2 rows + 1) * size elements. The mean is in float32.
Truth: `burnish::rms_norm`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.spec import KernelSpec, pointer


@triton.jit
def rms_norm_kernel(x_ptr, weight_ptr, out_ptr, eps, size, HAS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr):
    """One row; BLOCK is the next power of two of `size`."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < size
    x = tl.load(x_ptr + row * size + columns, mask=inside, other=0.0).to(tl.float32)
    y = x * tl.rsqrt(tl.sum(x * x, axis=0) / size + eps)
    if HAS_WEIGHT:
        y = y * tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * size + columns, y.to(out_ptr.dtype.element_ty), mask=inside)


def rms_norm_spec(dtype: torch.dtype, weight_dtype: torch.dtype | None, size: int) -> KernelSpec:
    """The kernel for rows of `size` elements."""
    block = triton.next_power_of_2(size)
    return KernelSpec(
        rms_norm_kernel,
        arguments={
            "x_ptr": pointer(dtype),
            "weight_ptr": pointer(weight_dtype or dtype),
            "out_ptr": pointer(dtype),
            "eps": "fp32",
            "size": "i32",
        },
        constants={"HAS_WEIGHT": weight_dtype is not None, "BLOCK": block},
        aligned=frozenset({"x_ptr", "weight_ptr", "out_ptr", *(["size"] if size % 16 == 0 else [])}),
        num_warps=min(8, max(1, block // 256)),
    )


def rms_norm(x: torch.Tensor, weight: torch.Tensor | None, eps: float) -> torch.Tensor:
    """As `burnish::rms_norm`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    spec = rms_norm_spec(x.dtype, None if weight is None else weight.dtype, x.shape[-1])
    spec.launch((x.numel() // x.shape[-1], 1, 1), x, x if weight is None else weight, out, eps, x.shape[-1])
    return out
