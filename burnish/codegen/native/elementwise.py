"""Pointwise ops by one kernel, which interprets them block by block. Truth: the ops of ATen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from burnish.codegen.native.spec import launch
from burnish.codegen.native.strided import empty_like, result_of, space
from burnish.ir.errors import UnsupportedError
from burnish.ir.ops import ACTIVATIONS, burnish_ops

aten = torch.ops.aten

Operand: TypeAlias = Tensor | float | int | torch.SymInt | None

TYPES: dict[torch.dtype, str] = {
    each: str(each).removeprefix("torch.")
    for each in (
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}


@dataclass(frozen=True)
class Formula:
    """An op of the kernel on a, b and c. `common`: what operands are computed in is what they have in common."""

    op: str
    a: Operand
    b: Operand = None
    c: Operand = None
    activation: str = "none"
    common: bool = False

    @property
    def operands(self) -> tuple[Operand, ...]:
        return self.a, self.b, self.c


Arguments = Mapping[str, Any]  # by the names of the op's schema


def _unary(op: str) -> Callable[[Arguments], Formula]:
    return lambda a: Formula(op, a["self"])


def _binary(op: str, common: bool = False) -> Callable[[Arguments], Formula]:
    return lambda a: Formula(op, a["self"], a["other"], common=common)


def _activated(activation: str) -> Callable[[Arguments], Formula]:
    return lambda a: Formula("activated", a["self"], activation=activation)


def _gelu(a: Arguments) -> Formula:
    return Formula("activated", a["self"], activation="gelu" if a["approximate"] == "none" else "gelu_tanh")


def _gated(a: Arguments) -> Formula:
    if a["activation"] not in ACTIVATIONS:
        raise UnsupportedError(f"the kernel has no activation {a['activation']!r}")
    return Formula("gated", a["gate"], a["up"], activation=a["activation"])


def _sum(a: Arguments) -> Formula:
    scaled = a["alpha"] != 1
    return Formula("add_scaled", a["self"], a["other"], a["alpha"]) if scaled else Formula("add", a["self"], a["other"])


def _difference(a: Arguments) -> Formula:
    if a["alpha"] == 1:
        return Formula("sub", a["self"], a["other"])
    return Formula("add_scaled", a["self"], a["other"], -a["alpha"])


def _reverse_difference(a: Arguments) -> Formula:
    return _difference({"self": a["other"], "other": a["self"], "alpha": a["alpha"]})


def _clamp(least: str, most: str) -> Callable[[Arguments], Formula]:
    def formula(a: Arguments) -> Formula:
        if a.get(most) is None:
            return Formula("maximum", a["self"], a[least])
        if a.get(least) is None:
            return Formula("minimum", a["self"], a[most])
        return Formula("clamp", a["self"], a[least], a[most])

    return formula


def _power(a: Arguments) -> Formula:
    x, exponent = a["self"], a["exponent"]
    if exponent == 2:
        return Formula("mul", x, x)
    if x.dtype.is_floating_point and exponent in (0.5, -0.5, -1):
        return Formula({0.5: "sqrt", -0.5: "rsqrt", -1: "reciprocal"}[exponent], x)
    return Formula("pow", x, exponent)


def _elu(a: Arguments) -> Formula:
    if a["input_scale"] != 1:
        raise UnsupportedError("the kernel has no input scale of an elu")
    return Formula("elu", a["self"], a["alpha"], a["scale"])


def _bitwise_not(a: Arguments) -> Formula:
    return Formula("logical_not" if a["self"].dtype == torch.bool else "bitwise_not", a["self"])


def _cast(a: Arguments) -> Formula:
    return Formula("cast", a["self"], common=True)


def _chosen(a: Arguments) -> Formula:
    return Formula("where", a["condition"], a["self"], a["other"])


FORMULAS: dict[Any, Callable[[Arguments], Formula]] = {
    **{
        getattr(aten, name).default: _unary(name)
        for name in (
            *("abs", "neg", "ceil", "floor", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "reciprocal", "sin"),
            *("cos", "tanh", "erf", "mish", "hardsigmoid", "hardswish", "log_sigmoid"),
        )
    },
    **{
        getattr(getattr(aten, name), overload): _binary(name, common=True)
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
        for overload in ("Tensor", "Scalar")
    },
    aten.add.Scalar: _sum,
    aten.add.Tensor: _sum,
    aten.bitwise_and.Tensor: _binary("bitwise_and"),
    aten.bitwise_not.default: _bitwise_not,
    aten.bitwise_or.Tensor: _binary("bitwise_or"),
    aten.clamp.default: _clamp("min", "max"),
    aten.clamp_max.default: _clamp("min", "max"),
    aten.clamp_min.default: _clamp("min", "max"),
    aten.div.Scalar: _binary("div"),
    aten.div.Tensor: _binary("div"),
    aten.elu.default: _elu,
    aten.gelu.default: _gelu,
    aten.hardtanh.default: _clamp("min_val", "max_val"),
    aten.leaky_relu.default: lambda a: Formula("leaky_relu", a["self"], a["negative_slope"]),
    aten.logical_and.default: _binary("logical_and", common=True),
    aten.logical_not.default: lambda a: Formula("logical_not", a["self"], common=True),
    aten.logical_or.default: _binary("logical_or", common=True),
    aten.masked_fill.Scalar: lambda a: Formula("where", a["mask"], a["value"], a["self"]),
    aten.max.other: _binary("maximum"),
    aten.maximum.default: _binary("maximum"),
    aten.min.other: _binary("minimum"),
    aten.minimum.default: _binary("minimum"),
    aten.mul.Scalar: _binary("mul"),
    aten.mul.Tensor: _binary("mul"),
    aten.pow.Tensor_Scalar: _power,
    aten.relu.default: _activated("relu"),
    aten.relu6.default: lambda a: Formula("clamp", a["self"], 0, 6),
    aten.rsub.Scalar: _reverse_difference,
    aten.sigmoid.default: _activated("sigmoid"),
    aten.silu.default: _activated("silu"),
    aten.softplus.default: lambda a: Formula("softplus", a["self"], a["beta"], a["threshold"]),
    aten.square.default: lambda a: Formula("mul", a["self"], a["self"]),
    aten.sub.Scalar: _difference,
    aten.sub.Tensor: _difference,
    aten.to.dtype: _cast,
    aten._to_copy.default: _cast,
    aten.where.ScalarOther: _chosen,
    aten.where.ScalarSelf: _chosen,
    aten.where.self: _chosen,
    burnish_ops.gated_activation.default: _gated,
}


def pointwise(target: Any) -> Callable[..., Tensor]:
    """The host function of a pointwise op."""
    formula = FORMULAS[target]
    schema = target._schema.arguments
    defaults = {each.name: each.default_value for each in schema if each.has_default_value()}
    names = [each.name for each in schema]

    def host(*args: Any, **kwargs: Any) -> Tensor:
        found = result_of(target, args, kwargs)
        given = defaults | dict(zip(names, args, strict=False)) | kwargs
        tensors = [each for each in given.values() if isinstance(each, Tensor)]
        if any(found is each for each in tensors):
            return found  # type: ignore[no-any-return]
        out = empty_like(tensors[0], found)
        compute(formula(given), out)
        return out

    host.__name__ = target.overloadpacket.__name__
    return host


def compute(formula: Formula, out: Tensor) -> None:
    """Launch the kernel for a formula."""
    dtype = _common(formula.operands) if formula.common else out.dtype
    slots: dict[str, Any] = {}
    strided: dict[str, Tensor | None] = {"out": out}
    for name, operand in zip("abc", formula.operands, strict=True):
        x = strided[name] = operand if isinstance(operand, Tensor) else None
        number, whole = _number(_rounded(operand, dtype, formula.common))
        slots |= {name: x, f"{name}_type": _type(x), f"{name}_number": number, f"{name}_whole": whole}
    launch(
        "elementwise",
        out=out,
        op=formula.op,
        activation=formula.activation,
        integers=not dtype.is_floating_point,
        out_type=_type(out),
        **slots,
        **space(out.shape, **strided),
    )


def _type(x: Tensor | None) -> str:
    if x is None:
        return "number"
    if x.dtype not in TYPES:
        raise UnsupportedError(f"the kernel has no {x.dtype}")
    return TYPES[x.dtype]


def _common(operands: tuple[Operand, ...]) -> torch.dtype:
    """What operands are brought to before they are compared."""
    given = [1 if isinstance(each, torch.SymInt) else each for each in operands if each is not None]
    first = given[0]
    if len(given) == 1:
        assert isinstance(first, Tensor)
        return first.dtype
    return torch.result_type(first, given[1])


def _rounded(operand: Operand, dtype: torch.dtype, compared: bool) -> Operand:
    """A number as ATen has it beside tensors of `dtype`; narrow floats are rounded where they are compared."""
    if not isinstance(operand, float):
        return operand
    if dtype in (torch.float16, torch.bfloat16) and compared:
        return torch.tensor(operand, dtype=dtype).item()
    if dtype == torch.bool:
        return int(bool(operand))
    return operand if dtype.is_floating_point or not math.isfinite(operand) else int(operand)


def _number(operand: Operand) -> tuple[float, int | torch.SymInt]:
    """A number as its float and its integer, one of which is 0; 0 and 0 for other operands."""
    if isinstance(operand, float):
        return operand, 0
    if isinstance(operand, bool | int | torch.SymInt):
        return 0.0, int(operand) if isinstance(operand, bool) else operand
    if operand is None or isinstance(operand, Tensor):
        return 0.0, 0
    raise UnsupportedError(f"the kernel takes no {type(operand).__name__}")
