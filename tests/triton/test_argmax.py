"""The kernel against `torch.argmax`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.triton.kernels.argmax import argmax
from burnish.ir.errors import UnsupportedError


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 4), size=st.integers(1, 7000), spread=st.sampled_from([1, 3, 1000]), half=st.booleans())
def test_rows_of_any_size(rows: int, size: int, spread: int, half: bool) -> None:
    """Many elements are equal: the first is meant."""
    torch.manual_seed(size)
    x = torch.randint(-spread, spread, (2, rows, size)).to(torch.float16 if half else torch.float32)
    assert torch.equal(argmax(x, -1), x.argmax(-1))


@pytest.mark.parametrize("size", [7, 2048, 2049, 5000])
def test_what_is_no_number_is_above_all(size: int) -> None:
    x = torch.randn(6, size)
    x[0, -1] = torch.inf
    x[1, 3], x[1, -1] = torch.inf, torch.nan
    x[2, 2], x[2, -1] = -torch.nan, torch.nan
    x[3] = -torch.inf
    x[4], x[4, -1] = -0.0, 0.0
    x[5], x[5, -2] = -torch.inf, torch.finfo(torch.float32).min
    assert torch.equal(argmax(x, -1), x.argmax(-1))
    assert argmax(x, -1)[:5].tolist() == [size - 1, size - 1, 2, 0, 0]


def test_bfloat16_is_compared_as_it_is() -> None:
    x = torch.randn(2, 4100).bfloat16()
    assert torch.equal(argmax(x, -1), x.argmax(-1))


def test_rows_that_are_parts_of_longer_rows() -> None:
    x = torch.randn(3, 2, 40)[..., 1:18]
    assert torch.equal(argmax(x, 2, keepdim=True), x.argmax(2, keepdim=True))


def test_other_numbers_and_axes_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"argmax of torch.int64"):
        argmax(torch.zeros(2, 3, dtype=torch.int64), -1)
    for axis in (0, None):
        with pytest.raises(UnsupportedError, match="takes the last axis"):
            argmax(torch.zeros(2, 3), axis)
