"""The reference bodies of the burnish:: ops against plain definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.ir.ops import burnish_ops

sizes = st.integers(1, 7)


def attention(query: Tensor, key: Tensor, value: Tensor, *rest: object, **options: object) -> Tensor:
    return burnish_ops.attention(query, key, value, *rest, scale=0.3, **options)


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 3), kv_heads=st.integers(1, 3), groups=st.integers(1, 3), tokens=sizes, size=sizes)
def test_attention_is_scaled_dot_product_attention(
    batch: int, kv_heads: int, groups: int, tokens: int, size: int
) -> None:
    query = torch.randn(batch, kv_heads * groups, tokens, size)
    key, value = torch.randn(batch, kv_heads, tokens, size), torch.randn(batch, kv_heads, tokens, size + 1)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(attention(query, key, value), expected)


@pytest.mark.parametrize(("mask", "extent"), [("window", 3), ("chunk", 4), ("causal", 0)])
def test_attention_masks_by_position(mask: str, extent: int) -> None:
    tokens = 11
    query, key, value = (torch.randn(2, 2, tokens, 4) for _ in range(3))
    i, j = torch.arange(tokens).unsqueeze(1), torch.arange(tokens).unsqueeze(0)
    seen = j <= i
    if mask == "window":
        seen &= i - j < extent
    elif mask == "chunk":
        seen &= i // extent == j // extent
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=0.3)
    torch.testing.assert_close(attention(query, key, value, mask=mask, extent=extent), expected)


def test_attention_softcap_sinks_and_slopes() -> None:
    query, key, value = (torch.randn(1, 2, 5, 4) for _ in range(3))
    sinks, slopes = torch.randn(2), torch.tensor([0.5, 0.25])
    position = torch.arange(5)
    scores = query @ key.transpose(-1, -2) * 0.3
    scores = 2.0 * torch.tanh(scores / 2.0) + slopes.view(1, 2, 1, 1) * (position - position.unsqueeze(1))
    scores = scores.masked_fill(position > position.unsqueeze(1), float("-inf"))
    exponential = scores.exp()
    weights = exponential / (exponential.sum(-1, keepdim=True) + sinks.exp().view(1, 2, 1, 1))
    found = attention(query, key, value, sinks=sinks, slopes=slopes, softcap=2.0)
    torch.testing.assert_close(found, weights @ value)


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.integers(1, 5), min_size=1, max_size=5), extra=st.integers(0, 3))
def test_cache_holds_what_was_written(pieces: list[int], extra: int) -> None:
    total = sum(pieces)
    new = torch.randn(2, 3, total, 4)
    state, start = torch.zeros(2, 3, total + extra, 4), 0
    for count in pieces:
        position = torch.full((2,), start)
        state = burnish_ops.cache_write(state, new[:, :, start : start + count], position, 2)
        start += count
    torch.testing.assert_close(state[:, :, :total], new)
    assert not state[:, :, total:].any()


def test_cache_rows_have_their_own_positions() -> None:
    state = torch.zeros(2, 6, 1)
    found = burnish_ops.cache_write(state, torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.tensor([0, 3]), 1)
    assert found.squeeze(-1).tolist() == [[1, 2, 0, 0, 0, 0], [0, 0, 0, 3, 4, 0]]


@settings(max_examples=40, deadline=None)
@given(pieces=st.lists(st.integers(1, 9), min_size=1, max_size=6), window=st.integers(1, 6))
def test_ring_attention_equals_window_attention(pieces: list[int], window: int) -> None:
    """A ring of the window's size, fed in any pieces, gives what attention over the whole sequence gives."""
    total = sum(pieces)
    query, key, value = (torch.randn(2, 2, total, 4) for _ in range(3))
    expected = attention(query, key, value, mask="window", extent=window)
    keys, values = torch.zeros(2, 2, window, 4), torch.zeros(2, 2, window, 4)
    found, start = [], 0
    for count in pieces:
        now = slice(start, start + count)
        position = torch.full((2,), start)
        key_positions = burnish_ops.ring_positions(torch.zeros(2, count, dtype=torch.int64), position, window)
        everything = [torch.cat((held, new[:, :, now]), dim=2) for held, new in ((keys, key), (values, value))]
        found.append(
            attention(
                query[:, :, now], *everything, position, mask="window", extent=window, key_positions=key_positions
            )
        )
        keys = burnish_ops.ring_write(keys, key[:, :, now], position, 2)
        values = burnish_ops.ring_write(values, value[:, :, now], position, 2)
        start += count
    torch.testing.assert_close(torch.cat(found, dim=2), expected)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotary_turns_pairs_and_keeps_the_rest(interleaved: bool) -> None:
    angle = torch.tensor([0.3, 1.1])
    x = torch.randn(1, 1, 1, 6)
    cos, sin = angle.cos(), angle.sin()
    if interleaved:
        wide_cos, wide_sin = cos.repeat_interleave(2), sin.repeat_interleave(2)
        first, second = x[..., [0, 2]], x[..., [1, 3]]
    else:
        wide_cos, wide_sin = cos.repeat(2), sin.repeat(2)
        first, second = x[..., [0, 1]], x[..., [2, 3]]
    found = burnish_ops.rotary(x, wide_cos, wide_sin, interleaved)
    turned = (first * cos - second * sin, second * cos + first * sin)
    expected = torch.stack(turned, -1).flatten(-2) if interleaved else torch.cat(turned, -1)
    torch.testing.assert_close(found[..., :4], expected)
    torch.testing.assert_close(found[..., 4:], x[..., 4:])


@settings(max_examples=20, deadline=None)
@given(tokens=st.integers(1, 6), chosen=st.integers(1, 3), experts=st.integers(3, 5))
def test_moe_linear_gives_each_token_its_experts(tokens: int, chosen: int, experts: int) -> None:
    x, weight, bias = torch.randn(tokens, 1, 4), torch.randn(experts, 3, 4), torch.randn(experts, 3)
    ids = torch.randint(experts, (tokens, chosen))
    expected = torch.einsum("nki,nkoi->nko", x.expand(-1, chosen, -1), weight[ids]) + bias[ids]
    torch.testing.assert_close(burnish_ops.moe_linear(x, weight, bias, ids), expected)


def test_causal_convolution_and_shift_see_no_later_token() -> None:
    x = torch.randn(2, 3, 8)
    weight = torch.randn(3, 1, 4)
    changed = x.clone()
    changed[..., 5] += 1
    for op in (
        lambda v: burnish_ops.causal_conv1d(v, weight, None, 2, 3),
        lambda v: burnish_ops.shift(v, 2, 2),
    ):
        before, after = op(x), op(changed)
        assert before.shape == x.shape
        torch.testing.assert_close(before[..., :5], after[..., :5])
        assert not torch.equal(before, after)
