"""norm(x) @ weight^T for a tile: what kernels of linears begin with.

One row is a sum of products, elementwise in registers until the end; more rows are tiles of a matrix product. The
norm's statistics are computed by each program anew: x is small and comes from cache, a kernel of its own would be one
more launch.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def normed_product(
    x_rows,
    inside_row,
    weight_rows,
    inside_n,
    norm_weight_ptr,
    norm_bias_ptr,
    size_k,
    eps,
    NORM: tl.constexpr,
    HAS_NORM_WEIGHT: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """[ROWS, BLOCK_N] in float32, of pointers to rows x_rows[ROWS, 1] and weight_rows[BLOCK_N, 1]."""
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

    if ROWS == 1:
        products = tl.zeros((BLOCK_N, BLOCK_K), dtype=tl.float32)
    else:
        y = tl.zeros((ROWS, BLOCK_N), dtype=tl.float32)
    for start in range(0, size_k, BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        inside_k = k < size_k
        weight = tl.load(weight_rows + k[None, :], mask=inside_n[:, None] & inside_k[None, :], other=0.0)
        inside = inside_row[:, None] & inside_k[None, :]
        x = tl.load(x_rows + k[None, :], mask=inside, other=0.0)
        if NORM != "none":
            x = (x.to(tl.float32) - mean) * inverse
            if HAS_NORM_WEIGHT:
                x *= tl.load(norm_weight_ptr + k, mask=inside_k, other=0.0).to(tl.float32)[None, :]
            if HAS_NORM_BIAS:
                x += tl.load(norm_bias_ptr + k, mask=inside_k, other=0.0).to(tl.float32)[None, :]
            x = tl.where(inside, x, 0.0)
        if ROWS == 1:
            products += weight.to(tl.float32) * x.to(tl.float32)
        else:
            y = tl.dot(x.to(weight.dtype), tl.trans(weight), y, input_precision="ieee")
    if ROWS == 1:
        y = tl.sum(products, axis=1)[None, :]
    return y
