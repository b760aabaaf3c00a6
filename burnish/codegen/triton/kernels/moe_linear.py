"""out[n, k] = x[n, k or 0] @ weight[experts[n, k]]^T + bias[experts[n, k]]: tokens by the experts that each chose.

A program takes one (token, choice) and BLOCK_N rows of its expert's weight, and goes over the inputs by BLOCK_K.

Reads the weights of chosen experts alone, once for each (token, choice), x and experts; writes out. Programs of the
same weight rows follow each other, so that the tokens of a prompt find them in cache: they cost arithmetic on CUDA
cores rather than memory traffic. Weights may be [experts, out, in] or [experts, in, out] in memory. Truth:
`burnish::moe_linear`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.plan.launches import example
from burnish.codegen.triton.spec import TYPES, KernelSpec, pointer
from burnish.codegen.triton.tile_candidates import expert_candidates
from burnish.codegen.triton.tiles import ProductTiles, expert_tiles, launch_tiled, row_class
from burnish.ir.errors import UnsupportedError


@triton.jit
def moe_linear_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    experts_ptr,
    out_ptr,
    choices,
    size_n,
    size_k,
    weight_stride,
    experts_stride_n,
    experts_stride_k,
    SHARED_X: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    IN_CONTIGUOUS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """(token, choice) and weight rows by the first and second number of the program.

    weight_stride: elements from one row of an expert's matrix in memory to the next. SHARED_X: the choices of a token
    have one x. IN_CONTIGUOUS: inputs of a weight row lie side by side, else its outputs.
    """
    pair = tl.program_id(0)
    token = pair // choices
    choice = pair % choices
    place = token.to(tl.int64) * experts_stride_n + choice.to(tl.int64) * experts_stride_k
    expert = tl.load(experts_ptr + place).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_n = columns < size_n
    x_row = x_ptr + (token if SHARED_X else pair).to(tl.int64) * size_k
    if IN_CONTIGUOUS:
        matrix = weight_ptr + expert * size_n * weight_stride
    else:
        matrix = weight_ptr + expert * size_k * weight_stride

    products = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    for start in range(0, size_k, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside = inside_n[:, None] & (k < size_k)[None, :]
        if IN_CONTIGUOUS:
            offsets = columns.to(tl.int64)[:, None] * weight_stride + k[None, :]
        else:
            offsets = k.to(tl.int64)[None, :] * weight_stride + columns[:, None]
        weight = tl.load(matrix + offsets, mask=inside, other=0.0)
        x = tl.load(x_row + k, mask=k < size_k, other=0.0)
        products += weight.to(tl.float32) * x.to(tl.float32)[None, :]
    y = tl.sum(products, axis=1)
    if HAS_BIAS:
        y += tl.load(bias_ptr + expert * size_n + columns, mask=inside_n, other=0.0).to(tl.float32)
    tl.store(out_ptr + pair.to(tl.int64) * size_n + columns, y.to(out_ptr.dtype.element_ty), mask=inside_n)


def moe_linear_spec(
    dtype: torch.dtype,
    experts_dtype: torch.dtype,
    size_n: int,
    size_k: int,
    tiles: ProductTiles,
    *,
    shared_x: bool,
    has_bias: bool,
    in_contiguous: bool = True,
) -> KernelSpec:
    """The kernel for experts' matrices of [size_n, size_k] elements of `dtype`."""
    element = pointer(dtype)
    aligned = {"x_ptr", "weight_ptr", "bias_ptr", "out_ptr"}
    aligned |= {name for name, size in (("size_n", size_n), ("size_k", size_k)) if size % 16 == 0}
    if (size_k if in_contiguous else size_n) % 16 == 0:
        aligned.add("weight_stride")
    return KernelSpec(
        moe_linear_kernel,
        arguments={
            **dict.fromkeys(("x_ptr", "weight_ptr", "bias_ptr"), element),
            "experts_ptr": pointer(experts_dtype),
            "out_ptr": element,
            **dict.fromkeys(("choices", "size_n", "size_k", "weight_stride"), "i32"),
            **dict.fromkeys(("experts_stride_n", "experts_stride_k"), "i32"),
        },
        constants={
            "SHARED_X": shared_x,
            "HAS_BIAS": has_bias,
            "IN_CONTIGUOUS": in_contiguous,
            "BLOCK_N": tiles.block_n,
            "BLOCK_K": tiles.block_k,
        },
        aligned=frozenset(aligned),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


def moe_linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, experts: torch.Tensor) -> torch.Tensor:
    """As `burnish::moe_linear`."""
    _, size_n, size_k = weight.shape
    if x.dtype not in (torch.float32, torch.float16, torch.bfloat16) or weight.dtype != x.dtype:
        raise UnsupportedError(
            f"experts of {weight.dtype} by {x.dtype}: the kernel takes one of 32 or 16 bits for both"
        )
    if experts.dtype not in TYPES or experts.is_floating_point():
        raise UnsupportedError(f"numbers of experts in {experts.dtype}: the kernel takes integers")
    strides = weight.stride()
    in_contiguous = strides == (size_n * size_k, size_k, 1)
    if not in_contiguous and strides != (size_n * size_k, 1, size_n):
        raise UnsupportedError(f"weights of experts with strides {strides}: the kernel takes dense matrices")
    rows, choices = experts.shape
    shared_x = x.shape[1] == 1
    out = x.new_empty((rows, choices, size_n))
    operands = (x.contiguous(), weight, x if bias is None else bias.contiguous(), experts, out)
    options = {"shared_x": shared_x, "has_bias": bias is not None, "in_contiguous": in_contiguous}

    def launch(tiles: ProductTiles) -> None:
        spec = moe_linear_spec(x.dtype, experts.dtype, size_n, size_k, tiles, **options)
        stride = size_k if in_contiguous else size_n
        grid = (rows * choices, triton.cdiv(size_n, tiles.block_n), 1)
        spec.launch(grid, *operands, choices, size_n, size_k, stride, *experts.stride())

    launch_tiled(
        moe_linear_kernel,
        {"": x.dtype, "pairs": row_class(example(rows * choices)), "n": size_n, "k": size_k, **options},
        expert_tiles(size_n, size_k, in_contiguous),
        expert_candidates(size_n, size_k, in_contiguous),
        launch,
    )
    return out
