"""The native convolution against `aten::conv1d`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from burnish.codegen.native.convolution import conv1d
from burnish.ir.errors import UnsupportedError
from tests.codegen.native.ways import Way, by, cases, ways


@cases
@given(
    way=ways,
    batch=st.integers(1, 3),
    groups=st.integers(1, 5),
    inputs=st.integers(1, 3),
    outputs=st.integers(1, 3),
    taps=st.integers(1, 4),
    dilation=st.integers(1, 3),
    tokens=st.sampled_from([1, 2, 15, 16, 37]),
    has_bias=st.booleans(),
    tokens_first=st.booleans(),
)
def test_any_sizes(
    way: Way,
    batch: int,
    groups: int,
    inputs: int,
    outputs: int,
    taps: int,
    dilation: int,
    tokens: int,
    has_bias: bool,
    tokens_first: bool,
) -> None:
    torch.manual_seed(tokens * taps)
    read = tokens + (taps - 1) * dilation
    x = torch.randn(batch, groups * inputs, read)
    if tokens_first:  # as hidden states lie in memory
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
    weight = torch.randn(groups * outputs, inputs, taps)
    bias = torch.randn(groups * outputs) if has_bias else None
    expected = F.conv1d(x.double(), weight.double(), None if bias is None else bias.double(), 1, 0, dilation, groups)
    with by(way):
        found = conv1d(x, weight, bias, [1], [0], [dilation], groups)
        last = conv1d(x[:, :, tokens - 1 :], weight, bias, [1], [0], [dilation], groups)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(found[:, :, -1:], last), "a token's numbers depend on how many others there are"


def test_strides_and_padding_are_refused() -> None:
    x, weight = torch.randn(1, 2, 8), torch.randn(2, 2, 3)
    for refused in (lambda: conv1d(x, weight, stride=[2]), lambda: conv1d(x, weight, padding=[1])):
        with pytest.raises(UnsupportedError, match="the kernel takes 1 and 0"):
            refused()
