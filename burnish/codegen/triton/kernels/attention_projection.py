"""Queries, and keys and values into their caches: rotary(head_norm(linear(norm(x), weight, bias))).

A program takes ROWS rows of x (a row is a token of a row of the batch) and a block of pairs of one head's elements: the
two that rotary embedding turns into each other, i and i + R/2, or i and i + 1 if interleaved; elements that are not
turned are paired with their neighbours. So the rows of the weight are read in the order of the pairs. Without norms of
heads, a head is several blocks, and one token's projection some hundreds of programs.

Reads the weight once for each block of ROWS rows, x, cos and sin; writes B * S * (Hq + 2 Hkv) * D elements: queries,
and slots position[b] to position[b] + S - 1 of the caches, in place. Truth: `burnish::attention_projection`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.plan.launches import example
from burnish.codegen.triton.kernels.fused_linear import aligned_sizes, quantization_of
from burnish.codegen.triton.kernels.normed_product import normed_product
from burnish.codegen.triton.spec import Constant, KernelSpec, pointer
from burnish.codegen.triton.tile_candidates import projection_candidates
from burnish.codegen.triton.tiles import ProductTiles, launch_tiled, projection_tiles, row_class
from burnish.ir.errors import UnsupportedError


@triton.jit
def attention_projection_kernel(
    x_ptr,
    weight_ptr,
    scales_ptr,
    bias_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    query_norm_ptr,
    key_norm_ptr,
    cos_ptr,
    sin_ptr,
    position_ptr,
    query_ptr,
    key_ptr,
    value_ptr,
    rows,
    tokens,
    capacity,
    size_k,
    weight_stride,
    table_stride_b,  # of cos and sin; 0: all rows of the batch have the same angles
    table_stride_s,
    query_stride_b,
    query_stride_h,
    query_stride_s,
    key_stride_b,
    key_stride_h,
    key_stride_t,
    value_stride_b,
    value_stride_h,
    value_stride_t,
    eps,
    head_eps,
    NORM: tl.constexpr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    SIZE: tl.constexpr,
    TURNED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
    BITS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCKS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Program (head and block of its pairs, block of rows); BLOCKS of them make a head."""
    head, block = tl.program_id(0) // BLOCKS, tl.program_id(0) % BLOCKS
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    inside_row = row < rows

    n = tl.arange(0, BLOCK_N)
    pair = block * (BLOCK_N // 2) + n // 2
    element = 2 * pair + n % 2
    if TURNED > 0 and not INTERLEAVED:
        element = tl.where(pair < TURNED // 2, pair + n % 2 * (TURNED // 2), element)
    inside_n = pair < SIZE // 2
    weight_row = head * SIZE + element
    y = normed_product(
        x_ptr + row.to(tl.int64)[:, None] * size_k,
        inside_row,
        weight_ptr + weight_row.to(tl.int64)[:, None] * weight_stride,
        inside_n,
        None if scales_ptr is None else scales_ptr + weight_row.to(tl.int64)[:, None] * (size_k // GROUP),
        norm_weight_ptr,
        norm_bias_ptr,
        size_k,
        weight_stride,
        eps,
        NORM,
        norm_weight_ptr is not None,
        norm_bias_ptr is not None,
        BITS,
        GROUP,
        ROWS,
        BLOCK_N,
        BLOCK_K,
    )
    if bias_ptr is not None:
        y += tl.load(bias_ptr + weight_row, mask=inside_n, other=0.0).to(tl.float32)[None, :]

    if query_norm_ptr is not None or key_norm_ptr is not None:
        normed = y * tl.rsqrt(tl.sum(y * y, axis=1)[:, None] / SIZE + head_eps)
        if query_norm_ptr is not None:
            scale = tl.load(query_norm_ptr + element, mask=inside_n, other=0.0).to(tl.float32)
            y = tl.where(head < HEADS, normed * scale[None, :], y)
        if key_norm_ptr is not None:
            scale = tl.load(key_norm_ptr + element, mask=inside_n, other=0.0).to(tl.float32)
            of_key = tl.where(head < HEADS + KV_HEADS, normed * scale[None, :], y)
            y = tl.where(head < HEADS, y, of_key)

    batch, token = (row // tokens).to(tl.int64), row % tokens
    if TURNED > 0:
        limit = tl.where(head < HEADS + KV_HEADS, TURNED, 0)  # of values, nothing is turned
        turned = inside_row[:, None] & ((element < limit) & inside_n)[None, :]
        angle = batch[:, None] * table_stride_b + token[:, None] * table_stride_s + element[None, :]
        cos = tl.load(cos_ptr + angle, mask=turned, other=1.0).to(tl.float32)
        sin = tl.load(sin_ptr + angle, mask=turned, other=0.0).to(tl.float32)
        first, second = tl.split(tl.reshape(y, (ROWS, BLOCK_N // 2, 2)))
        other = tl.reshape(tl.join(-second, first), (ROWS, BLOCK_N))
        y = y * cos + other * sin

    inside = inside_row[:, None] & inside_n[None, :]
    if head < HEADS:
        out = query_ptr + batch * query_stride_b + head * query_stride_h + token * query_stride_s
        tl.store(out[:, None] + element[None, :], y.to(query_ptr.dtype.element_ty), mask=inside)
    else:
        slot = tl.load(position_ptr + batch, mask=inside_row, other=0).to(tl.int32) + token
        inside = inside & (slot < capacity)[:, None]
        if head < HEADS + KV_HEADS:
            out = key_ptr + batch * key_stride_b + (head - HEADS) * key_stride_h + slot * key_stride_t
            tl.store(out[:, None] + element[None, :], y.to(key_ptr.dtype.element_ty), mask=inside)
        else:
            out = (
                value_ptr + batch * value_stride_b + (head - HEADS - KV_HEADS) * value_stride_h + slot * value_stride_t
            )
            tl.store(out[:, None] + element[None, :], y.to(value_ptr.dtype.element_ty), mask=inside)


def attention_projection_spec(
    pointers: dict[str, torch.dtype | None],
    size_k: int,
    tiles: ProductTiles,
    *,
    heads: int,
    kv_heads: int,
    head_size: int,
    norm: str = "none",
    turned: int = 0,
    interleaved: bool = False,
    bits: int = 0,
    group: int = 1,
) -> KernelSpec:
    """The kernel for the dtypes of its pointers, None for those that are not given; `turned` elements by rotary."""
    arguments: dict[str, str] = {}
    constants: dict[str, Constant] = {}
    for name in attention_projection_kernel.arg_names:
        dtype = pointers.get(name.removesuffix("_ptr"))
        if name.endswith("_ptr"):
            if dtype is None:
                constants[name] = None
            else:
                arguments[name] = pointer(dtype)
        elif not name.isupper():
            arguments[name] = "fp32" if name.endswith("eps") else "i32"
    aligned = {name for name in arguments if name.endswith("_ptr")}
    if head_size % 16 == 0:
        aligned |= {name for name in arguments if "_stride_" in name and not name.startswith("table")}
    aligned |= aligned_sizes(size_k, bits)
    constants |= {
        "NORM": norm,
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "SIZE": head_size,
        "TURNED": turned,
        "INTERLEAVED": interleaved,
        "BITS": bits,
        "GROUP": group,
        "BLOCKS": -(-head_size // tiles.block_n),
        "ROWS": tiles.rows,
        "BLOCK_N": tiles.block_n,
        "BLOCK_K": tiles.block_k,
    }
    return KernelSpec(
        attention_projection_kernel,
        arguments,
        constants,
        frozenset(aligned),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


def attention_projection(
    x: torch.Tensor,
    weight: torch.Tensor,
    key_state: torch.Tensor,
    value_state: torch.Tensor,
    position: torch.Tensor,
    bias: torch.Tensor | None = None,
    norm_weight: torch.Tensor | None = None,
    norm_bias: torch.Tensor | None = None,
    query_norm: torch.Tensor | None = None,
    key_norm: torch.Tensor | None = None,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    *,
    scales: torch.Tensor | None = None,
    heads: int,
    norm: str = "none",
    eps: float = 0.0,
    head_eps: float = 0.0,
    interleaved: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `burnish::attention_projection`; the states are written where they are."""
    batch, tokens, size_k = x.shape
    kv_heads, size = key_state.shape[1], key_state.shape[3]
    bits, group = quantization_of(weight, scales, size_k)
    if size % 2:
        raise UnsupportedError(f"heads of {size} elements have no pairs: the kernel takes even numbers")
    if key_state.stride(3) != 1 or value_state.stride(3) != 1:
        raise UnsupportedError("the elements of a head do not lie side by side in the caches")
    if cos is not None and sin is not None:
        cos, sin = cos.contiguous(), sin.contiguous()
    turned = 0 if cos is None else cos.shape[-1]
    table_strides = (0 if cos is None or cos.shape[0] == 1 else cos.stride(0), 0 if cos is None else cos.stride(1))
    given = {
        "x": x.contiguous(),
        "weight": weight.contiguous(),
        "scales": scales,
        "bias": bias,
        "norm_weight": norm_weight,
        "norm_bias": norm_bias,
        "query_norm": query_norm,
        "key_norm": key_norm,
        "cos": cos,
        "sin": sin,
        "position": position,
        "query": x.new_empty((batch, tokens, heads, size)).transpose(1, 2),
        "key": key_state,
        "value": value_state,
    }
    dtypes = {name: None if each is None else each.dtype for name, each in given.items()}
    query = given["query"]
    assert query is not None

    def launch(tiles: ProductTiles) -> None:
        spec = attention_projection_spec(
            dtypes,
            size_k,
            tiles,
            heads=heads,
            kv_heads=kv_heads,
            head_size=size,
            norm=norm,
            turned=turned,
            interleaved=interleaved,
            bits=bits,
            group=group,
        )
        blocks = int(str(spec.constants["BLOCKS"]))
        spec.launch(
            ((heads + 2 * kv_heads) * blocks, -(-(batch * tokens) // tiles.rows), 1),
            *(tensor for tensor in given.values() if tensor is not None),
            *(batch * tokens, tokens, key_state.shape[2], size_k, weight.shape[1]),
            *table_strides,
            *query.stride()[:3],
            *key_state.stride()[:3],
            *value_state.stride()[:3],
            *(eps, head_eps),
        )

    rows, whole = example(batch * tokens), query_norm is not None or key_norm is not None
    facts = {"": x.dtype, "rows": row_class(rows), "k": size_k, "heads": heads, "kv_heads": kv_heads, "size": size}
    facts |= {"norm": norm, "head norms": whole, "turned": turned, "bits": bits, "group": bits and group}
    launch_tiled(
        attention_projection_kernel,
        facts,
        projection_tiles(rows, size_k, size, x.dtype, whole=whole, bits=bits, group=group),
        projection_candidates(min(rows, 64), size_k, size, whole=whole, bits=bits, group=group),
        launch,
    )
    return query, key_state, value_state
