"""Masks are told by their values."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.passes.analyses import masks
from burnish.passes.analyses.masks import Mask, NotANumber, departs, differs, shows, table_of
from burnish.passes.analyses.masks import classify as classify_bias

HIDDEN_VALUES = [float("-inf"), torch.finfo(torch.float32).min, -1e4]


@dataclass(frozen=True)
class Dense:
    """A bias [H|1, L, L] that is held whole."""

    values: Tensor

    @property
    def length(self) -> int:
        return self.values.shape[-1]

    def rows(self, start: int, stop: int) -> Tensor:
        return self.values[:, start:stop]

    def columns(self, start: int, stop: int) -> Tensor:
        return self.values[:, :, start:stop]


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


M = 250


def changed(query: int, key: int, visible: bool, length: int = M) -> Tensor:
    """A causal mask with one entry of another kind."""
    at, to = grid(length)
    seen = (to <= at).clone()
    seen[query, key] = visible
    return bias_of(seen)


@pytest.mark.parametrize("query", [3, 100, 171, M - 1])
def test_one_row_that_is_otherwise_takes_the_closed_form_away(query: int) -> None:
    mask = classify(changed(query, 2, visible=False), has_sinks=False)
    assert (mask.kind, mask.rest, mask.later) == ("none", True, None)


@pytest.mark.parametrize("query", [0, 100, M - 2])
def test_one_later_token_in_any_row_is_found(query: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_BLOCK", 4 * M)
    mask = classify(changed(query, M - 1, visible=True), has_sinks=False)
    assert mask.later == (query, M - 1)


@pytest.mark.parametrize("hidden", HIDDEN_VALUES)
@pytest.mark.parametrize("extent", [97, 120, 128, M - 1])
def test_a_window_or_chunk_that_only_late_rows_show(extent: int, hidden: float) -> None:
    query, key = grid(M)
    window = classify(bias_of((key <= query) & (query - key < extent), hidden), has_sinks=False)
    assert (window.kind, window.extent, window.rest) == ("window", extent, False)
    assert window.edges == (extent,)
    chunk = classify(bias_of((key <= query) & (query // extent == key // extent), hidden), has_sinks=False)
    assert (chunk.kind, chunk.extent, chunk.rest) == ("chunk", extent, False)
    assert extent in chunk.edges


def test_a_window_as_long_as_the_sequence_is_causal() -> None:
    query, key = grid(M)
    assert classify(bias_of((key <= query) & (query - key < M)), has_sinks=False).kind == "causal"


def test_a_mask_with_a_long_period_has_no_closed_form() -> None:
    query, key = grid(M)
    mask = classify(bias_of((key <= query) & ((key % 97 != 50) | (key == query))), has_sinks=False)
    assert (mask.kind, mask.rest, mask.later) == ("none", True, None)


def test_a_query_that_sees_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks, "_BLOCK", 4 * M)
    query, key = grid(M)
    assert classify(bias_of(key < query), has_sinks=False).blind == 0
    assert classify(bias_of((key <= query) & (query != 170)), has_sinks=False).blind == 170
    assert classify(bias_of(key <= query), has_sinks=False).blind is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    query, key = grid(M)
    bias = bias_of(key <= query)
    bias[0, 200, 7] = value
    with pytest.raises(NotANumber):
        classify(bias, has_sinks=False)


@pytest.mark.parametrize("place", [(140, 3), (M - 1, 0)])
def test_slopes_must_hold_in_every_row(place: tuple[int, int]) -> None:
    query, key = grid(M)
    slopes = torch.tensor([0.5, 0.03])
    bias = torch.where(key <= query, slopes.view(2, 1, 1) * (key - query), float("-inf"))
    assert classify(bias, has_sinks=False).slopes is not None
    bias[1, place[0], place[1]] += 0.01
    mask = classify(bias, has_sinks=False)
    assert (mask.kind, mask.slopes, mask.rest) == ("causal", None, True)


def test_steep_slopes_over_long_distances_are_not_taken_for_hidden() -> None:
    length = 4096
    query, key = grid(length)
    slopes = torch.tensor([8.0, 0.01])  # 8 * 4096 lies beyond what counts as hidden
    bias = torch.where(key <= query, slopes.view(2, 1, 1) * (key - query), float("-inf"))
    mask = classify(bias, has_sinks=False)
    assert (mask.kind, mask.rest) == ("causal", False)
    torch.testing.assert_close(mask.slopes, slopes)


def test_a_bias_that_bends_late_is_kept_as_a_table() -> None:
    query, key = grid(M)
    bias = torch.where(key <= query, 0.25 * (key - query).clamp(min=-140), float("-inf")).unsqueeze(0)
    mask = classify(bias, has_sinks=False)
    assert (mask.kind, mask.slopes, mask.rest) == ("causal", None, True)
    table = table_of(Dense(bias), mask.kind, has_sinks=False)
    assert torch.equal(table, torch.where(key <= query, bias, 0.0))


@pytest.mark.parametrize(("kind", "extent"), [("causal", 0), ("window", 60), ("chunk", 60)])
def test_columns_show_where_a_claim_does_not_hold(kind: str, extent: int) -> None:
    query, key = grid(M)
    seen = shows(kind, extent, query, key)
    assert departs(Dense(bias_of(seen)), Mask(kind, extent), [(0, 1), (50, 52), (M - 1, M)]) is None
    wrong = seen.clone()
    wrong[200, 51] = ~wrong[200, 51]
    assert departs(Dense(bias_of(wrong)), Mask(kind, extent), [(0, 1), (50, 52), (M - 1, M)]) == (200, 51)
    assert departs(Dense(bias_of(wrong)), Mask(kind, extent), [(0, 1)]) is None


def test_a_shorter_bias_must_be_the_corner_of_the_longer() -> None:
    query, key = grid(M)
    whole = torch.where(key <= query, -0.5 * (query - key).float(), float("-inf")).unsqueeze(0)
    corner = Dense(whole[:, :90, :90] + 3.0)  # less its diagonal, the same
    assert differs(Dense(whole), corner, has_sinks=False, blocks=[(0, 90)]) is None
    assert differs(Dense(whole), corner, has_sinks=True, blocks=[(0, 90)]) == 0
    other = whole[:, :90, :90].clone()
    other[0, 70, 69] = float("-inf")
    assert differs(Dense(whole), Dense(other), has_sinks=False, blocks=[(0, 90)]) == 70


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 70), st.integers(0, 2**20), st.sampled_from(["random", "runs", "causal"]), st.booleans())
def test_what_is_claimed_is_what_the_mask_shows(length: int, seed: int, shape: str, has_sinks: bool) -> None:
    """Whatever the mask: the closed form and the table together give its values back."""
    random = torch.Generator().manual_seed(seed)
    query, key = grid(length)
    seen = key <= query
    if shape == "random":
        seen = torch.rand(length, length, generator=random) < 0.5
    elif shape == "runs":
        seen = seen & (query - key <= torch.randint(0, 4, (length, 1), generator=random))
    seen = seen | (key == query)
    bias = bias_of(seen)
    mask = classify(bias, has_sinks)
    expected = seen if mask.kind == "none" else shows(mask.kind, mask.extent, query, key)
    if mask.rest:
        assert torch.equal(table_of(Dense(bias), mask.kind, has_sinks)[0] == 0, seen | (mask.kind != "none"))
    assert torch.equal(expected & seen, seen)
    assert torch.equal(expected, seen)
    assert (mask.later is None) == (not bool((seen & (key > query)).any()))
