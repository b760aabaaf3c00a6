"""Norms, softmax, reductions and rotary embeddings against ATen and the references."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.codegen.native.lowerings import KERNELS
from burnish.ir.errors import UnsupportedError
from burnish.ir.ops import burnish_ops
from tests.codegen.native.drawn import MACHINES, assert_same, filled, machine, shapes, strided

aten = torch.ops.aten


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    torch.testing.assert_close(found, expected, rtol=2e-5, atol=2e-5, equal_nan=True)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes(1), weighted=st.booleans(), biased=st.booleans())
def test_norms(data: st.DataObject, where: tuple[str | None, int], shape: Any, weighted: bool, biased: bool) -> None:
    x = data.draw(strided(shape, dense=True))  # of a row of one number all that is left is how its mean was rounded
    weight = filled(shape[-1:], torch.float32, 1) if weighted else None
    bias = filled(shape[-1:], torch.float32, 2) if weighted and biased else None
    with machine(*where):
        rms = KERNELS[burnish_ops.rms_norm.default](x, weight, 1e-3)
        layer = KERNELS[aten.layer_norm.default](x, [shape[-1]], weight, bias, 0.1)
    assert_close(rms, burnish_ops.rms_norm(x, weight, 1e-3))
    assert_close(layer, aten.layer_norm(x, [shape[-1]], weight, bias, 0.1))


def test_a_norm_with_weights_for_each_head() -> None:
    x, weight = torch.randn(2, 3, 5, 16), torch.randn(3, 1, 16)
    assert_close(KERNELS[burnish_ops.rms_norm.default](x, weight, 1e-5), burnish_ops.rms_norm(x, weight, 1e-5))
    with pytest.raises(UnsupportedError, match="last axis"):
        KERNELS[aten.layer_norm.default](x, [5, 16])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes(1))
def test_softmax(data: st.DataObject, where: tuple[str | None, int], shape: Any) -> None:
    x = data.draw(strided(shape, strange=data.draw(st.booleans())))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    with machine(*where):
        assert_close(KERNELS[aten.softmax.int](x, dim), x.softmax(dim))
        assert_close(KERNELS[aten._softmax.default](x, dim, False), x.softmax(dim))


def test_softmax_of_masked_rows() -> None:
    """What is masked has no probability; a row of nothing else has none that are numbers."""
    x = torch.randn(3, 21).masked_fill(torch.arange(21) > 4, float("-inf"))
    x[1] = float("-inf")
    assert_close(KERNELS[aten.softmax.int](x, -1), x.softmax(-1))
    half = x.half()
    torch.testing.assert_close(KERNELS[aten.softmax.int](half, -1), half.softmax(-1), equal_nan=True)
    assert_close(KERNELS[aten.softmax.int](half, -1, torch.float32), half.softmax(-1, torch.float32))


@pytest.mark.parametrize("target", [aten.sum.dim_IntList, aten.mean.dim, aten.amax.default], ids=str)
@settings(max_examples=60, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes(1), keepdim=st.booleans())
def test_reductions(target: Any, data: st.DataObject, where: tuple[str | None, int], shape: Any, keepdim: bool) -> None:
    dtypes = {aten.mean.dim: [torch.float32]}.get(target, [torch.float32, torch.int64, torch.int32, torch.bool])
    x = data.draw(strided(shape, data.draw(st.sampled_from(dtypes)), strange=data.draw(st.booleans())))
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, max_size=len(shape)))
    axes = [axis - len(shape) if data.draw(st.booleans()) else axis for axis in axes]
    exact = not x.dtype.is_floating_point or target is aten.amax.default
    with machine(*where):
        found = KERNELS[target](x, axes, keepdim)
    (assert_same if exact else assert_close)(found, target(x, axes, keepdim))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes(1), keepdim=st.booleans())
def test_the_place_of_the_greatest(
    data: st.DataObject, where: tuple[str | None, int], shape: Any, keepdim: bool
) -> None:
    """The first of equal ones: here they are all whole numbers."""
    x = data.draw(strided(shape)).round()
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    with machine(*where):
        found = KERNELS[aten.argmax.default](x, dim, keepdim)
    assert torch.equal(found, x.argmax(dim, keepdim))


def test_reductions_in_another_type() -> None:
    x = filled([3, 5, 40], torch.float32, 0)
    for found, expected in (
        (KERNELS[aten.sum.dim_IntList](x > 0, [-1], dtype=torch.float32), (x > 0).sum(-1, dtype=torch.float32)),
        (KERNELS[aten.mean.dim](x > 0, [0, 2], True, dtype=torch.float32), (x > 0).float().mean((0, 2), True)),
        (KERNELS[aten.sum.dim_IntList](x, None), x.sum()),
    ):
        assert_close(found, expected)
    half = x.half()
    torch.testing.assert_close(KERNELS[aten.mean.dim](half, [-1]), half.mean(-1))
    with pytest.raises(UnsupportedError, match="float64"):
        KERNELS[aten.sum.dim_IntList](x.double(), [-1])


@settings(max_examples=80, deadline=None)
@given(data=st.data(), where=MACHINES, lead=st.tuples(*[st.integers(1, 4)] * 3), interleaved=st.booleans())
def test_rotary(
    data: st.DataObject, where: tuple[str | None, int], lead: tuple[int, int, int], interleaved: bool
) -> None:
    size = data.draw(st.sampled_from([2, 6, 32, 40, 128]))
    turned = data.draw(st.sampled_from([size, size // 2 // 2 * 2 or size]))
    batch, heads, tokens = lead
    x = data.draw(strided((*lead, size)))
    of_heads = heads if data.draw(st.booleans()) else 1
    shape = (batch, of_heads, tokens, turned) if data.draw(st.booleans()) else (tokens, turned)
    cos, sin = (data.draw(strided(shape)) for _ in range(2))
    with machine(*where):
        found = KERNELS[burnish_ops.rotary.default](x, cos, sin, interleaved)
    assert_close(found, burnish_ops.rotary(x, cos, sin, interleaved))
