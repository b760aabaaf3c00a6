"""out = sum_s exp2(m_s - m) o_s / sum_s exp2(m_s - m) l_s, m = max_s m_s: softmaxes over parts of the keys made one.

Reads the parts' maxima m[rows, splits], totals l[rows, splits] and unnormalised results o[rows, splits, size] in
float32, no result of a part that saw no key; writes out[rows, size]. A row is (batch row, query head, token). `sinks`
add exp2(sink * log2 e - m) to the divisor.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from burnish.codegen.triton.kernels.attention_tile import LOG2_E
from burnish.codegen.triton.spec import KernelSpec, pointer


@triton.jit
def combined_row(
    maximum_ptr,
    total_ptr,
    partial_ptr,
    sinks_ptr,
    row,
    head,
    SPLITS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """The result [BLOCK_V] of one row."""
    splits = tl.arange(0, BLOCK_SPLITS)
    columns = tl.arange(0, BLOCK_V)
    row = row.to(tl.int64)
    # .cg: past the first-level cache, for the parts may have been written while this program runs.
    maxima = tl.load(
        maximum_ptr + row * SPLITS + splits, mask=splits < SPLITS, other=float("-inf"), cache_modifier=".cg"
    )
    seen = maxima > float("-inf")
    totals = tl.load(total_ptr + row * SPLITS + splits, mask=seen, other=0.0, cache_modifier=".cg")
    parts = tl.load(
        partial_ptr + (row * SPLITS + splits[:, None]) * VALUE_SIZE + columns[None, :],
        mask=seen[:, None] & (columns < VALUE_SIZE)[None, :],
        other=0.0,
        cache_modifier=".cg",
    )
    largest = tl.max(maxima, axis=0)
    if sinks_ptr is not None:
        sink = tl.load(sinks_ptr + head).to(tl.float32) * LOG2_E
        largest = tl.maximum(largest, sink)
    largest = tl.where(largest == float("-inf"), 0.0, largest)
    weights = tl.exp2(maxima - largest)
    divisor = tl.sum(weights * totals, axis=0)
    if sinks_ptr is not None:
        divisor += tl.exp2(sink - largest)
    divisor = tl.where(divisor > 0.0, divisor, 1.0)
    return tl.sum(weights[:, None] * parts, axis=0) / divisor


@triton.jit
def combine_splits_kernel(
    maximum_ptr,
    total_ptr,
    partial_ptr,
    sinks_ptr,
    out_ptr,
    out_stride_b,
    out_stride_h,
    out_stride_s,
    HEADS: tl.constexpr,
    TOKENS: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_SPLITS: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    BLOCK_V: tl.constexpr,
):
    """One row."""
    row = tl.program_id(0)
    batch, head, token = row // (HEADS * TOKENS), row // TOKENS % HEADS, row % TOKENS
    y = combined_row(
        maximum_ptr, total_ptr, partial_ptr, sinks_ptr, row, head, SPLITS, BLOCK_SPLITS, VALUE_SIZE, BLOCK_V
    )
    columns = tl.arange(0, BLOCK_V)
    offset = batch.to(tl.int64) * out_stride_b + head * out_stride_h + token * out_stride_s
    tl.store(out_ptr + offset + columns, y.to(out_ptr.dtype.element_ty), mask=columns < VALUE_SIZE)


def combine_splits_spec(
    dtype: torch.dtype, sinks: torch.dtype | None, heads: int, tokens: int, splits: int, value_size: int
) -> KernelSpec:
    """The kernel for `splits` parts; a grid of (batch * heads * tokens, 1, 1)."""
    arguments = {"maximum_ptr": "*fp32", "total_ptr": "*fp32", "partial_ptr": "*fp32"}
    if sinks is not None:
        arguments["sinks_ptr"] = pointer(sinks)
    arguments |= {"out_ptr": pointer(dtype), "out_stride_b": "i32", "out_stride_h": "i32", "out_stride_s": "i32"}
    strides = [name for name in arguments if "_stride_" in name] if value_size % 16 == 0 else []
    return KernelSpec(
        combine_splits_kernel,
        arguments,
        constants={
            **({} if sinks is not None else {"sinks_ptr": None}),
            "HEADS": heads,
            "TOKENS": tokens,
            "SPLITS": splits,
            "BLOCK_SPLITS": triton.next_power_of_2(splits),
            "VALUE_SIZE": value_size,
            "BLOCK_V": max(16, triton.next_power_of_2(value_size)),
        },
        aligned=frozenset({name for name in arguments if name.endswith("_ptr")} | set(strides)),
    )


def combine_splits(
    maximum: torch.Tensor, total: torch.Tensor, partial: torch.Tensor, sinks: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Fill out[B, H, S, D] from maximum and total [B, H, S, splits] and partial[B, H, S, splits, D]."""
    batch, heads, tokens, splits, size = partial.shape
    spec = combine_splits_spec(out.dtype, None if sinks is None else sinks.dtype, heads, tokens, splits, size)
    given = [] if sinks is None else [sinks]
    spec.launch((batch * heads * tokens, 1, 1), maximum, total, partial, *given, out, *out.stride()[:3])
