"""Native kernels that read and write elements by their places, and that add them up, against ATen."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from burnish.codegen.native.gathers import cumsum, gather, scatter_source, scatter_value
from burnish.ir.errors import UnsupportedError
from tests.codegen.native.ways import ALL, Way, by, cases, ways

DTYPES = [torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool]
shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4)


@cases
@given(
    way=ways,
    shape=shapes,
    axis=st.integers(0, 3),
    size=st.sampled_from([1, 37, 300]),
    places=st.integers(1, 9),
    value=st.sampled_from([0, 1, 3.5, -7, -math.inf]),
    dtype=st.sampled_from(DTYPES),
    turned=st.booleans(),
)
def test_gather_and_scatter(
    way: Way,
    shape: list[int],
    axis: int,
    size: int,
    places: int,
    value: float,
    dtype: torch.dtype,
    turned: bool,
) -> None:
    torch.manual_seed(size)
    axis %= len(shape)
    places = min(places, size)
    x = torch.randint(0, 5, [*shape[:axis], size, *shape[axis + 1 :]]).to(dtype)
    if turned:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    order = torch.rand(x.shape).argsort(axis)  # no place twice
    index = order.narrow(axis, 0, places)
    source = torch.randint(0, 5, index.shape).to(dtype)
    number = value if dtype.is_floating_point else abs(int(value)) if math.isfinite(value) else 2
    with by(way):
        assert torch.equal(gather(x, axis - len(shape), index), torch.gather(x, axis, index))
        assert torch.equal(scatter_source(x, axis, index, source), torch.scatter(x, axis, index, source))
        assert torch.equal(scatter_value(x, axis, index, number), torch.scatter(x, axis, index, number))


@pytest.mark.parametrize("way", ALL)
def test_the_last_of_equal_places_wins(way: Way) -> None:
    with by(way):
        found = scatter_source(torch.zeros(1, 4), 1, torch.tensor([[2, 2, 0]]), torch.tensor([[5.0, 7.0, 1.0]]))
    assert found.tolist() == [[1.0, 0.0, 7.0, 0.0]]


@pytest.mark.parametrize("way", ALL)
def test_a_place_that_there_is_not_reads_and_writes_nothing(way: Way) -> None:
    index = torch.tensor([[4, -1, 2**62, -(2**63), 3]])
    with by(way):
        found = gather(torch.arange(12.0).view(3, 4)[1:2], 1, index)
        whole = gather(torch.arange(12).view(3, 4)[1:2], 1, index)
        put = scatter_value(torch.zeros(3, 4)[1:2], 1, index, 1.0)
    assert found[0, :4].isnan().all()
    assert found[0, 4] == 7
    assert whole.tolist() == [[-1, -1, -1, -1, 7]]
    assert put.tolist() == [[0, 0, 0, 1]]


@cases
@given(way=ways, shape=shapes, axis=st.integers(0, 3), dtype=st.sampled_from(DTYPES), as_floats=st.booleans())
def test_cumsum(way: Way, shape: list[int], axis: int, dtype: torch.dtype, as_floats: bool) -> None:
    torch.manual_seed(len(shape))
    if dtype in (torch.float16, torch.uint8):
        dtype = torch.float32
    x = (torch.randn(shape) * 9).to(dtype)
    out = torch.float32 if as_floats else None
    with by(way):
        found = cumsum(x, axis % len(shape) - len(shape), dtype=out)
    expected = torch.cumsum(x, axis % len(shape), dtype=out)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6 if as_floats else 0)


def test_refusals() -> None:
    x, index = torch.randn(3, 4), torch.zeros(2, 2, dtype=torch.int64)
    refusals = (
        lambda: gather(x, 0, index),
        lambda: gather(x, 1, index),
        lambda: gather(x, 1, torch.zeros(3, 2, dtype=torch.int32)),
        lambda: scatter_value(x, 0, index, 1),
        lambda: scatter_value(x.double(), 1, torch.zeros(3, 1, dtype=torch.int64), 1),
        lambda: scatter_source(x, 1, torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 2)),
        lambda: cumsum(x.double(), 1),
        lambda: cumsum(x, 1, dtype=torch.int64),
    )
    for refused in refusals:
        with pytest.raises(UnsupportedError, match="the kernel"):
            refused()
