"""The kernel against `burnish::rms_norm`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.triton.kernels.rms_norm import rms_norm
from burnish.ir.ops import burnish_ops


@settings(max_examples=15, deadline=None)
@given(rows=st.integers(1, 5), size=st.integers(1, 300), weighted=st.booleans())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_rows_of_any_size(dtype: torch.dtype, rows: int, size: int, weighted: bool) -> None:
    x = torch.randn(rows, size, dtype=dtype)
    weight = torch.randn(size, dtype=dtype) if weighted else None
    expected = burnish_ops.rms_norm(x.double(), None if weight is None else weight.double(), 1e-5)
    tolerance = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(rms_norm(x, weight, 1e-5).double(), expected, rtol=tolerance, atol=tolerance)


def test_zeros_stay_zeros() -> None:
    assert rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-6).eq(0).all()


def test_rows_that_are_parts_of_longer_rows() -> None:
    x, weight = torch.randn(3, 40)[:, :17], torch.randn(17)
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), burnish_ops.rms_norm(x, weight, 1e-5))
