"""out = softmax(cap(scale * q @ K^T) + bias) @ V for many new tokens: prompts, whole or by pieces.

FlashAttention-2 (Dao, 2023): a program takes ROWS tokens of one query head and goes over the keys that they see, BLOCK
at a time, with the softmax so far in float32. Blocks of keys that no token of the tile sees are skipped; those that
every token sees are taken without a mask. Rows of a batch begin at their own `position` and may have their own number
of tokens, `lengths[b]` of S; results behind it are not written. Caches are as in `decode_attention`.

Reads queries once, and keys and values S / ROWS times a query head, mostly from the second-level cache; writes
B * Hq * S * D results. Truth: `burnish::attention`, `burnish::paged_attention`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from burnish.codegen.plan.launches import example
from burnish.codegen.triton.attention import Attention, operands
from burnish.codegen.triton.kernels.attention_tile import attend, first_seen, load_rows, with_sink
from burnish.codegen.triton.spec import KernelSpec, pointer
from burnish.codegen.triton.tile_candidates import prompt_candidates
from burnish.codegen.triton.tiles import PromptTiles, launch_tiled, prompt_tiles, row_class


@triton.jit
def flash_attention_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    out_ptr,
    lengths_ptr,
    position_ptr,
    pages_ptr,
    key_positions_ptr,
    bias_ptr,
    sinks_ptr,
    slopes_ptr,
    query_stride_b,
    query_stride_h,
    query_stride_s,
    key_stride_b,  # of a page, if there are pages
    key_stride_h,
    key_stride_t,
    value_stride_b,
    value_stride_h,
    value_stride_t,
    out_stride_b,
    out_stride_h,
    out_stride_s,
    bias_stride_b,
    bias_stride_h,
    bias_stride_s,
    bias_stride_t,
    pages_stride_b,
    tokens,
    capacity,
    GROUPS: tl.constexpr,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    MASK: tl.constexpr,
    EXTENT: tl.constexpr,
    BIAS_BY_POSITION: tl.constexpr,
    PAGE_SIZE: tl.constexpr,
    KEY_SIZE: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Program (tile of tokens, query head, batch row); the last tiles, which see most keys, begin first."""
    begin = (tl.num_programs(0) - 1 - tl.program_id(0)) * ROWS
    head, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    kv_head = head // GROUPS
    position = 0
    if position_ptr is not None:
        position = tl.load(position_ptr + batch).to(tl.int32)
    if lengths_ptr is not None:
        tokens = tl.minimum(tokens, tl.load(lengths_ptr + batch).to(tl.int32))
    rows = begin + tl.arange(0, ROWS)
    inside = rows < tokens
    first_query, last_query = position + begin, position + tl.minimum(begin + ROWS, tokens) - 1

    # Keys from `first` to `stop` are seen by some token, and those from `all_first` to `all_stop` by all of them.
    first, stop = 0, capacity
    all_first, all_stop = 0, capacity // BLOCK * BLOCK
    if key_positions_ptr is not None:
        all_stop = 0
    elif MASK != "none":
        first = first_seen(first_query, MASK, EXTENT) // BLOCK * BLOCK
        stop = tl.minimum(last_query + 1, capacity)
        all_first = tl.cdiv(first_seen(last_query, MASK, EXTENT), BLOCK) * BLOCK
        all_stop = tl.maximum((first_query + 1) // BLOCK * BLOCK, all_first)
    if begin >= tokens:
        first, stop, all_first, all_stop = 0, 0, 0, 0

    query_rows = query_ptr + batch * query_stride_b + head * query_stride_h + rows * query_stride_s
    query = load_rows(query_rows, inside, KEY_SIZE, BLOCK_K, True)
    slopes = None
    if slopes_ptr is not None:
        slopes = tl.zeros([ROWS], tl.float32) + tl.load(slopes_ptr + head).to(tl.float32)
    bias_rows = None
    if bias_ptr is not None:
        bias_row = rows + position if BIAS_BY_POSITION else rows
        bias_rows = bias_ptr + batch * bias_stride_b + head * bias_stride_h + bias_row.to(tl.int64) * bias_stride_s
    key_ptr += kv_head * key_stride_h
    value_ptr += kv_head * value_stride_h
    if pages_ptr is None:
        key_ptr += batch * key_stride_b
        value_ptr += batch * value_stride_b
    else:
        pages_ptr += batch * pages_stride_b
    if key_positions_ptr is not None:
        key_positions_ptr += batch * capacity

    maximum = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, BLOCK_V], tl.float32)
    for part in tl.static_range(0 if MASK == "window" or MASK == "chunk" else 1, 3):
        part_first = first if part == 0 else all_first if part == 1 else all_stop
        part_stop = tl.minimum(all_first, stop) if part == 0 else all_stop if part == 1 else stop
        maximum, total, out = attend(
            maximum,
            total,
            out,
            query,
            position + rows,
            inside,
            slopes,
            bias_rows,
            bias_stride_t,
            key_ptr,
            key_stride_b,
            key_stride_t,
            value_ptr,
            value_stride_b,
            value_stride_t,
            pages_ptr,
            key_positions_ptr,
            part_first,
            part_stop,
            SCALE,
            SOFTCAP,
            MASK,
            EXTENT,
            part != 1,
            PAGE_SIZE,
            KEY_SIZE,
            VALUE_SIZE,
            BLOCK_K,
            BLOCK_V,
            BLOCK,
        )

    if sinks_ptr is not None:
        sink = tl.zeros([ROWS], tl.float32) + tl.load(sinks_ptr + head).to(tl.float32)
        maximum, total, kept = with_sink(maximum, total, sink)
        out = out * kept[:, None]
    out = out / tl.where(total > 0.0, total, 1.0)[:, None]
    columns = tl.arange(0, BLOCK_V)
    out_rows = out_ptr + batch * out_stride_b + head * out_stride_h + rows * out_stride_s
    out_inside = inside[:, None] & (columns < VALUE_SIZE)[None, :]
    tl.store(out_rows[:, None] + columns[None, :], out.to(out_ptr.dtype.element_ty), mask=out_inside)


def flash_attention_spec(attention: Attention, tiles: PromptTiles, lengths: torch.dtype | None = None) -> KernelSpec:
    """The kernel for any number of new tokens S; a grid of (ceil(S / tiles.rows), query heads, batch)."""
    return attention.spec(
        flash_attention_kernel,
        pointers={
            "out_ptr": pointer(attention.dtype),
            "lengths_ptr": None if lengths is None else pointer(lengths),
        },
        constants={"ROWS": tiles.rows, "BLOCK": tiles.block},
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


def flash_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    position: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    slopes: torch.Tensor | None = None,
    key_positions: torch.Tensor | None = None,
    *,
    bias_table: torch.Tensor | None = None,
    block_table: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    tiles: PromptTiles | None = None,
    **options: Any,
) -> torch.Tensor:
    """As `burnish::attention`, or, with block_table[B, pages], as `burnish::paged_attention`.

    `bias_table[Ht, M, M]` is a table of `burnish::attention_bias`; `lengths[B]`, tokens of each row. Last axes are
    contiguous.
    """
    attention, given = operands(
        query, key, value, position, bias, sinks, slopes, key_positions, bias_table, block_table, **options
    )
    batch, heads, tokens, _ = query.shape
    given |= {"lengths_ptr": lengths, "tokens": tokens}

    def launch(tiles: PromptTiles) -> None:
        spec = flash_attention_spec(attention, tiles, None if lengths is None else lengths.dtype)
        spec.launch((-(-tokens // tiles.rows), heads, batch), *(given[name] for name in spec.arguments))

    if tiles is None:
        many, size = example(tokens), max(attention.key_size, attention.value_size)
        facts = {**attention.facts, "tokens": row_class(many)}
        table = prompt_tiles(many, size, attention.dtype, attention.mask)
        launch_tiled(flash_attention_kernel, facts, table, prompt_candidates(many), launch)
    else:
        launch(tiles)
    out: torch.Tensor = given["out_ptr"]
    return out
