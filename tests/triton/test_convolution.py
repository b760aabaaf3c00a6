"""Convolutions over remembered tokens, and running totals, against ATen; the models that have them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.plan.planner import fallbacks
from burnish.codegen.triton.kernels.conv1d import conv1d
from burnish.codegen.triton.kernels.cumsum import cumsum
from burnish.codegen.triton.lower import plan
from burnish.ir.errors import UnsupportedError
from tests.triton.planned import assert_steps_match, fused, interpreted


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 5, 70]),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    tokens=st.sampled_from([1, 2, 9, 70]),
    taps=st.integers(1, 4),
    dilation=st.integers(1, 3),
    has_bias=st.booleans(),
    turned=st.booleans(),
    half=st.booleans(),
)
def test_convolutions(
    batch: int,
    groups: int,
    inputs: int,
    outputs: int,
    tokens: int,
    taps: int,
    dilation: int,
    has_bias: bool,
    turned: bool,
    half: bool,
) -> None:
    torch.manual_seed(tokens)
    dtype = torch.float16 if half else torch.float32
    length = tokens + (taps - 1) * dilation
    x = torch.randn(batch, length, groups * inputs).transpose(1, 2).to(dtype)
    x = x if turned else x.contiguous()
    weight = torch.randn(groups * outputs, inputs, taps).to(dtype) / (inputs * taps) ** 0.5
    bias = torch.randn(groups * outputs).to(dtype) if has_bias else None
    found = conv1d(x, weight, bias, [1], [0], [dilation], groups)
    wide_bias = None if bias is None else bias.double()
    expected = F.conv1d(x.double(), weight.double(), wide_bias, 1, 0, dilation, groups)
    tolerance = 4e-3 if half else 1e-5
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


def test_other_convolutions_are_refused() -> None:
    x, weight = torch.randn(1, 4, 9), torch.randn(4, 1, 3)
    for options in ({"stride": [2]}, {"padding": [1]}):
        with pytest.raises(UnsupportedError, match="the kernel takes 1 and 0"):
            conv1d(x, weight, None, groups=4, **options)
    with pytest.raises(UnsupportedError, match="32 or 16 bits for both"):
        conv1d(x, weight.half(), None, groups=4)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 3),
    size=st.sampled_from([1, 2, 31, 256, 600]),
    dtype=st.sampled_from([torch.int64, torch.int32, torch.bool, torch.float32]),
    turned=st.booleans(),
)
def test_running_totals(rows: int, size: int, dtype: torch.dtype, turned: bool) -> None:
    x = torch.randint(-5, 5, (size, rows)).to(dtype).T
    x = x if turned else x.contiguous()
    assert torch.equal(cumsum(x, -1), torch.cumsum(x, -1))


def test_running_totals_of_other_axes_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="the kernel takes the last axis"):
        cumsum(torch.ones(2, 3), 0)


@pytest.mark.slow("whole models are interpreted")
@pytest.mark.parametrize("model_type", ["lfm2", "zaya", "roberta"])
def test_whole_models(model_type: str) -> None:
    """Windows of tokens; two convolutions one on the other, the second over groups; places counted by a running sum."""
    program = fused(model_type)
    launches, _ = plan(program)
    assert fallbacks(launches) == {}
    assert_steps_match(program, interpreted(program, launches), 2, [5, 1, 2])
