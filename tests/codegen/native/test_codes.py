"""Native kernels for numbers of 8 bits, against their references: equal to the last bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from burnish.codegen.native.codes import code_scales, from_codes, to_codes
from burnish.ir.code_ops import code_ops
from burnish.ir.errors import UnsupportedError
from tests.codegen.native.ways import ALL, Way, by, cases, ways


def same(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


@cases
@given(
    way=ways,
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    numbers=st.sampled_from(["int8", "fp8"]),
    fixed=st.booleans(),
    turned=st.booleans(),
)
def test_there_and_back(way: Way, shape: list[int], numbers: str, fixed: bool, turned: bool) -> None:
    torch.manual_seed(sum(shape))
    x = torch.randn(shape) * torch.rand(shape[-1]) * 10
    if turned:
        x = x.transpose(0, -1).contiguous().transpose(0, -1)
    scales = torch.rand(shape[-1]) + 0.01 if fixed else code_ops.code_scales(x, numbers)
    codes = code_ops.to_codes(x, scales, numbers)
    with by(way):
        same(code_scales(x, numbers), code_ops.code_scales(x, numbers))
        same(to_codes(x, scales, numbers), codes)
        same(from_codes(codes, scales), code_ops.from_codes(codes, scales))


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
def test_every_code(way: Way, dtype: torch.dtype) -> None:
    codes, scales = torch.arange(256).to(dtype).view(2, 128), torch.tensor([[1.0], [0.3]])
    with by(way):
        same(from_codes(codes, scales), code_ops.from_codes(codes, scales))


@pytest.mark.parametrize("way", ALL)
@pytest.mark.parametrize("numbers", ["int8", "fp8"])
def test_halves_what_is_too_large_and_what_is_no_number(way: Way, numbers: str) -> None:
    exact = code_ops.from_codes(torch.arange(127).to(torch.uint8), torch.ones(1))
    between = (exact[1:] + exact[:-1]) / 2
    strange = torch.tensor([0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1e30, -1e30, 1e-40, 127.5, -128.5, 449.0])
    x = torch.cat((exact, between, between.nextafter(torch.tensor(0.0)), -between, strange, torch.arange(-64, 64) / 2))
    scales = torch.ones(1)
    with by(way):
        same(to_codes(x, scales, numbers), code_ops.to_codes(x, scales, numbers))


@pytest.mark.parametrize("way", ALL)
def test_scales_of_nothing_and_of_no_number(way: Way) -> None:
    x = torch.zeros(5, 17)
    x[1, 3], x[2, 0], x[3, 16], x[4, 2] = torch.nan, torch.inf, -5.0, 1e-44
    x[1, 7] = 3.0
    with by(way):
        for numbers in ("int8", "fp8"):
            same(code_scales(x, numbers), code_ops.code_scales(x, numbers))


def test_refusals() -> None:
    with pytest.raises(UnsupportedError, match="float32"):
        code_scales(torch.zeros(2, 3).half(), "int8")
    with pytest.raises(UnsupportedError, match="codes of"):
        from_codes(torch.zeros(2, 3), torch.ones(1))
    with pytest.raises(UnsupportedError, match="four axes"):
        code_scales(torch.zeros(1, 1, 1, 1, 2), "int8")
