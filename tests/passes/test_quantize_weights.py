"""Weights of products in 8 and 4 bits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.frontend import read
from burnish.ir.program import Program
from burnish.ir.quantization import LARGEST, QuantizedWeight, dequantized
from burnish.ir.text import call_text
from burnish.ir.trace import Trace
from burnish.ir.weights import Stored
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import fuse_for_gpu, make_incremental
from burnish.passes.quantize_weights import QuantizeWeights
from tests.passes.test_narrow_floats import logits
from tests.zoo.configs import build


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
    quantized = QuantizedWeight(Stored(weight), bits, group)
    values, scales = quantized.materialize(), quantized.scales.materialize()
    assert (values.shape, values.dtype) == (quantized.shape, quantized.dtype)
    assert (scales.shape, scales.dtype) == (quantized.scales.shape, quantized.scales.dtype)
    found = dequantized(values, scales)
    step = weight.reshape(rows, groups, group).abs().amax(-1, keepdim=True) / LARGEST[bits]
    error = (found - weight).reshape(rows, groups, group).abs()
    assert (error <= 0.51 * step + 1e-7).all()
    assert found[0, :group].eq(0).all()


def test_four_bits_lie_as_the_kernels_read_them() -> None:
    weight = (torch.arange(32) % 15 - 7).float().unsqueeze(0)
    values = QuantizedWeight(Stored(weight), 4, 32).materialize()
    assert values.shape == (1, 16)
    assert (values & 15).flatten().tolist() == [int(each) + 8 for each in weight[0, :16]]
    assert (values >> 4).flatten().tolist() == [int(each) + 8 for each in weight[0, 16:]]


def fused(model_type: str) -> Program:
    return run_passes(read(build(model_type)).program, [*make_incremental(), *fuse_for_gpu()], Trace())


@pytest.mark.parametrize("bits", [8, 4])
def test_products_read_integers_and_scales(bits: int) -> None:
    trace = Trace()
    after = run_passes(fused("llama"), [QuantizeWeights(bits)], trace)
    calls = [call_text(node) for node in after.graph.nodes if "o_proj" in str(node.all_input_nodes)]
    assert f"o_proj.weight.int{bits}" in calls[0]
    assert "scales=@model.layers.0.self_attn.o_proj.weight.scales" in calls[0]
    assert trace.passes[-1].rewrites[0].text == f"{bits} bits, a scale for each 32"
    assert trace.passes[-1].effect == "lossy"


def test_what_stays_says_why() -> None:
    trace = Trace()
    run_passes(fused("gemma2"), [QuantizeWeights(4, group=64)], trace)
    reasons = {entry.text for entry in trace.passes[-1].refusals}
    assert any("too, and would be stored twice" in reason for reason in reasons), reasons
    assert any("are no whole groups of 64" in reason for reason in reasons), reasons


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 5e-2), (4, 8e-1)])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2"])
def test_whole_models_stay_near(model_type: str, bits: int, tolerance: float) -> None:
    before = fused(model_type)
    after = run_passes(before, [QuantizeWeights(bits)], Trace())
    right, found = logits(before), logits(after)
    difference = float((found - right).abs().max() / right.abs().max())
    assert 0 < difference < tolerance
