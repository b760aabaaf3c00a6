"""Numbers as codes of 8 bits with a scale for each row, against what codes are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.ir.code_ops import CODES, LARGEST, code_ops


def rounded(x: Tensor, numbers: str) -> tuple[Tensor, Tensor, Tensor]:
    scales = code_ops.code_scales(x, numbers)
    codes = code_ops.to_codes(x, scales, numbers)
    return code_ops.from_codes(codes, scales), codes, scales


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(CODES)), st.integers(1, 5), st.integers(1, 70), st.floats(-30, 30), st.integers(0, 2**16))
def test_each_number_becomes_the_nearest(numbers: str, rows: int, size: int, exponent: float, seed: int) -> None:
    x = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * 2.0**exponent
    found, codes, scales = rounded(x, numbers)
    assert codes.dtype == CODES[numbers]
    assert scales.shape == (rows, 1)
    all_codes = torch.arange(256, dtype=torch.uint8).view(1, -1)
    all_codes = all_codes.view(torch.int8) if numbers == "int8" else all_codes
    values = code_ops.from_codes(all_codes.expand(rows, -1), scales).unsqueeze(1)
    nearest = (values - x.unsqueeze(-1)).abs().nan_to_num(torch.inf).amin(-1)
    torch.testing.assert_close((found - x).abs(), nearest, rtol=1e-4, atol=1e-6 * float(x.abs().max()))


@pytest.mark.parametrize("numbers", sorted(CODES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zeros_stay_zeros_and_the_greatest_stays_itself(numbers: str, dtype: torch.dtype) -> None:
    assert not rounded(torch.zeros(2, 3, dtype=dtype), numbers)[0].any()
    x = torch.tensor([[0.5, -3.0, 1.0]], dtype=dtype)
    found, codes, _ = rounded(x, numbers)
    assert found.dtype == dtype
    assert float(found[0, 1]) == pytest.approx(-3.0, rel=1e-2 if dtype != torch.float32 else 1e-6)
    most = codes if numbers == "int8" else codes.view(torch.float8_e4m3fn)
    assert abs(float(most[0, 1])) == LARGEST[numbers]
