"""out = softmax(cap(scale * q @ K^T) + bias) @ V for 1 to 16 new tokens: the keys of a row in parts, side by side.

Flash-decoding (Dao et al., 2023): a program takes one part (split) of the keys of one row and KV head, with all query
heads that read them, so that K[position + S, D] and V are read once; keys that no query sees are not read. It writes
its maxima, totals and unnormalised results in float32, which are then combined: by the program of a row and KV head
that ends last, where there are `counters`, or by `combine_splits`. With one split there is nothing to combine. The
cache is one stretch of memory a row, or pages in any order (Kwon et al., 2023): key t of row b is slot t % page_size of
page block_table[b, t // page_size].

Reads 2 * B * Hkv * (position + S) * D elements of the caches and B * Hq * S * D of queries, writes as many results, and
2 * splits * B * Hq * S * (D + 2) floats between. Truth: `burnish::attention`, `burnish::paged_attention`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from burnish.codegen.plan.launches import counters, example
from burnish.codegen.triton.attention import Attention, operands
from burnish.codegen.triton.kernels.attention_tile import attend, first_seen, load_rows, with_sink
from burnish.codegen.triton.kernels.combine_splits import combine_splits, combined_row
from burnish.codegen.triton.spec import KernelSpec, pointer
from burnish.codegen.triton.tile_candidates import split_candidates
from burnish.codegen.triton.tiles import SplitTiles, launch_tiled, row_class, split_tiles
from burnish.ir.errors import UsageError

MOST_TOKENS = 16


@triton.jit
def decode_attention_kernel(
    query_ptr,
    key_ptr,
    value_ptr,
    out_ptr,
    maximum_ptr,
    total_ptr,
    partial_ptr,
    counters_ptr,
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
    capacity,
    TOKENS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
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
    """Program (split, KV head, batch row). Row r of its tile is token r % TOKENS of head r // TOKENS of the group."""
    split, kv_head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    rows = tl.arange(0, ROWS)
    inside = rows < GROUPS * TOKENS
    heads, tokens = kv_head * GROUPS + rows // TOKENS, rows % TOKENS
    position = 0
    if position_ptr is not None:
        position = tl.load(position_ptr + batch).to(tl.int32)

    # The keys that any of the tokens sees, in blocks; each split takes its share of the blocks.
    first, stop = 0, capacity
    if MASK != "none" and key_positions_ptr is None:
        first = first_seen(position, MASK, EXTENT) // BLOCK * BLOCK
        stop = tl.minimum(position + TOKENS, capacity)
    share = tl.cdiv(tl.cdiv(stop - first, BLOCK), SPLITS) * BLOCK
    first += split * share
    stop = tl.minimum(first + share, stop)

    query_rows = query_ptr + batch * query_stride_b + heads * query_stride_h + tokens * query_stride_s
    query = load_rows(query_rows, inside, KEY_SIZE, BLOCK_K, True)
    slopes = None
    if slopes_ptr is not None:
        slopes = tl.load(slopes_ptr + heads, mask=inside, other=0.0).to(tl.float32)
    bias_rows = None
    if bias_ptr is not None:
        bias_row = tokens + position if BIAS_BY_POSITION else tokens
        bias_rows = bias_ptr + batch * bias_stride_b + heads * bias_stride_h + bias_row.to(tl.int64) * bias_stride_s
    key_ptr += kv_head * key_stride_h
    value_ptr += kv_head * value_stride_h
    if pages_ptr is None:
        key_ptr += batch * key_stride_b
        value_ptr += batch * value_stride_b
    else:
        pages_ptr += batch * pages_stride_b
    if key_positions_ptr is not None:
        key_positions_ptr += batch * capacity
    maximum, total, out = attend(
        tl.full([ROWS], float("-inf"), tl.float32),
        tl.zeros([ROWS], tl.float32),
        tl.zeros([ROWS, BLOCK_V], tl.float32),
        query,
        position + tokens,
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
        first,
        stop,
        SCALE,
        SOFTCAP,
        MASK,
        EXTENT,
        True,
        PAGE_SIZE,
        KEY_SIZE,
        VALUE_SIZE,
        BLOCK_K,
        BLOCK_V,
        BLOCK,
    )

    columns = tl.arange(0, BLOCK_V)
    if SPLITS == 1:
        if sinks_ptr is not None:
            sinks = tl.load(sinks_ptr + heads, mask=inside, other=0.0).to(tl.float32)
            maximum, total, kept = with_sink(maximum, total, sinks)
            out = out * kept[:, None]
        out = out / tl.where(total > 0.0, total, 1.0)[:, None]
        out_rows = out_ptr + batch * out_stride_b + heads * out_stride_h + tokens * out_stride_s
        out_inside = inside[:, None] & (columns < VALUE_SIZE)[None, :]
        tl.store(out_rows[:, None] + columns[None, :], out.to(out_ptr.dtype.element_ty), mask=out_inside)
    else:
        row_heads = tl.num_programs(1) * GROUPS
        parts = ((batch * row_heads + heads) * TOKENS + tokens) * SPLITS + split
        tl.store(maximum_ptr + parts, maximum, mask=inside)
        tl.store(total_ptr + parts, total, mask=inside)
        seen = inside & (maximum > float("-inf"))
        part_inside = seen[:, None] & (columns < VALUE_SIZE)[None, :]
        tl.store(partial_ptr + parts[:, None] * VALUE_SIZE + columns[None, :], out, mask=part_inside)
        if counters_ptr is not None:
            # The last of a row and KV head to come here finds all parts written. It leaves the counter as it was.
            tl.debug_barrier()
            counter = counters_ptr + batch * tl.num_programs(1) + kv_head
            if tl.atomic_add(counter, 1, sem="acq_rel") == SPLITS - 1:
                tl.store(counter, 0)
                for row in range(GROUPS * TOKENS):
                    head, token = kv_head * GROUPS + row // TOKENS, row % TOKENS
                    y = combined_row(
                        maximum_ptr,
                        total_ptr,
                        partial_ptr,
                        sinks_ptr,
                        (batch * row_heads + head) * TOKENS + token,
                        head,
                        SPLITS,
                        BLOCK_SPLITS,
                        VALUE_SIZE,
                        BLOCK_V,
                    )
                    offset = batch * out_stride_b + head * out_stride_h + token * out_stride_s
                    tl.store(out_ptr + offset + columns, y.to(out_ptr.dtype.element_ty), mask=columns < VALUE_SIZE)


def query_rows(attention: Attention, tokens: int) -> int:
    """Rows of queries that have one KV head, as a tile of a tensor core takes them."""
    return max(16, int(triton.next_power_of_2(attention.groups * tokens)))


def decode_attention_spec(attention: Attention, tokens: int, tiles: SplitTiles, *, combines: bool) -> KernelSpec:
    """The kernel for `tokens` new tokens; a grid of (tiles.splits, KV heads, batch).

    `combines`: the last program of a row and KV head combines, and the launch gives counters i32[batch, KV heads] that
    are zero before and after. Otherwise, with more than one split, `combine_splits_spec` has to follow.
    """
    if not 1 <= tokens <= MOST_TOKENS:
        raise UsageError(f"decode_attention takes 1 to {MOST_TOKENS} new tokens, not {tokens}: use flash_attention")
    splits = tiles.splits
    parts = dict.fromkeys(("maximum_ptr", "total_ptr", "partial_ptr"), "*fp32" if splits > 1 else None)
    return attention.spec(
        decode_attention_kernel,
        pointers={
            "out_ptr": pointer(attention.dtype) if splits == 1 or combines else None,
            **parts,
            "counters_ptr": "*i32" if splits > 1 and combines else None,
        },
        constants={
            "TOKENS": tokens,
            "SPLITS": splits,
            "BLOCK_SPLITS": triton.next_power_of_2(splits),
            "ROWS": query_rows(attention, tokens),
            "BLOCK": tiles.block,
        },
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )


def decode_attention(
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
    tiles: SplitTiles | None = None,
    combines: bool = True,
    **options: Any,
) -> torch.Tensor:
    """As `burnish::attention` for at most 16 tokens, or, with block_table[B, pages], as `burnish::paged_attention`.

    `bias_table[Ht, M, M]` is a table of `burnish::attention_bias`. Last axes are contiguous. `tiles`: those of the
    table, if None.
    """
    attention, given = operands(
        query, key, value, position, bias, sinks, slopes, key_positions, bias_table, block_table, **options
    )
    batch, heads, tokens, _ = query.shape
    out: torch.Tensor = given["out_ptr"]

    def launch(tiles: SplitTiles) -> None:
        spec = decode_attention_spec(attention, tokens, tiles, combines=combines)
        maximum, total = (query.new_empty((batch, heads, tokens, tiles.splits), dtype=torch.float32) for _ in range(2))
        partial = query.new_empty((batch, heads, tokens, tiles.splits, value.shape[-1]), dtype=torch.float32)
        parts = {"maximum_ptr": maximum, "total_ptr": total, "partial_ptr": partial}
        passed = given | parts | {"counters_ptr": counters(query, (batch, key.shape[1]))}
        spec.launch((tiles.splits, attention.kv_heads, batch), *(passed[name] for name in spec.arguments))
        if tiles.splits > 1 and not combines:
            combine_splits(maximum, total, partial, sinks, out)

    if tiles is None:
        rows, size = query_rows(attention, tokens), max(attention.key_size, attention.value_size)
        table = split_tiles(example(batch), attention.kv_heads, size, attention.dtype, rows)
        facts = {**attention.facts, "tokens": tokens, "batch": row_class(example(batch))}
        launch_tiled(decode_attention_kernel, facts, table, split_candidates(table), launch)
    else:
        launch(tiles)
    return out
