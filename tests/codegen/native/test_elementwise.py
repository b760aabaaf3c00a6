"""The kernel of pointwise ops, and copies, against ATen."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.codegen.native.copies import copy
from burnish.codegen.native.elementwise import FORMULAS
from burnish.codegen.native.lowerings import KERNELS
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_group import MEMBERS, POINTWISE
from burnish.ir.ops import ACTIVATIONS, burnish_ops
from tests.codegen.native.drawn import (
    MACHINES,
    assert_alike,
    assert_same,
    filled,
    machine,
    shapes,
    strided,
)

aten = torch.ops.aten

EXACT = ["abs", "neg", "ceil", "floor", "square", "relu", "relu6", "hardtanh", "clone", "contiguous"]
ROUNDED = [
    *("exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tanh", "erf", "gelu", "silu"),
    *("sigmoid", "elu", "softplus", "mish", "hardsigmoid", "hardswish", "leaky_relu"),
]
OF_TWO = {
    "add": ["Tensor", "Scalar"],
    "sub": ["Tensor", "Scalar"],
    "mul": ["Tensor", "Scalar"],
    "div": ["Tensor", "Scalar"],
    **{name: ["Tensor", "Scalar"] for name in ("eq", "ne", "lt", "le", "gt", "ge")},
    **{name: ["default"] for name in ("maximum", "minimum", "logical_and", "logical_or")},
    "max": ["other"],
    "min": ["other"],
    "rsub": ["Scalar"],
}
DTYPES = [torch.float32, torch.int64, torch.int32, torch.bool]
NUMBERS = st.sampled_from([0, 1, -3, 2.5, 0.1, -7.0, math.inf, -math.inf])


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert_alike(found, expected)
    torch.testing.assert_close(found, expected, rtol=2e-6, atol=5e-6, equal_nan=True)


def check(target: Any, *args: Any, near: bool = False, **kwargs: Any) -> None:
    """The kernel gives what ATen gives, or nothing where ATen refuses."""
    try:
        expected = target(*args, **kwargs)
    except RuntimeError:
        return
    (assert_near if near else assert_same)(KERNELS[target](*args, **kwargs), expected)


@pytest.mark.parametrize("name", [*EXACT, *ROUNDED])
@settings(max_examples=20, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes())
def test_functions_of_one_number(name: str, data: st.DataObject, where: tuple[str | None, int], shape: Any) -> None:
    x = data.draw(strided(shape, strange=name != "gelu"))  # ATen's own has 0 or NaN for -inf, by the place
    with machine(*where):
        check(getattr(aten, name).default, x, near=name in ROUNDED)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes(), name=st.sampled_from(["abs", "neg", "relu", "floor", "exp"]))
def test_functions_of_integers(data: st.DataObject, where: tuple[str | None, int], shape: Any, name: str) -> None:
    x = data.draw(strided(shape, data.draw(st.sampled_from([torch.int64, torch.int32]))))
    with machine(*where):
        check(getattr(aten, name).default, x, near=name == "exp")
        check(aten.bitwise_not.default, x)
        check(aten.bitwise_and.Tensor, x, x.flip(0) if x.dim() else x)


@pytest.mark.parametrize("name", OF_TWO)
@settings(max_examples=30, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes())
def test_functions_of_two(name: str, data: st.DataObject, where: tuple[str | None, int], shape: Any) -> None:
    overload = data.draw(st.sampled_from(OF_TWO[name]))
    x = data.draw(strided(shape, data.draw(st.sampled_from(DTYPES)), strange=True))
    if overload == "Scalar":
        other: Any = data.draw(NUMBERS)
    else:
        smaller = [size if data.draw(st.booleans()) else 1 for size in shape]
        kept = smaller[data.draw(st.integers(0, len(smaller))) :]
        other = data.draw(strided(kept, data.draw(st.sampled_from(DTYPES)), strange=True))
    alpha = {"alpha": 2} if name in ("add", "sub", "rsub") and data.draw(st.booleans()) else {}
    with machine(*where):
        check(getattr(getattr(aten, name), overload), x, other, near=bool(alpha) or name == "div", **alpha)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes())
def test_choices(data: st.DataObject, where: tuple[str | None, int], shape: Any) -> None:
    mask = data.draw(strided(shape, torch.bool))
    one, two = (data.draw(strided(shape, data.draw(st.sampled_from(DTYPES)), strange=True)) for _ in range(2))
    value = data.draw(NUMBERS)
    if isinstance(value, float) and math.isinf(value) and not one.dtype.is_floating_point:
        value = 4
    with machine(*where):
        check(aten.where.self, mask, one, two)
        check(aten.where.ScalarSelf, mask, value, one)
        check(aten.where.ScalarOther, mask, one, value)
        check(aten.masked_fill.Scalar, one, mask, value)
        check(aten.logical_not.default, one)
        check(aten.clamp.default, one, -1, 2)
        check(aten.clamp.default, one, None, 2.5)
        check(aten.clamp_min.default, one, 1)
        check(aten.clamp_max.default, one, -1.5)
        check(aten.bitwise_or.Tensor, mask, mask.logical_not())
        check(aten.bitwise_not.default, mask)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes())
def test_casts(data: st.DataObject, where: tuple[str | None, int], shape: Any) -> None:
    dtypes = st.sampled_from([*DTYPES, torch.float16, torch.bfloat16, torch.int8, torch.uint8])
    source, target = data.draw(dtypes), data.draw(dtypes)
    x = data.draw(strided(shape, source))
    if target == torch.uint8:
        x = x.abs() if x.dtype != torch.bool else x
    with machine(*where):
        check(aten.to.dtype, x, target)
        check(aten._to_copy.default, x, dtype=target)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes(), dtype=st.sampled_from([torch.float16, torch.bfloat16]))
def test_narrow_floats(data: st.DataObject, where: tuple[str | None, int], shape: Any, dtype: torch.dtype) -> None:
    """Computed in float32, and rounded once."""
    x, y = (data.draw(strided(shape, dtype, strange=True, dense=True)) for _ in range(2))
    with machine(*where):
        for name in ("add", "mul", "gt"):
            check(getattr(aten, name).Tensor, x, y)
        check(aten.gt.Scalar, x, 0.1)
        check(aten.mul.Scalar, x, 0.1)
        check(aten.masked_fill.Scalar, x, y > 0, -math.inf)


@pytest.mark.parametrize("exponent", [2, 3, 0.5, -0.5, -1, 1.7, 0])
def test_powers(exponent: float) -> None:
    for x in (filled([3, 40], torch.float32, 0, strange=True), filled([7], torch.int64, 1)):
        check(aten.pow.Tensor_Scalar, x, exponent, near=True)


def test_functions_with_numbers() -> None:
    x = filled([5, 33], torch.float32, 2, strange=True)
    check(aten.gelu.default, x.nan_to_num(), approximate="tanh", near=True)
    check(aten.leaky_relu.default, x, 0.3, near=True)
    check(aten.log_sigmoid.default, x, near=True)
    check(aten.elu.default, x, 0.5, near=True)
    check(aten.elu.default, x, 1.7, 1.1, near=True)
    check(aten.softplus.default, x, 2.0, 1.0, near=True)
    check(aten.hardtanh.default, x, -0.5, 0.25)
    with pytest.raises(UnsupportedError, match="input scale"):
        KERNELS[aten.elu.default](x, 1.0, 1.0, 0.5)
    with pytest.raises(UnsupportedError, match=r"no torch\.float64"):
        KERNELS[aten.to.dtype](x, torch.float64)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes(1), activation=st.sampled_from(sorted(ACTIVATIONS)))
def test_gated_activations(data: st.DataObject, where: tuple[str | None, int], shape: Any, activation: str) -> None:
    gate, up = data.draw(strided(shape)), data.draw(strided(shape)) / 8
    with machine(*where):
        check(burnish_ops.gated_activation.default, gate, up, activation, near=True)


def test_integers_wrap_around_as_in_aten() -> None:
    x = torch.tensor([2**62, -(2**63), 2**63 - 1, 3])
    for target, *rest in ((aten.add.Tensor, x), (aten.mul.Tensor, x), (aten.neg.default,), (aten.abs.default,)):
        check(target, x, *rest)
    check(aten.add.Scalar, x, 2**62)
    check(aten.eq.Scalar, x, 2**62)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes(0, 5))
def test_copies_of_any_strides(data: st.DataObject, where: tuple[str | None, int], shape: Any) -> None:
    dtype = data.draw(st.sampled_from([*DTYPES, torch.float16, torch.float64, torch.int8]))
    x = data.draw(strided(shape, dtype))
    into = filled([2 * size + 1 for size in shape], dtype, 5)
    out = into[tuple(slice(1, None, 2) for _ in shape)]
    kept = into.clone()
    kept[tuple(slice(1, None, 2) for _ in shape)] = x
    with machine(*where):
        assert_same(copy(x), x.contiguous())
        copy(x, out)
        check(aten.zeros_like.default, x) if dtype != torch.float64 else None
    assert_same(into, kept)  # and nothing beside it was written


@settings(max_examples=40, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes(1))
def test_joins(data: st.DataObject, where: tuple[str | None, int], shape: Any) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    parts = []
    for _ in range(data.draw(st.integers(1, 3))):
        size = list(shape)
        size[dim] = data.draw(st.integers(1, 4))
        parts.append(data.draw(strided(size, data.draw(st.sampled_from(DTYPES)))))
    with machine(*where):
        check(aten.cat.default, parts, dim)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), where=MACHINES, shape=shapes(1))
def test_rows_by_their_number(data: st.DataObject, where: tuple[str | None, int], shape: Any) -> None:
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    index = torch.tensor(data.draw(st.lists(st.integers(0, shape[dim] - 1), min_size=1, max_size=4)))
    x = data.draw(strided(shape, data.draw(st.sampled_from(DTYPES))))
    with machine(*where):
        found = KERNELS[aten.index_select.default](x, dim, index)
    torch.testing.assert_close(found, x.index_select(dim, index), rtol=0, atol=0)


def test_positions() -> None:
    for tokens in (torch.zeros(2, 5, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64)):
        for position in (None, torch.arange(7, 7 + len(tokens))):
            found = KERNELS[burnish_ops.positions.default](tokens, position)
            assert torch.equal(found, burnish_ops.positions(tokens, position))


def test_what_gives_its_operand_launches_nothing() -> None:
    x = torch.randn(3, 4)
    assert KERNELS[aten.to.dtype](x, torch.float32) is x
    assert KERNELS[aten.contiguous.default](x) is x


def test_every_member_of_groups_has_a_kernel() -> None:
    assert POINTWISE - FORMULAS.keys() == {
        aten.clone.default,
        aten.contiguous.default,
        burnish_ops.rotary.default,
    }
    assert KERNELS.keys() >= MEMBERS
