"""norm(x) @ weight^T for a tile, as `normed_product`, with x and the weight through tensor descriptors.

A descriptor says where a matrix lies and which tiles are taken of it. From sm_90 on the GPU then copies a tile to
shared memory by one instruction of one thread (UTMALDG), with zeros for what is outside: no addresses, masks or
registers. Each program makes its two in scratch memory that the launch gives, 128 bytes each.

With WARP_SPECIALIZE some warps only load and the others only multiply. Triton 3.6 to 3.9 does that on sm_90 where
num_warps is 4 (of which it makes 12: one group that loads, two that multiply) and both tiles come through descriptors,
and it ignores the wish for other num_warps; on sm_100 and sm_120 it always does.
"""

from __future__ import annotations

import triton
import triton.language as tl

from burnish.codegen.triton.kernels.normed_product import after_norm, statistics


@triton.jit
def descriptor_product(
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
    NORM: tl.constexpr,
    HAS_NORM_WEIGHT: tl.constexpr,
    HAS_NORM_BIAS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WARP_SPECIALIZE: tl.constexpr,
):
    """[ROWS, BLOCK_N] in float32, of x[rows, size_k] and weight[size_n, size_k] whose rows are multiples of 16 bytes.

    x_rows are the tile's pointers to rows of x, [ROWS, 1], by which the norm's statistics are computed.
    """
    mean, inverse = statistics(x_rows, inside_row, size_k, eps, NORM, ROWS, BLOCK_K)
    x_tiles = tl.make_tensor_descriptor(x_ptr, [rows, size_k], [x_stride, 1], [ROWS, BLOCK_K])
    weight_tiles = tl.make_tensor_descriptor(weight_ptr, [size_n, size_k], [weight_stride, 1], [BLOCK_N, BLOCK_K])
    y = tl.zeros((ROWS, BLOCK_N), dtype=tl.float32)
    for start in tl.range(0, size_k, BLOCK_K, warp_specialize=WARP_SPECIALIZE):
        weight = weight_tiles.load([tl.program_id(0) * BLOCK_N, start])
        x = after_norm(
            x_tiles.load([tl.program_id(1) * ROWS, start]),
            inside_row,
            start + tl.arange(0, BLOCK_K),
            size_k,
            mean,
            inverse,
            norm_weight_ptr,
            norm_bias_ptr,
            NORM,
            HAS_NORM_WEIGHT,
            HAS_NORM_BIAS,
        )
        y = tl.dot(x.to(weight.dtype), tl.trans(weight), y, input_precision="ieee")
    return y
