"""Masks are told by their values."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.passes.analyses.masks import Dense, Mask, table_of
from burnish.passes.analyses.masks import classify as classify_bias

HIDDEN_VALUES = [float("-inf"), torch.finfo(torch.float32).min, -1e4]


def classify(bias: Tensor, has_sinks: bool) -> Mask:
    return classify_bias(Dense(bias), has_sinks)


def bias_of(seen: Tensor, hidden: float = float("-inf")) -> Tensor:
    return torch.where(seen, 0.0, hidden).unsqueeze(0)


def grid(length: int) -> tuple[Tensor, Tensor]:
    return torch.arange(length).unsqueeze(1), torch.arange(length).unsqueeze(0)


@pytest.mark.parametrize("hidden", HIDDEN_VALUES)
def test_causal(hidden: float) -> None:
    query, key = grid(16)
    mask = classify(bias_of(key <= query, hidden), has_sinks=False)
    assert (mask.kind, mask.extent, mask.slopes, mask.rest) == ("causal", 0, None, False)


@settings(max_examples=30, deadline=None)
@given(extent=st.integers(1, 20), hidden=st.sampled_from(HIDDEN_VALUES))
def test_window_and_chunk(extent: int, hidden: float) -> None:
    query, key = grid(48)
    window = classify(bias_of((key <= query) & (query - key < extent), hidden), has_sinks=False)
    assert (window.kind, window.extent, window.rest) == ("window", extent, False)
    chunk = classify(bias_of((key <= query) & (query // extent == key // extent), hidden), has_sinks=False)
    expected = ("window", 1) if extent == 1 else ("chunk", extent)  # chunks of one are windows of one
    assert (chunk.kind, chunk.extent, chunk.rest) == (*expected, False)


@pytest.mark.parametrize("relative", [True, False])
def test_alibi_slopes_are_found_with_and_without_the_diagonal(relative: bool) -> None:
    query, key = grid(24)
    slopes = torch.tensor([0.5, 0.25, 0.0625])
    distance = (key - query if relative else key).expand(24, 24)
    bias = torch.where(key <= query, slopes.view(3, 1, 1) * distance, float("-inf"))
    mask = classify(bias, has_sinks=False)
    assert mask.kind == "causal"
    assert not mask.rest
    torch.testing.assert_close(mask.slopes, slopes)


def test_a_bias_over_keys_is_not_dropped_where_sinks_take_part() -> None:
    query, key = grid(8)
    bias = torch.where(key <= query, query.expand(8, 8).float(), float("-inf")).unsqueeze(0)
    assert classify(bias, has_sinks=False).rest is False  # softmax does not see what a whole row shares
    assert classify(bias, has_sinks=True).rest is True


def test_what_has_no_closed_form_is_kept_as_a_table() -> None:
    query, key = grid(12)
    seen = (key <= query) & ((key % 3 == 0) | (key == query))
    mask = classify(bias_of(seen), has_sinks=False)
    assert mask.kind == "none"
    assert mask.rest
    assert mask.later is None
    assert torch.equal(table_of(Dense(bias_of(seen)), mask.kind, has_sinks=False)[0] == 0, seen)


def test_masks_of_heads_that_differ_are_kept_as_a_table() -> None:
    query, key = grid(12)
    both = torch.stack((key <= query, (key <= query) & (query - key < 3)))
    mask = classify(torch.where(both, 0.0, float("-inf")), has_sinks=False)
    assert mask.kind == "none"
    assert mask.rest
    assert mask.later is None


@pytest.mark.parametrize("later", [1, 5])
def test_one_later_token_is_enough_not_to_be_causal(later: int) -> None:
    query, key = grid(12)
    seen = key <= query
    seen[3, 3 + later] = True
    assert classify(bias_of(seen), has_sinks=False).later == (3, 3 + later)
    assert classify(bias_of(torch.ones(12, 12, dtype=torch.bool)), has_sinks=False).later == (0, 1)
