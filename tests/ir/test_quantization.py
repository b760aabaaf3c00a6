"""Weights of 8 and 4 bits: what they stand for, and how they lie."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.passes.transforms.quantize_rounding import Grid, nearest


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 4),
    group=st.sampled_from([32, 64]),
    bits=st.sampled_from([8, 4]),
    scale=st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_values_come_back_within_half_a_step(rows: int, groups: int, group: int, bits: int, scale: float) -> None:
    weight = torch.randn(rows, groups * group) * scale
    weight[0, :group] = 0
    quantized = nearest(weight, Grid(bits, group))
    assert (quantized.scales.shape, quantized.scales.dtype) == ((rows, groups), torch.float16)
    found = quantized.materialize()
    assert (found.shape, found.dtype) == (quantized.shape, quantized.dtype)
    step = weight.reshape(rows, groups, group).abs().amax(-1, keepdim=True) / (127 if bits == 8 else 7)
    error = (found - weight).reshape(rows, groups, group).abs()
    assert (error <= 0.51 * step + 1e-7).all()
    assert found[0, :group].eq(0).all()


def test_four_bits_lie_as_the_kernels_read_them() -> None:
    weight = (torch.arange(32) % 15 - 7).float().unsqueeze(0)
    values = nearest(weight, Grid(4, 32)).values.materialize()
    assert values.shape == (1, 16)
    assert (values & 15).flatten().tolist() == [int(each) + 8 for each in weight[0, :16]]
    assert (values >> 4).flatten().tolist() == [int(each) + 8 for each in weight[0, 16:]]
