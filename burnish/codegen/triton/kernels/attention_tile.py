"""What the kernels of attention share: scores, masks, and the running softmax over keys.

Scores are kept in units of log 2, so that exp(x) is exp2(score): one instruction. A softmax so far is (maximum, total,
out): the largest score, the sum of exp2(score - maximum), and the sum of exp2(score - maximum) * value.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def tanh(x):
    """By exp, which overflows to the right limits."""
    return 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)


@triton.jit
def scaled(products, SCALE: tl.constexpr, SOFTCAP: tl.constexpr):
    """Products of queries and keys as scores: softcap * tanh(scale * product / softcap), or scale * product."""
    if SOFTCAP > 0.0:
        return tanh(products * (SCALE / SOFTCAP)) * (SOFTCAP * LOG2_E)
    else:
        return products * (SCALE * LOG2_E)


@triton.jit
def visible_keys(query_positions, key_positions, MASK: tl.constexpr, EXTENT: tl.constexpr):
    """Which keys a query may see, as in `burnish::attention`, where MASK is not "none"."""
    visible = (key_positions <= query_positions) & (key_positions >= 0)
    if MASK == "window":
        visible = visible & (query_positions - key_positions < EXTENT)
    elif MASK == "chunk":
        visible = visible & (query_positions // EXTENT == key_positions // EXTENT)
    return visible


@triton.jit
def first_seen(query_position, MASK: tl.constexpr, EXTENT: tl.constexpr):
    """The first key that a query may see."""
    first = query_position * 0
    if MASK == "window":
        first = tl.maximum(query_position - EXTENT + 1, 0)
    elif MASK == "chunk":
        first = query_position // EXTENT * EXTENT
    return first


@triton.jit
def load_rows(pointers, inside, SIZE: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    """[rows, BLOCK] with SIZE elements from each pointer, zeros behind them and where a row is not `inside`."""
    columns = tl.arange(0, BLOCK)
    addresses = pointers[:, None] + columns[None, :]
    if MASKED:
        return tl.load(addresses, mask=inside[:, None] & (columns < SIZE)[None, :], other=0.0)
    elif SIZE < BLOCK:
        return tl.load(addresses, mask=(columns < SIZE)[None, :], other=0.0)
    else:
        return tl.load(addresses)


@triton.jit
def slot_offsets(keys, start, inside, stride_page, stride_t, pages_ptr, PAGE_SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Where each key begins, in elements: `keys` are start .. start + BLOCK - 1; pages_ptr lists a row's pages."""
    if pages_ptr is None:
        return keys * stride_t
    elif PAGE_SIZE % BLOCK == 0:  # one page holds the whole block, which begins at a multiple of its size
        page = tl.load(pages_ptr + start // PAGE_SIZE).to(tl.int64)
        return page * stride_page + (keys % PAGE_SIZE) * stride_t
    else:
        page = tl.load(pages_ptr + keys // PAGE_SIZE, mask=inside, other=0).to(tl.int64)
        return page * stride_page + (keys % PAGE_SIZE) * stride_t


@triton.jit
def attend(
    maximum,
    total,
    out,
    query,  # [rows, BLOCK_K]
    query_positions,  # [rows]
    rows_inside,  # [rows]
    slopes,  # [rows], or None
    bias_rows,  # pointers [rows] to the bias of key 0, or None
    bias_stride_t,
    key_ptr,  # to this head's key 0, or to this head in page 0
    key_stride_page,
    key_stride_t,
    value_ptr,
    value_stride_page,
    value_stride_t,
    pages_ptr,
    key_positions_ptr,
    first,  # a multiple of BLOCK
    stop,
    SCALE: tl.constexpr,
    SOFTCAP: tl.constexpr,
    MASK: tl.constexpr,
    EXTENT: tl.constexpr,
    MASKED: tl.constexpr,  # False where every row sees all keys from first to stop, which is then a multiple of BLOCK
    PAGE_SIZE: tl.constexpr,
    KEY_SIZE: tl.constexpr,
    VALUE_SIZE: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The softmax so far, taken on over keys first .. stop - 1, BLOCK at a time."""
    for start in range(first, stop, BLOCK):
        start = tl.multiple_of(start, BLOCK)
        keys = start + tl.arange(0, BLOCK)
        inside = keys < stop
        slots = slot_offsets(keys, start, inside, key_stride_page, key_stride_t, pages_ptr, PAGE_SIZE, BLOCK)
        key = load_rows(key_ptr + slots, inside, KEY_SIZE, BLOCK_K, MASKED)
        scores = scaled(tl.dot(query, tl.trans(key), input_precision="ieee"), SCALE, SOFTCAP)
        positions = keys
        if key_positions_ptr is not None:
            positions = tl.load(key_positions_ptr + keys, mask=inside, other=-1).to(tl.int32)
        if slopes is not None:
            distance = (positions[None, :] - query_positions[:, None]).to(tl.float32)
            scores += slopes[:, None] * distance * LOG2_E
        if bias_rows is not None:
            addresses = bias_rows[:, None] + keys[None, :] * bias_stride_t
            bias = tl.load(addresses, mask=rows_inside[:, None] & inside[None, :], other=0.0)
            scores += bias.to(tl.float32) * LOG2_E
        if MASKED:
            shown = rows_inside[:, None] & inside[None, :]
            if MASK != "none":
                shown = shown & visible_keys(query_positions[:, None], positions[None, :], MASK, EXTENT)
            scores = tl.where(shown, scores, float("-inf"))
        larger = tl.maximum(maximum, tl.max(scores, axis=1))
        # A row that has seen no key yet has a maximum of -inf, and -inf - -inf is no number.
        known = tl.where(larger == float("-inf"), 0.0, larger)
        weights = tl.exp2(scores - known[:, None])
        kept = tl.exp2(maximum - known)
        total = total * kept + tl.sum(weights, axis=1)
        slots = slot_offsets(keys, start, inside, value_stride_page, value_stride_t, pages_ptr, PAGE_SIZE, BLOCK)
        value = load_rows(value_ptr + slots, inside, VALUE_SIZE, BLOCK_V, MASKED)
        out = tl.dot(weights.to(value.dtype), value, out * kept[:, None], input_precision="ieee")
        maximum = larger
    return maximum, total, out


@triton.jit
def with_sink(maximum, total, sinks):
    """Maximum and total with one more score a row, which gives nothing; and by what the sum of values shrinks."""
    larger = tl.maximum(maximum, sinks * LOG2_E)
    kept = tl.exp2(maximum - larger)
    return larger, total * kept + tl.exp2(sinks * LOG2_E - larger), kept
