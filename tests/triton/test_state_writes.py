"""Kernels that write states, and what rings hold, against their references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.triton.kernels.cache_write import cache_write, ring_write
from burnish.codegen.triton.kernels.ring_positions import ring_positions
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


@settings(max_examples=25, deadline=None)
@given(
    positions=st.lists(st.integers(0, 60), min_size=1, max_size=4), tokens=st.integers(1, 20), size=st.integers(1, 17)
)
def test_ring_positions(positions: list[int], tokens: int, size: int) -> None:
    ids, position = torch.zeros(len(positions), tokens, dtype=torch.int64), torch.tensor(positions)
    assert torch.equal(ring_positions(ids, position, size), burnish_ops.ring_positions(ids, position, size))
