"""The kernel against its reference, in one round and in several."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.triton.kernels.top_scores import top_scores
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_ops import fused_ops


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 3),
    size=st.integers(1, 20_000),
    count=st.integers(1, 256),
    spread=st.sampled_from([1, 30, 5000]),
    half=st.booleans(),
)
def test_rows_of_any_size(rows: int, size: int, count: int, spread: int, half: bool) -> None:
    """Many elements are equal: the first are meant."""
    torch.manual_seed(size)
    x = torch.randint(-spread, spread, (rows, 2, size)).to(torch.float16 if half else torch.float32) / 8
    count = min(count, size)
    assert torch.equal(top_scores(x, count), fused_ops.top_scores(x, count))


@pytest.mark.parametrize("size", [8192, 8193, 128_256])
def test_one_round_and_two(size: int) -> None:
    x = torch.randn(2, size).half()
    assert torch.equal(top_scores(x, 128), fused_ops.top_scores(x, 128))


def test_what_is_no_number_is_above_all() -> None:
    x = torch.randn(3, 9000)
    x[0, 7], x[0, -1], x[0, 0] = torch.nan, torch.inf, -torch.nan
    x[1] = -torch.inf
    x[2], x[2, -1] = -0.0, 0.0
    assert top_scores(x, 3)[:, 1].tolist() == [[0, 7, 8999], [0, 1, 2], [0, 1, 2]]
    assert top_scores(x, 3)[1, 0].view(torch.float32).tolist() == [-torch.inf] * 3


def test_bfloat16_is_widened() -> None:
    x = torch.randn(2, 4100).bfloat16()
    assert torch.equal(top_scores(x, 64), fused_ops.top_scores(x, 64))


def test_other_numbers_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"scores of torch.int64"):
        top_scores(torch.zeros(2, 3, dtype=torch.int64), 1)
    for count in (0, 4, 257):
        with pytest.raises(UnsupportedError, match=f"the best {count} of "):
            top_scores(torch.zeros(2, 300 if count == 257 else 3), count)
