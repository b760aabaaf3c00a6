"""The pattern language's words for ATen beyond plain arithmetic, and spellings that mean the same."""

from __future__ import annotations

import operator
from typing import Any

import torch

from burnish.ir.ops import burnish_ops
from burnish.rewrite.pattern import Axis, Either, Maybe, Pattern, div, either, mul, op, power

aten = torch.ops.aten

to = op(
    "cast",
    aten._to_copy.default,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.other,
    aten.type_as.default,
    free=("dtype", "other"),  # the value's type says which dtype
)
cat = op("cat", aten.cat.default, aten.concat.default)
conv1d = op("conv1d", aten.conv1d.default)
conv1d_by_name = op("conv1d", aten.conv1d.padding)
erf = op("erf", aten.erf.default)
getitem = op("getitem", operator.getitem)
layer_norm = op("layer_norm", aten.layer_norm.default)
linear = op("linear", aten.linear.default)
mean_of = op("mean", aten.mean.dim)
pad = op("pad", aten.constant_pad_nd.default, aten.pad.default, free=("mode", "value"))
reciprocal = op("reciprocal", aten.reciprocal.default)
reshape = op("reshape", aten.reshape.default, aten.view.default, aten._unsafe_view.default)
rsqrt = op("rsqrt", aten.rsqrt.default)
sigmoid = op("sigmoid", aten.sigmoid.default)
slice_of = op("slice", aten.slice.Tensor)
sqrt = op("sqrt", aten.sqrt.default)
stack = op("stack", aten.stack.default)
sum_of = op("sum", aten.sum.dim_IntList)
tanh = op("tanh", aten.tanh.default)
view_as_complex = op("view_as_complex", aten.view_as_complex.default)
view_as_real = op("view_as_real", aten.view_as_real.default)
zeros = op(
    "zeros",
    aten.full.default,
    aten.full_like.default,
    aten.new_full.default,
    aten.new_zeros.default,
    aten.zeros.default,
    aten.zeros_like.default,
    free=("fill_value", "dtype"),
)
rms_norm = op("rms_norm", burnish_ops.rms_norm.default)
rotary = op("rotary", burnish_ops.rotary.default)
aten_rms_norm = op("aten.rms_norm", aten.rms_norm.default)
variance_of = op("var", aten.var.dim, aten.var.correction)


def cast(inner: Pattern) -> Maybe:
    """`inner`, or `inner` in another dtype."""
    return Maybe(to, inner)


def mean(inner: Pattern, count: Pattern) -> Either:
    """The mean over the last axis, which stays with size 1; where it is a sum over a number, that is `count`."""
    return either(mean_of(inner, Axis(-1), True), div(sum_of(inner, Axis(-1), True), count))


def square(inner: Pattern) -> Either:
    """x ** 2 or x * x."""
    return either(power(inner, 2), mul(inner, inner))


def inverse_root(inner: Pattern) -> Either:
    """1 / sqrt(x), however it is written."""
    return either(rsqrt(inner), power(inner, -0.5), reciprocal(sqrt(inner)), div(1, sqrt(inner)))


def over_root(numerator: Pattern, inner: Pattern) -> Either:
    """numerator / sqrt(inner), however it is written."""
    return either(mul(numerator, inverse_root(inner)), div(numerator, either(sqrt(inner), power(inner, 0.5))))


def join(parts: list[Any]) -> Pattern:
    """Parts joined along the last axis."""
    return cat(parts, Axis(-1))


def population_variance(inner: Pattern) -> Either:
    """The mean square distance from the mean over the last axis, which is kept with size 1."""
    return either(
        variance_of(inner, Axis(-1), unbiased=False, keepdim=True),
        variance_of(inner, Axis(-1), correction=0, keepdim=True),
    )
