"""norm(x) @ weight^T for a tile: what kernels of linears begin with.

One row is a sum of products, elementwise in registers until the end; more rows are tiles of a matrix product. The
norm's statistics are computed by each program anew: x is small and comes from cache, a kernel of its own would be one
more launch. Weights of 8 and 4 bits are widened in registers; the layout is that of `burnish.ir.quantization`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def statistics(x_rows, inside_row, size_k, eps, NORM: tl.constexpr, ROWS: tl.constexpr, BLOCK_K: tl.constexpr):
    """Mean and inverse deviation of each row, [ROWS, 1]."""
    mean = tl.zeros((ROWS, 1), dtype=tl.float32)
    inverse = tl.full((ROWS, 1), 1.0, dtype=tl.float32)
    if NORM != "none":
        if NORM == "layer":
            total = tl.zeros((ROWS, BLOCK_K), dtype=tl.float32)
            for start in range(0, size_k, BLOCK_K):
                k = start + tl.arange(0, BLOCK_K)
                inside = inside_row[:, None] & (k < size_k)[None, :]
                total += tl.load(x_rows + k[None, :], mask=inside, other=0.0).to(tl.float32)
            mean = tl.sum(total, axis=1)[:, None] / size_k
        squares = tl.zeros((ROWS, BLOCK_K), dtype=tl.float32)
        for start in range(0, size_k, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            inside = inside_row[:, None] & (k < size_k)[None, :]
            x = tl.load(x_rows + k[None, :], mask=inside, other=0.0).to(tl.float32) - mean
            squares += tl.where(inside, x * x, 0.0)
        inverse = tl.rsqrt(tl.sum(squares, axis=1)[:, None] / size_k + eps)
    return mean, inverse


@triton.jit
def after_norm(
    x,
    inside_row,
    k,
    size_k,
    mean,
    inverse,
    norm_weight_ptr,
    norm_bias_ptr,
    NORM: tl.constexpr,
    HAS_NORM_WEIGHT: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
):
    """x, which are columns k of the rows with zeros outside, after their norm; zeros outside."""
    if NORM != "none":
        inside_k = k < size_k
        x = (x.to(tl.float32) - mean) * inverse
        if HAS_NORM_WEIGHT:
            x *= tl.load(norm_weight_ptr + k, mask=inside_k, other=0.0).to(tl.float32)[None, :]
        if HAS_NORM_BIAS:
            x += tl.load(norm_bias_ptr + k, mask=inside_k, other=0.0).to(tl.float32)[None, :]
        x = tl.where(inside_row[:, None] & inside_k[None, :], x, 0.0)
    return x


@triton.jit
def _normed(
    x_rows,
    inside_row,
    k,
    size_k,
    mean,
    inverse,
    norm_weight_ptr,
    norm_bias_ptr,
    NORM: tl.constexpr,
    HAS_NORM_WEIGHT: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
):
    """Columns k of the rows, after their norm; zeros outside."""
    x = tl.load(x_rows + k[None, :], mask=inside_row[:, None] & (k < size_k)[None, :], other=0.0)
    return after_norm(
        x,
        inside_row,
        k,
        size_k,
        mean,
        inverse,
        norm_weight_ptr,
        norm_bias_ptr,
        NORM,
        HAS_NORM_WEIGHT,
        HAS_NORM_BIAS,
    )


@triton.jit
def normed_product(
    x_rows,
    inside_row,
    weight_rows,
    inside_n,
    scale_rows,
    norm_weight_ptr,
    norm_bias_ptr,
    size_k,
    weight_stride,
    eps,
    NORM: tl.constexpr,
    HAS_NORM_WEIGHT: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """[ROWS, BLOCK_N] in float32, of pointers to rows: x_rows[ROWS, 1], weight_rows and scale_rows[BLOCK_N, 1].

    BITS is 8 or 4 for integer weights, with a scale for each GROUP of them, else 0. A row of the weight is
    weight_stride elements in memory: half of size_k for 4 bits.
    """
    mean, inverse = statistics(x_rows, inside_row, size_k, eps, NORM, ROWS, BLOCK_K)
    y = tl.zeros((ROWS, BLOCK_N), dtype=tl.float32)
    if BITS == 0:
        if ROWS == 1:
            products = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
        for start in range(0, size_k, BLOCK_K):
            k = start + tl.arange(0, BLOCK_K)
            weight = tl.load(weight_rows + k[None, :], mask=inside_n[:, None] & (k < size_k)[None, :], other=0.0)
            x = _normed(
                x_rows,
                inside_row,
                k,
                size_k,
                mean,
                inverse,
                norm_weight_ptr,
                norm_bias_ptr,
                NORM,
                HAS_NORM_WEIGHT,
                HAS_NORM_BIAS,
            )
            if ROWS == 1:
                products += weight.to(tl.float32) * x.to(tl.float32)
            else:
                y = tl.dot(x.to(weight.dtype), tl.trans(weight), y, input_precision="ieee")
        if ROWS == 1:
            y = tl.sum(products, axis=1)[None, :]
    else:
        PARTS: tl.constexpr = 8 // BITS  # of a byte; part p of byte i of a group is element p * PART + i of the group
        PART: tl.constexpr = GROUP // PARTS
        GROUPS: tl.constexpr = BLOCK_K // GROUP
        place = tl.arange(0, GROUPS * PART)
        sums = tl.zeros((BLOCK_N, GROUPS), dtype=tl.float32)
        for start in range(0, size_k, BLOCK_K):
            byte = start // PARTS + place
            raw = tl.load(
                weight_rows + byte[None, :], mask=inside_n[:, None] & (byte < weight_stride)[None, :], other=0
            )
            group = start // GROUP + tl.arange(0, GROUPS)
            inside_group = inside_n[:, None] & (group < size_k // GROUP)[None, :]
            scales = tl.load(scale_rows + group[None, :], mask=inside_group, other=0.0).to(tl.float32)
            products = tl.zeros((BLOCK_N, GROUPS * PART), dtype=tl.float32)
            for part in tl.static_range(PARTS):
                weight = raw.to(tl.float32)
                if BITS == 4:
                    weight = ((raw >> (4 * part)) & 15).to(tl.float32) - 8.0
                x = _normed(
                    x_rows,
                    inside_row,
                    start + place // PART * GROUP + part * PART + place % PART,
                    size_k,
                    mean,
                    inverse,
                    norm_weight_ptr,
                    norm_bias_ptr,
                    NORM,
                    HAS_NORM_WEIGHT,
                    HAS_NORM_BIAS,
                )
                if ROWS == 1:
                    products += weight * x.to(tl.float32)
                else:
                    spread = tl.broadcast_to(scales[:, :, None], (BLOCK_N, GROUPS, PART))
                    weight = weight * tl.reshape(spread, (BLOCK_N, GROUPS * PART))
                    narrow = x_rows.dtype.element_ty
                    y = tl.dot(x.to(narrow), tl.trans(weight.to(narrow)), y, input_precision="ieee")
            if ROWS == 1:
                # A group of 4-bit weights is 16 bytes, what a thread loads at a time: its sum stays in the thread.
                sums += tl.sum(tl.reshape(products, (BLOCK_N, GROUPS, PART)), axis=2) * scales
        if ROWS == 1:
            y = tl.sum(sums, axis=1)[None, :]
    return y
