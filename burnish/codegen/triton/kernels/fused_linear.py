"""out = residual + cap(scale * activation(linear(norm(x), weight, bias))), for any number of rows.

A program takes ROWS rows of x and BLOCK_N rows of the weight, and goes over K by BLOCK_K. With DESCRIPTORS tiles come
through tensor descriptors, which `burnish tune` tries from sm_90 on where `described` says that they can.

Reads the weight once for each block of ROWS rows, x, bias and residual; writes out. For up to 16 rows the weight is
read once in all, so that the time is that of reading N * K elements. Truth: `burnish::fused_linear`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch.fx.experimental.symbolic_shapes import statically_known_true

from burnish.codegen.plan.launches import example
from burnish.codegen.plan.rows import rows_of
from burnish.codegen.triton.kernels.descriptor_product import descriptor_product
from burnish.codegen.triton.kernels.normed_product import normed_product
from burnish.codegen.triton.spec import KernelSpec, pointer
from burnish.codegen.triton.tile_candidates import descriptor_candidates, product_candidates
from burnish.codegen.triton.tiles import ProductTiles, launch_tiled, product_tiles, row_class
from burnish.ir.errors import UnsupportedError
from burnish.ir.quantization import SCALE_DTYPE


@triton.jit
def _activated(y, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        y = y / (1.0 + tl.exp(-y))
    elif ACTIVATION == "sigmoid":
        y = 1.0 / (1.0 + tl.exp(-y))
    elif ACTIVATION == "relu":
        y = tl.maximum(y, 0.0)
    elif ACTIVATION == "gelu":
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        inner = 0.7978845608028654 * (y + 0.044715 * y * y * y)
        y = y / (1.0 + tl.exp(-2.0 * inner))  # 0.5 * (1 + tanh(inner)) is sigmoid(2 * inner)
    return y


@triton.jit
def fused_linear_kernel(
    x_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    residual_ptr,
    out_ptr,
    rows,
    size_n,
    size_k,
    weight_stride,
    x_stride,
    eps,
    scale,
    softcap,
    NORM: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    HAS_NORM_WEIGHT: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    GATED: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    DESCRIPTORS: tl.constexpr,
    WARP_SPECIALIZE: tl.constexpr,
):
    """Weight rows and rows of x by the first and second number of the program."""
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inside_n = columns < size_n
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside_row = row < rows
    x_rows = x_ptr + row.to(tl.int64)[:, None] * x_stride
    weight_rows = weight_ptr + columns.to(tl.int64)[:, None] * weight_stride

    if DESCRIPTORS:
        y = descriptor_product(
            x_ptr,
            x_rows,
            inside_row,
            weight_ptr,
            norm_weight_ptr,
            norm_bias_ptr,
            rows,
            size_n,
            size_k,
            x_stride,
            weight_stride,
            eps,
            NORM,
            HAS_NORM_WEIGHT,
            HAS_NORM_BIAS,
            ROWS,
            BLOCK_N,
            BLOCK_K,
            WARP_SPECIALIZE,
        )
    else:
        y = normed_product(
            x_rows,
            inside_row,
            weight_rows,
            inside_n,
            scales_ptr + columns.to(tl.int64)[:, None] * (size_k // GROUP),
            norm_weight_ptr,
            norm_bias_ptr,
            size_k,
            weight_stride,
            eps,
            NORM,
            HAS_NORM_WEIGHT,
            HAS_NORM_BIAS,
            BITS,
            GROUP,
            ROWS,
            BLOCK_N,
            BLOCK_K,
        )
    if HAS_BIAS:
        y += tl.load(bias_ptr + columns, mask=inside_n, other=0.0).to(tl.float32)[None, :]
    if GATED:
        gate, up = tl.split(tl.reshape(y, (ROWS, BLOCK_N // 2, 2)))
        y = _activated(gate, ACTIVATION) * up
        size_out = size_n // 2
        out_columns = tl.program_id(0) * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
    else:
        y = _activated(y, ACTIVATION)
        size_out = size_n
        out_columns = columns
    y = y * scale
    if HAS_SOFTCAP:
        y = softcap * (2.0 / (1.0 + tl.exp(-2.0 * y / softcap)) - 1.0)
    # From the tile's first row on offsets are 32 bits wide: 64 for each element would not fit the registers.
    first = (tl.program_id(1) * ROWS).to(tl.int64) * size_out
    offsets = tl.arange(0, ROWS)[:, None] * size_out + out_columns[None, :]
    inside = inside_row[:, None] & (out_columns < size_out)[None, :]
    if HAS_RESIDUAL:
        y += tl.load(residual_ptr + first + offsets, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + first + offsets, y.to(out_ptr.dtype.element_ty), mask=inside)


def fused_linear_spec(
    dtype: torch.dtype,
    size_k: int,
    tiles: ProductTiles,
    *,
    norm: str = "none",
    activation: str = "none",
    gated: bool = False,
    has: frozenset[str] = frozenset(),
    bits: int = 0,
    group: int = 1,
    x_aligned: frozenset[str] | None = None,
) -> KernelSpec:
    """The kernel for elements of `dtype`; `has`: those given of bias, norm_weight, norm_bias, residual, softcap.

    With `bits` 8 or 4 the weight has scales, one for each `group`. `x_aligned`: those of x_ptr and x_stride that are
    multiples of 16; None for an x whose rows follow each other.
    """
    element = pointer(dtype)
    pointers = dict.fromkeys(("x", "weight", "scales", "bias", "norm_weight", "norm_bias", "residual", "out"), element)
    if bits:
        pointers |= {"weight": pointer(torch.int8 if bits == 8 else torch.uint8), "scales": pointer(SCALE_DTYPE)}
    aligned = {f"{name}_ptr" for name in pointers} | aligned_sizes(size_k, bits)
    if x_aligned is not None:
        aligned = (aligned - {"x_ptr"}) | x_aligned
    elif size_k % 16 == 0:
        aligned.add("x_stride")
    return KernelSpec(
        fused_linear_kernel,
        arguments={
            **{f"{name}_ptr": kind for name, kind in pointers.items()},
            **dict.fromkeys(("rows", "size_n", "size_k", "weight_stride", "x_stride"), "i32"),
            **dict.fromkeys(("eps", "scale", "softcap"), "fp32"),
        },
        constants={
            "NORM": norm,
            "HAS_BIAS": "bias" in has,
            "HAS_NORM_WEIGHT": "norm_weight" in has,
            "HAS_NORM_BIAS": "norm_bias" in has,
            "HAS_RESIDUAL": "residual" in has,
            "HAS_SOFTCAP": "softcap" in has,
            "ACTIVATION": activation,
            "GATED": gated,
            "BITS": bits,
            "GROUP": group,
            "ROWS": tiles.rows,
            "BLOCK_N": tiles.block_n,
            "BLOCK_K": tiles.block_k,
            "DESCRIPTORS": tiles.descriptors,
            "WARP_SPECIALIZE": tiles.warp_specialize,
        },
        aligned=frozenset(aligned),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


def aligned_sizes(size_k: int, bits: int) -> set[str]:
    """Which of a product's sizes are multiples of 16."""
    stride = size_k // 2 if bits == 4 else size_k
    return {name for name, size in (("size_k", size_k), ("weight_stride", stride)) if size % 16 == 0}


def aligned_rows(x: torch.Tensor) -> tuple[torch.Tensor, int, frozenset[str]]:
    """`rows_of` x, and what of x_ptr and x_stride is a multiple of 16."""
    x, stride = rows_of(x)
    places = {"x_ptr": x.storage_offset() * x.element_size(), "x_stride": stride}
    return x, stride, frozenset(name for name, place in places.items() if statically_known_true(place % 16 == 0))


def described(dtype: torch.dtype, bits: int, aligned: frozenset[str] | set[str]) -> bool:
    """Whether tensor descriptors can say where x and the weight lie, of which `aligned` are multiples of 16.

    They want 16-byte multiples, and tensor cores elements of 16 bits. Integers are not for them: what is loaded has to
    be widened, and its place in a group known. That memory is as promised is checked again before a launch.
    """
    return not bits and dtype.itemsize == 2 and {"x_ptr", "x_stride", "weight_stride"} <= aligned


def quantization_of(weight: torch.Tensor, scales: torch.Tensor | None, size_k: int) -> tuple[int, int]:
    """Bits of a weight, and how many of them share a scale; 0 and 1 for one of floats."""
    if scales is None:
        return 0, 1
    group = size_k // scales.shape[-1]
    if group not in (32, 64, 128):
        raise UnsupportedError(f"{group} weights share a scale: the kernel takes 32, 64 and 128")
    return (4 if weight.dtype == torch.uint8 else 8), group


def fused_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    norm_bias: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    *,
    scales: torch.Tensor | None = None,
    norm: str = "none",
    eps: float = 0.0,
    activation: str = "none",
    gated: bool = False,
    scale: float = 1.0,
    softcap: float = 0.0,
) -> torch.Tensor:
    """As `burnish::fused_linear`."""
    size_n, size_k = weight.shape[0], x.shape[-1]
    bits, group = quantization_of(weight, scales, size_k)
    rows = x.numel() // size_k
    given = {"bias": bias, "norm_weight": norm_weight, "norm_bias": norm_bias, "residual": residual}
    has = {name for name, tensor in given.items() if tensor is not None} | ({"softcap"} if softcap > 0 else set())
    out = x.new_empty((*x.shape[:-1], size_n // 2 if gated else size_n))
    tensors = [out if tensor is None else tensor.contiguous() for tensor in given.values()]
    lines, x_stride, x_aligned = aligned_rows(x)
    operands = (lines, weight.contiguous(), out if scales is None else scales.contiguous(), *tensors, out)

    def launch(tiles: ProductTiles) -> None:
        spec = fused_linear_spec(
            x.dtype,
            size_k,
            tiles,
            norm=norm,
            activation=activation,
            gated=gated,
            has=frozenset(has),
            bits=bits,
            group=group,
            x_aligned=x_aligned,
        )
        grid = (triton.cdiv(size_n, tiles.block_n), triton.cdiv(rows, tiles.rows), 1)
        spec.launch(grid, *operands, rows, size_n, size_k, weight.shape[1], x_stride, eps, scale, softcap)

    suited = described(x.dtype, bits, x_aligned | aligned_sizes(size_k, bits))
    few = example(rows)
    facts = {"": x.dtype, "rows": row_class(few), "n": size_n, "k": size_k, "bits": bits, "group": bits and group}
    facts |= {"norm": norm, "activation": activation, "gated": gated, **dict.fromkeys(sorted(has), True)}
    facts["x in odd places"] = not {"x_ptr", "x_stride"} <= x_aligned  # which some candidates are not for
    launch_tiled(
        fused_linear_kernel,
        facts,
        product_tiles(few, size_n, size_k, x.dtype, norm=norm, residual=residual is not None, bits=bits, group=group),
        product_candidates(few, size_k, bits, group) + (descriptor_candidates(few, size_k, norm) if suited else ()),
        launch,
    )
    return out
