"""Memory by lifetime."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from burnish.runtime.arena import ALIGNMENT, Lifetime, place

lifetimes = st.lists(
    st.builds(
        lambda size, first, length: Lifetime(size, first, first + length),
        st.integers(0, 5000),
        st.integers(0, 20),
        st.integers(0, 8),
    ),
    max_size=30,
)


@given(lifetimes)
def test_what_lives_together_lies_apart_and_inside(buffers: list[Lifetime]) -> None:
    offsets, total = place(buffers)
    for index, (mine, offset) in enumerate(zip(buffers, offsets, strict=True)):
        assert offset % ALIGNMENT == 0
        assert offset + mine.size <= total
        for other, there in list(zip(buffers, offsets, strict=True))[:index]:
            together = mine.first <= other.last and other.first <= mine.last
            assert not together or offset + mine.size <= there or there + other.size <= offset


def test_a_chain_takes_the_memory_of_two() -> None:
    offsets, total = place([Lifetime(1024, step, step + 1) for step in range(10)])
    assert total == 2 * 1024
    assert offsets == [0, 1024] * 5


def test_a_small_one_goes_into_the_gap_between_others() -> None:
    offsets, total = place([Lifetime(1024, 0, 3), Lifetime(512, 0, 1), Lifetime(1000, 0, 3), Lifetime(500, 2, 3)])
    assert offsets == [0, 2048, 1024, 2048]
    assert total == 2560
