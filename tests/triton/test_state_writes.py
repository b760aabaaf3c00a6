"""Kernels that write states, and what rings hold, against their references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.triton.kernels.cache_write import cache_write, ring_write
from burnish.codegen.triton.kernels.paged_write import paged_write
from burnish.codegen.triton.kernels.ring_positions import ring_positions
from burnish.ir import paged_ops
from burnish.ir.errors import UnsupportedError
from burnish.ir.ops import burnish_ops


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    size=st.sampled_from([1, 5, 16, 40]),
    tokens=st.sampled_from([1, 2, 7, 30]),
    capacity=st.sampled_from([8, 13, 40]),
    ring=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_any_sizes(
    batch: int, heads: int, size: int, tokens: int, capacity: int, ring: bool, dtype: torch.dtype
) -> None:
    if not ring:
        capacity += tokens
    torch.manual_seed(tokens)
    state = torch.randn(batch, heads, capacity, size, dtype=dtype)
    new = torch.randn(batch, tokens, heads, size, dtype=dtype).transpose(1, 2)
    position = torch.randint(0, 50 if ring else capacity - tokens + 1, (batch,))
    reference, kernel = (burnish_ops.ring_write, ring_write) if ring else (burnish_ops.cache_write, cache_write)
    expected = reference(state.clone(), new, position, 2)
    found = kernel(state, new, position, 2)
    assert found is state
    assert torch.equal(found, expected)


@pytest.mark.parametrize(("shape", "axis"), [((2, 9, 3, 4), 1), ((2, 9, 4), 1), ((2, 3, 9), 2), ((2, 9), 1)])
def test_any_axis(shape: tuple[int, ...], axis: int) -> None:
    state = torch.randn(shape)
    new = torch.randn([3 if place == axis else size for place, size in enumerate(shape)])
    position = torch.tensor([0, 6])
    expected = burnish_ops.cache_write(state.clone(), new, position, axis)
    assert torch.equal(cache_write(state, new, position, axis), expected)


def test_nothing_is_written_past_the_end() -> None:
    memory = torch.zeros(1, 1, 8, 4)
    state = memory.view(-1)[:20].view(1, 1, 5, 4)
    cache_write(state, torch.ones(1, 1, 3, 4), torch.tensor([3]), 2)
    assert memory[0, 0, 3:5].eq(1).all()
    assert memory[0, 0, 5:].eq(0).all()


def test_a_state_in_pieces_is_refused() -> None:
    state = torch.zeros(1, 2, 8, 4)[:, :, ::2]
    with pytest.raises(UnsupportedError, match="one stretch of memory"):
        cache_write(state, torch.zeros(1, 2, 1, 4), torch.tensor([0]), 2)
    with pytest.raises(UnsupportedError, match="one stretch of memory"):
        paged_write(state, torch.zeros(1, 2, 1, 4), torch.tensor([[0]]), torch.tensor([0]))


def test_a_token_that_a_program_cannot_hold_is_refused() -> None:
    new = torch.zeros(1, 1, 1, 4097)
    with pytest.raises(UnsupportedError, match="4097 elements are more than the kernel's 4096"):
        cache_write(torch.zeros(1, 1, 2, 4097), new, torch.tensor([0]), 2)
    with pytest.raises(UnsupportedError, match="4097 elements are more than the kernel's 4096"):
        paged_write(torch.zeros(1, 1, 2, 4097), new, torch.tensor([[0]]), torch.tensor([0]))


@settings(max_examples=25, deadline=None)
@given(
    positions=st.lists(st.integers(0, 60), min_size=1, max_size=4), tokens=st.integers(1, 20), size=st.integers(1, 17)
)
def test_ring_positions(positions: list[int], tokens: int, size: int) -> None:
    ids, position = torch.zeros(len(positions), tokens, dtype=torch.int64), torch.tensor(positions)
    assert torch.equal(ring_positions(ids, position, size), burnish_ops.ring_positions(ids, position, size))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    size=st.sampled_from([1, 5, 16, 40]),
    tokens=st.sampled_from([1, 2, 7, 30]),
    page_size=st.sampled_from([1, 4, 16]),
    narrow=st.booleans(),
    data=st.data(),
)
def test_pages(
    batch: int, heads: int, size: int, tokens: int, page_size: int, narrow: bool, data: st.DataObject
) -> None:
    """Rows at positions of their own, whose pages lie anywhere in the pool; entries behind them are none."""
    position = torch.tensor(data.draw(st.lists(st.integers(0, 40), min_size=batch, max_size=batch)))
    torch.manual_seed(tokens)
    longest = -(-(40 + tokens) // page_size)
    table = torch.randperm(batch * longest + 2)[: batch * longest].view(batch, longest)
    for row, end in enumerate((position + tokens).tolist()):
        table[row, -(-end // page_size) :] = -1
    pages = torch.randn(batch * longest + 2, heads, page_size, size, dtype=torch.float16 if narrow else torch.float32)
    new = torch.randn(batch, tokens, heads, size).transpose(1, 2).to(pages.dtype)
    expected = paged_ops.paged_write(pages.clone(), new, table, position)
    found = paged_write(pages, new, table.int() if narrow else table, position)
    assert found is pages
    assert torch.equal(found, expected)


def test_a_token_without_a_page_is_not_written() -> None:
    """The first of five tokens is the last of page 2; two have no page, two are behind the table."""
    pages = torch.zeros(4, 1, 2, 3)
    paged_write(pages, torch.ones(1, 1, 5, 3), torch.tensor([[2, -1]]), torch.tensor([1]))
    assert pages.sum((1, 3)).tolist() == [[0, 0], [0, 0], [0, 3], [0, 0]]


def test_pages_in_pieces_are_refused() -> None:
    pages = torch.zeros(4, 2, 8, 4)[:, :, ::2]
    with pytest.raises(UnsupportedError, match="one stretch of memory"):
        paged_write(pages, torch.zeros(1, 2, 1, 4), torch.tensor([[0]]), torch.tensor([0]))
