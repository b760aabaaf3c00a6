"""Operators on corresponding elements: arithmetic, comparisons, logic, bits, and functions of one element."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from burnish.frontend.onnx.call import Call, Operator, Table
from burnish.frontend.onnx.dtypes import as_dtype
from burnish.frontend.onnx.numbers import Numbers
from burnish.frontend.onnx.operators import unsigned
from burnish.frontend.onnx.operators.unsigned import ordered, through_wider


def operands(c: Call) -> tuple[Any, Any]:
    """Two operands, of which one may be a Python number: that is how a constant of one element is written.

    Before version 7 the second one is broadcast from an axis that an attribute says.
    """
    a, b = c.value(0), c.value(1)
    if isinstance(a, Tensor) and isinstance(b, Numbers) and _is_one_number(b, a):
        return a, b.list[0]
    if isinstance(b, Tensor) and isinstance(a, Numbers) and _is_one_number(a, b):
        return a.list[0], b
    return c.tensor(0), c.tensor(1)


def _is_one_number(number: Numbers, other: Tensor) -> bool:
    if number.array.size != 1 or number.array.ndim > other.dim() or number.dtype is not other.dtype:
        return False
    return not unsigned.is_unsigned(other) and (number.dtype.is_floating_point or number.dtype is torch.int64)


def _arithmetic(function: Callable[[Any, Any], Tensor]) -> Operator:
    def run(c: Call) -> Tensor:
        a, b = operands(c)
        if isinstance(a, Tensor) and unsigned.is_unsigned(a):
            return through_wider(function, a, b)
        return function(a, b)

    return run


def _divide(c: Call) -> Tensor:
    a, b = operands(c)
    dtype = a.dtype if isinstance(a, Tensor) else b.dtype
    if dtype.is_floating_point:
        result: Tensor = a / b
        return result
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return torch.div(a, b, rounding_mode="trunc")
    return unsigned.divide(a, b)


def _modulo(c: Call) -> Tensor:
    a, b = c.tensor(0), c.tensor(1)
    if c.flag("fmod") and (a.is_floating_point() or not unsigned.is_unsigned(a)):
        return torch.fmod(a, b)
    return torch.remainder(a, b) if a.is_floating_point() else unsigned.remainder(a, b)


def _power(c: Call) -> Tensor:
    exponent = c.numbers(1)
    base = c.tensor(0)
    if exponent is not None and exponent.array.size == 1 and exponent.array.ndim <= base.dim():
        number = exponent.list[0]
        if isinstance(number, float) and number.is_integer() and not base.is_floating_point():
            number = int(number)
        if not isinstance(number, float) and not base.is_floating_point() and number < 0:
            return torch.pow(base.to(torch.float64), number).to(base.dtype)
        return through_wider(lambda x: as_dtype(torch.pow(x, number), x.dtype), base)
    power = c.tensor(1)
    if base.is_floating_point() or power.is_floating_point():
        wide = torch.promote_types(unsigned.widened(base).dtype, unsigned.widened(power).dtype)
        found = torch.pow(as_dtype(unsigned.widened(base), wide), as_dtype(unsigned.widened(power), wide))
        return as_dtype(found, base.dtype) if base.is_floating_point() else found.to(torch.int64).to(base.dtype)
    return through_wider(lambda x: torch.pow(x, unsigned.widened(power)).to(x.dtype), base)


def _comparison(function: Callable[[Any, Any], Tensor]) -> Operator:
    def run(c: Call) -> Tensor:
        a, b = operands(c)
        if isinstance(a, Tensor) and isinstance(b, Tensor):
            return function(ordered(a), ordered(b))
        return function(a, b)

    return run


def _of_many(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    """A function of two, over any number of operands."""

    def run(c: Call) -> Tensor:
        found = c.tensors()
        if not found:
            raise c.invalid("it has no input")
        return functools.reduce(lambda a, b: unsigned.in_order(function, a, b), found)

    return run


def _sum(c: Call) -> Tensor:
    return functools.reduce(torch.add, c.tensors())


def _mean(c: Call) -> Tensor:
    return _sum(c) / len(c.operands)


def _clip(c: Call) -> Tensor:
    x = c.tensor(0)
    if c.version < 11:
        low, high = c.real("min", -math.inf), c.real("max", math.inf)
        least = None if low == -math.inf else low
        most = None if high == math.inf else high
        return torch.clamp(x, least, most) if least is not None or most is not None else x
    given = [c.numbers(index) for index in (1, 2)]
    if all(number is not None or not c.has(index) for index, number in enumerate(given, 1)):
        limits = [None if number is None else number.list[0] for number in given]
        if limits == [None, None]:
            return x
        if not unsigned.is_unsigned(x):
            # A limit that is below the other one wins by being the upper.
            return torch.clamp(x, *limits)
    if c.has(1):
        x = unsigned.in_order(torch.maximum, x, c.tensor(1))
    return unsigned.in_order(torch.minimum, x, c.tensor(2)) if c.has(2) else x


def _shift(c: Call) -> Tensor:
    x, by = c.tensor(0), unsigned.widened(c.tensor(1))
    wide = unsigned.widened(x)
    bits = x.dtype.itemsize * 8
    if c.text("direction", "") == "LEFT":
        found = wide << by
    elif x.dtype is torch.uint64:
        found = (wide >> by) & torch.where(by == 0, -1, (1 << (64 - by)) - 1)
    elif not unsigned.is_unsigned(x) and x.dtype is not torch.uint8:
        return wide >> torch.clamp(by, max=bits - 1)  # the sign is what comes in
    else:
        found = wide >> by
    return unsigned.narrowed(torch.where(by < bits, found, 0), x.dtype)


def _bits(function: Callable[..., Tensor]) -> Operator:
    return lambda c: through_wider(function, *c.tensors())


def one(function: Callable[[Tensor], Tensor]) -> Operator:
    """An operator that is a function of its first operand and nothing else."""
    return lambda c: function(c.tensor(0))


def _negative(c: Call) -> Tensor:
    return through_wider(torch.neg, c.tensor(0))


def _absolute(c: Call) -> Tensor:
    x = c.tensor(0)
    return x if unsigned.is_unsigned(x) else torch.abs(x)


def _sign(c: Call) -> Tensor:
    x = c.tensor(0)
    if unsigned.is_unsigned(x):
        return unsigned.narrowed((unsigned.widened(x) != 0).to(unsigned.widened(x).dtype), x.dtype)
    return torch.sign(x)


def _is_infinite(c: Call) -> Tensor:
    x = c.tensor(0)
    if x.dtype.itemsize == 1:
        x = x.to(torch.float32)
    low, high = c.flag("detect_negative", True), c.flag("detect_positive", True)
    if low and high:
        return torch.isinf(x)
    return x == -math.inf if low else x == math.inf if high else torch.zeros_like(x, dtype=torch.bool)


def _is_nan(c: Call) -> Tensor:
    x = c.tensor(0)
    return torch.isnan(x.to(torch.float32) if x.dtype.itemsize == 1 else x)


def _where(c: Call) -> Tensor:
    condition = c.tensor(0)
    choices = [c.value(1), c.value(2)]
    plain = [each for each in choices if isinstance(each, Tensor)]
    if len(plain) == 1 and not unsigned.is_unsigned(plain[0]):
        fits = [_is_one_number(each, plain[0]) if isinstance(each, Numbers) else True for each in choices]
        if all(fits):
            a, b = (each.list[0] if isinstance(each, Numbers) else each for each in choices)
            return torch.where(condition, a, b)
    return torch.where(condition, c.tensor(1), c.tensor(2))


def _bit_cast(c: Call) -> Tensor:
    x = c.tensor(0)
    dtype = c.dtype("to")
    if dtype is None or dtype.itemsize != x.dtype.itemsize:
        raise c.unsupported(f"the bits of {x.dtype} as {dtype}")
    if torch.bool in (dtype, x.dtype) and dtype is not x.dtype:
        return x.to(dtype) if x.dtype is torch.bool else x != 0
    return x.view(dtype)


TABLE: Table = {
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Mul": _arithmetic(lambda a, b: a * b),
    "Div": _divide,
    "Mod": _modulo,
    "Pow": _power,
    "Max": _of_many(torch.maximum),
    "Min": _of_many(torch.minimum),
    "Sum": _sum,
    "Mean": _mean,
    "Equal": _comparison(lambda a, b: a == b),
    "Less": _comparison(lambda a, b: a < b),
    "LessOrEqual": _comparison(lambda a, b: a <= b),
    "Greater": _comparison(lambda a, b: a > b),
    "GreaterOrEqual": _comparison(lambda a, b: a >= b),
    "And": lambda c: torch.logical_and(c.tensor(0), c.tensor(1)),
    "Or": lambda c: torch.logical_or(c.tensor(0), c.tensor(1)),
    "Xor": lambda c: torch.logical_xor(c.tensor(0), c.tensor(1)),
    "Not": one(torch.logical_not),
    "BitwiseAnd": _bits(torch.bitwise_and),
    "BitwiseOr": _bits(torch.bitwise_or),
    "BitwiseXor": _bits(torch.bitwise_xor),
    "BitwiseNot": _bits(torch.bitwise_not),
    "BitShift": _shift,
    "BitCast": _bit_cast,
    "Clip": _clip,
    "Where": _where,
    "Neg": _negative,
    "Abs": _absolute,
    "Sign": _sign,
    "IsInf": _is_infinite,
    "IsNaN": _is_nan,
    "Reciprocal": one(torch.reciprocal),
    "Floor": one(torch.floor),
    "Ceil": one(torch.ceil),
    "Round": one(torch.round),
    "Sqrt": one(torch.sqrt),
    "Exp": one(torch.exp),
    "Log": one(torch.log),
    "Erf": one(torch.erf),
    "Sin": one(torch.sin),
    "Cos": one(torch.cos),
    "Tan": one(torch.tan),
    "Asin": one(torch.asin),
    "Acos": one(torch.acos),
    "Atan": one(torch.atan),
    "Sinh": one(torch.sinh),
    "Cosh": one(torch.cosh),
    "Asinh": one(torch.asinh),
    "Acosh": one(torch.acosh),
    "Atanh": one(torch.atanh),
    "Det": one(torch.linalg.det),
}
