"""The kernel against `burnish::fused_linear`, in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.triton.kernels.fused_linear import aligned_rows, fused_linear
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_ops import fused_ops
from burnish.passes.transforms.quantize_rounding import Grid, nearest


def check(rows: int, n: int, k: int, dtype: torch.dtype = torch.float32, gated: bool = False, **options: Any) -> None:
    generator = torch.Generator().manual_seed(rows * 1000 + n + k)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    x, weight = draw(rows, k), draw(n, k) / k**0.5
    names = options.pop("given", ())
    shapes = {"bias": (n,), "norm_weight": (k,), "norm_bias": (k,), "residual": (rows, n // 2 if gated else n)}
    tensors = {name: draw(*shapes[name]) for name in names}
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    expected = fused_ops.fused_linear(x.double(), weight.double(), **wide, gated=gated, **options)
    found = fused_linear(x, weight, **tensors, gated=gated, **options)
    tolerance = 2e-5 if dtype == torch.float32 else 5e-3
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


@settings(max_examples=25, deadline=None)
@given(rows=st.sampled_from([1, 2, 3, 16, 17, 65]), n=st.integers(1, 90), k=st.integers(1, 150))
def test_any_sizes(rows: int, n: int, k: int) -> None:
    check(rows, n, k)


@pytest.mark.parametrize("rows", [1, 5, 20])
@pytest.mark.parametrize(
    "options",
    [
        {"given": ("bias",)},
        {"norm": "rms", "eps": 1e-5, "given": ("norm_weight",)},
        {"norm": "rms", "eps": 1e-5},
        {"norm": "layer", "eps": 1e-5, "given": ("norm_weight", "norm_bias", "bias", "residual")},
        {"given": ("residual",), "scale": 0.25},
        {"softcap": 3.0},
        {"gated": True, "activation": "silu", "given": ("bias",)},
        {"gated": True, "activation": "gelu_tanh", "norm": "rms", "eps": 1e-6, "given": ("norm_weight",)},
        *({"activation": name} for name in ("silu", "gelu", "gelu_tanh", "relu", "sigmoid")),
    ],
    ids=str,
)
def test_every_switch(rows: int, options: dict[str, Any]) -> None:
    check(rows, 38, 70, **options)


@pytest.mark.parametrize("rows", [1, 4])
def test_float16(rows: int) -> None:
    check(rows, 48, 96, torch.float16, norm="rms", eps=1e-5, given=("norm_weight", "residual"))


def test_a_layer_norm_far_from_zero_keeps_its_digits() -> None:
    """The mean is taken away before squares are summed."""
    x = torch.randn(1, 64) + 1000
    weight = torch.randn(8, 64)
    expected = fused_ops.fused_linear(x.double(), weight.double(), norm="layer", eps=1e-5)
    found = fused_linear(x, weight, norm="layer", eps=1e-5)
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    tokens=st.integers(1, 7),
    start=st.integers(0, 20),
    k=st.integers(1, 70),
    rest=st.integers(0, 9),
    turned=st.booleans(),
)
def test_a_part_of_each_row(batch: int, tokens: int, start: int, k: int, rest: int, turned: bool) -> None:
    """Read where it is, at any place; rows in another order are copied."""
    whole, weight = torch.randn(batch, tokens, start + k + rest), torch.randn(9, k)
    x = whole[..., start : start + k]
    x = x.transpose(0, 1) if turned else x
    residual = torch.randn(*x.shape[:2], 9)
    expected = fused_ops.fused_linear(x, weight, residual=residual, norm="rms", eps=1e-5)
    found = fused_linear(x, weight, residual=residual, norm="rms", eps=1e-5)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5)
    lines, stride, aligned = aligned_rows(x)
    assert lines is x or turned
    assert aligned == {
        name for name, place in (("x_ptr", 4 * lines.storage_offset()), ("x_stride", stride)) if place % 16 == 0
    }


def test_leading_axes_stay() -> None:
    x, weight = torch.randn(2, 3, 16), torch.randn(5, 16)
    torch.testing.assert_close(fused_linear(x, weight), x @ weight.T, rtol=1e-5, atol=1e-5)


@settings(max_examples=12, deadline=None)
@given(
    rows=st.sampled_from([1, 3, 18]),
    n=st.sampled_from([6, 16, 40]),
    groups=st.integers(1, 5),
    group=st.sampled_from([32, 64]),
    bits=st.sampled_from([8, 4]),
    gated=st.booleans(),
)
def test_weights_of_8_and_4_bits(rows: int, n: int, groups: int, group: int, bits: int, gated: bool) -> None:
    torch.manual_seed(rows + n)
    size_k = groups * group
    quantized = nearest(torch.randn(n, size_k), Grid(bits, group))
    weight, scales = quantized.values.materialize(), quantized.scales.materialize()
    x, norm_weight = torch.randn(rows, size_k), torch.randn(size_k)
    options: dict[str, Any] = {"norm": "rms", "eps": 1e-5, "gated": gated, "activation": "silu"}
    expected = fused_ops.fused_linear(x, weight, None, norm_weight, scales=scales, **options)
    found = fused_linear(x, weight, None, norm_weight, scales=scales, **options)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_groups_that_the_kernel_does_not_take_are_refused() -> None:
    quantized = nearest(torch.randn(4, 16), Grid(8, 16))
    with pytest.raises(UnsupportedError, match="16 weights share a scale: the kernel takes 32, 64 and 128"):
        fused_linear(torch.randn(1, 16), quantized.values.materialize(), scales=quantized.scales.materialize())
