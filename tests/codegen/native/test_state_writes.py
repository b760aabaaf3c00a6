"""Native kernels that write states, and what rings hold, against their references."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish.codegen.native.state_writes import cache_write, ring_positions, ring_write
from burnish.ir.errors import UnsupportedError
from burnish.ir.ops import burnish_ops
from tests.codegen.native.ways import ALL, Way, by, cases, ways

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64]


def numbers(shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    return torch.randint(0, 100, shape).to(dtype)


@cases
@given(
    way=ways,
    beside=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    place=st.integers(0, 3),
    tokens=st.sampled_from([1, 2, 7, 30]),
    capacity=st.sampled_from([8, 13, 40]),
    ring=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    turned=st.booleans(),
)
def test_any_sizes_and_axes(
    way: Way, beside: list[int], place: int, tokens: int, capacity: int, ring: bool, dtype: torch.dtype, turned: bool
) -> None:
    torch.manual_seed(tokens)
    axis = 1 + place % len(beside)
    if not ring:
        capacity += tokens
    state = numbers([*beside[:axis], capacity, *beside[axis:]], dtype)
    new = numbers([*beside[:axis], tokens, *beside[axis:]], dtype)
    if turned:  # as heads of a product lie in memory
        new = new.transpose(1, axis).contiguous().transpose(1, axis)
    position = torch.randint(0, 50 if ring else capacity - tokens + 1, (beside[0],))
    reference, kernel = (burnish_ops.ring_write, ring_write) if ring else (burnish_ops.cache_write, cache_write)
    expected = reference(state.clone(), new, position, axis)
    with by(way):
        found = kernel(state, new, position, axis)
    assert found is state
    assert torch.equal(found, expected)


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("position", [3, 5, 1000, -2, -1000, 2**63 - 1, -(2**63)])
def test_nothing_is_written_outside(way: Way, position: int) -> None:
    memory = torch.zeros(3, 5, 4)
    with by(way):
        cache_write(memory[1:2].view(1, 1, 5, 4), torch.ones(1, 1, 3, 4), torch.tensor([position]), 2)
    written = [position + token for token in range(3) if 0 <= position + token < 5]
    expected = torch.zeros(3, 5, 4)
    expected[1, written] = 1
    assert torch.equal(memory, expected)


@pytest.mark.parametrize("way", ALL)
def test_a_ring_of_a_position_that_there_is_not_stays_inside(way: Way) -> None:
    for position in (-1, -7, 2**63 - 1, -(2**63)):
        memory = torch.zeros(3, 5, 4)
        with by(way):
            ring_write(memory[1:2].view(1, 1, 5, 4), torch.ones(1, 1, 3, 4), torch.tensor([position]), 2)
        assert memory[[0, 2]].eq(0).all()


@cases
@given(
    way=ways,
    positions=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    tokens=st.integers(1, 20),
    size=st.integers(1, 17),
)
def test_ring_positions(way: Way, positions: list[int], tokens: int, size: int) -> None:
    ids, position = torch.zeros(len(positions), tokens, dtype=torch.int64), torch.tensor(positions)
    with by(way):
        found = ring_positions(ids, position, size)
    assert torch.equal(found, burnish_ops.ring_positions(ids, position, size))


def test_refusals() -> None:
    state, new, position = torch.zeros(2, 8, 4), torch.zeros(2, 1, 4), torch.tensor([0, 0])
    with pytest.raises(UnsupportedError, match="one stretch of memory"):
        cache_write(torch.zeros(2, 16, 4)[:, ::2], new, position, 1)
    with pytest.raises(UnsupportedError, match="made of"):
        cache_write(state, new.half(), position, 1)
    with pytest.raises(UnsupportedError, match="int64"):
        ring_write(state, new, position.int(), 1)
    with pytest.raises(UnsupportedError, match="the batch's"):
        ring_write(state, new, position, 0)
