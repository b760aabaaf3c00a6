"""What each pointwise op is in Triton's language, on names of values that are in registers: floats in float32."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_group import POINTWISE
from burnish.ir.ops import burnish_ops

aten = torch.ops.aten

Arguments = Mapping[str, Any]  # by the names of the op's schema: tensors are names of values, the rest is as it is
Formula = Callable[[Arguments], str]

# Their operands are compared or combined as what both can be, and give truth values.
COMPARISONS: dict[Any, str] = {
    overload: sign
    for op, sign in ((aten.eq, "=="), (aten.ne, "!="), (aten.lt, "<"), (aten.le, "<="), (aten.gt, ">"), (aten.ge, ">="))
    for overload in (op.Tensor, op.Scalar)
}
# Operands that are truth values whatever the result is.
CONDITIONS = frozenset({"condition", "mask"})


class Operand(str):
    """The text of a value in registers, apart from strings that a body has for arguments."""


def number(value: Any) -> str:
    """A number as a literal; a value in registers as it is."""
    if isinstance(value, bool | int):
        return repr(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if isinstance(value, Operand):
        return value
    raise UnsupportedError(f"a fused kernel cannot have the argument {value!r}")


def _sigmoid(x: str) -> str:
    return f"1.0 / (1.0 + tl.exp(-{x}))"


def _tanh(x: str) -> str:
    return f"2.0 / (1.0 + tl.exp(-2.0 * {x})) - 1.0"


def _softplus(a: Arguments) -> str:
    beta, threshold = number(a["beta"]), number(a["threshold"])
    x = a["self"]
    return f"tl.where({x} * {beta} > {threshold}, {x}, tl.log(1.0 + tl.exp({x} * {beta})) / {beta})"


def _gelu(x: str, approximate: str) -> str:
    if approximate == "tanh":  # 0.5 * (1 + tanh(y)) is sigmoid(2 * y)
        return f"{x} / (1.0 + tl.exp(-1.5957691216057308 * ({x} + 0.044715 * {x} * {x} * {x})))"
    return f"0.5 * {x} * (1.0 + tl.erf({x} * 0.7071067811865476))"


def _elu(a: Arguments) -> str:
    x, alpha, scale, inner = a["self"], number(a["alpha"]), number(a["scale"]), number(a["input_scale"])
    return f"{scale} * tl.where({x} > 0, {x}, {alpha} * (tl.exp({x} * {inner}) - 1.0))"


def _clamp(a: Arguments) -> str:
    text = a["self"]
    for name, function in (("min", "maximum"), ("max", "minimum")):
        if a.get(name) is not None:
            text = f"tl.{function}({text}, {number(a[name])})"
    return str(text)


def _power(a: Arguments) -> str:
    x, exponent = a["self"], a["exponent"]
    known = {0.5: f"tl.sqrt({x})", -0.5: f"tl.rsqrt({x})"}
    if exponent in known:
        return known[exponent]
    if exponent != int(exponent):
        return f"tl.exp2(tl.log2({x}) * {number(exponent)})"
    if not 1 <= abs(exponent) <= 8:
        raise UnsupportedError(f"a fused kernel has no power of {exponent}")
    product = " * ".join([x] * int(abs(exponent)))
    return product if exponent > 0 else f"1.0 / ({product})"


def _scaled(a: Arguments, first: str, sign: str, second: str) -> str:
    """first sign alpha * second."""
    alpha = a.get("alpha", 1)
    other = number(a[second]) if alpha == 1 else f"{number(alpha)} * {number(a[second])}"
    return f"{number(a[first])} {sign} {other}"


def _gated(a: Arguments) -> str:
    gate, up = a["gate"], a["up"]
    activated = {
        "silu": f"{gate} / (1.0 + tl.exp(-{gate}))",
        "gelu": _gelu(gate, "none"),
        "gelu_tanh": _gelu(gate, "tanh"),
        "relu": f"tl.maximum({gate}, 0.0)",
        "sigmoid": _sigmoid(gate),
    }
    activation = a["activation"]
    if activation not in activated:
        raise UnsupportedError(f"a fused kernel has no activation {activation!r}")
    return f"({activated[activation]}) * {up}"


def _divided(a: Arguments) -> str:
    return f"{a['self']} / {number(a['other'])}"


def _times(a: Arguments) -> str:
    return f"{a['self']} * {number(a['other'])}"


def _of_x(text: str) -> Formula:
    """A formula of one operand, {x}."""
    return lambda a: text.format(x=a["self"])


def _chosen(a: Arguments) -> str:
    return f"tl.where({a['condition']}, {number(a['self'])}, {number(a['other'])})"


FORMULAS: dict[Any, Formula] = {
    aten.abs.default: _of_x("tl.abs({x})"),
    aten.add.Scalar: lambda a: _scaled(a, "self", "+", "other"),
    aten.add.Tensor: lambda a: _scaled(a, "self", "+", "other"),
    aten.bitwise_and.Tensor: lambda a: f"{a['self']} & {a['other']}",
    aten.bitwise_not.default: _of_x("~{x}"),
    aten.bitwise_or.Tensor: lambda a: f"{a['self']} | {a['other']}",
    aten.ceil.default: _of_x("tl.ceil({x})"),
    aten.clamp.default: _clamp,
    aten.clamp_max.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.clone.default: _of_x("{x}"),
    aten.contiguous.default: _of_x("{x}"),
    aten.cos.default: _of_x("tl.cos({x})"),
    aten.div.Scalar: _divided,
    aten.div.Tensor: _divided,
    aten.elu.default: _elu,
    aten.erf.default: _of_x("tl.erf({x})"),
    aten.exp.default: _of_x("tl.exp({x})"),
    aten.expm1.default: _of_x("tl.exp({x}) - 1.0"),
    aten.floor.default: _of_x("tl.floor({x})"),
    aten.gelu.default: lambda a: _gelu(a["self"], a["approximate"]),
    aten.hardsigmoid.default: _of_x("tl.minimum(tl.maximum({x} / 6.0 + 0.5, 0.0), 1.0)"),
    aten.hardswish.default: _of_x("{x} * tl.minimum(tl.maximum({x} / 6.0 + 0.5, 0.0), 1.0)"),
    aten.hardtanh.default: lambda a: _clamp({"self": a["self"], "min": a["min_val"], "max": a["max_val"]}),
    aten.leaky_relu.default: lambda a: (
        f"tl.where({a['self']} > 0, {a['self']}, {a['self']} * {number(a['negative_slope'])})"
    ),
    aten.log.default: _of_x("tl.log({x})"),
    aten.log1p.default: _of_x("tl.log(1.0 + {x})"),
    aten.log_sigmoid.default: _of_x("tl.minimum({x}, 0.0) - tl.log(1.0 + tl.exp(-tl.abs({x})))"),
    aten.logical_and.default: lambda a: f"{a['self']} & {a['other']}",
    aten.logical_not.default: _of_x("~{x}"),
    aten.logical_or.default: lambda a: f"{a['self']} | {a['other']}",
    aten.masked_fill.Scalar: lambda a: f"tl.where({a['mask']}, {number(a['value'])}, {a['self']})",
    aten.max.other: lambda a: f"tl.maximum({a['self']}, {a['other']})",
    aten.maximum.default: lambda a: f"tl.maximum({a['self']}, {a['other']})",
    aten.min.other: lambda a: f"tl.minimum({a['self']}, {a['other']})",
    aten.minimum.default: lambda a: f"tl.minimum({a['self']}, {a['other']})",
    aten.mish.default: lambda a: (
        f"{a['self']} * (1.0 - 2.0 / ((1.0 + tl.exp({a['self']})) * (1.0 + tl.exp({a['self']})) + 1.0))"
    ),
    aten.mul.Scalar: _times,
    aten.mul.Tensor: _times,
    aten.neg.default: _of_x("-{x}"),
    aten.pow.Tensor_Scalar: _power,
    aten.reciprocal.default: _of_x("1.0 / {x}"),
    aten.relu.default: _of_x("tl.maximum({x}, 0)"),
    aten.relu6.default: _of_x("tl.minimum(tl.maximum({x}, 0.0), 6.0)"),
    aten.rsqrt.default: _of_x("tl.rsqrt({x})"),
    aten.rsub.Scalar: lambda a: f"{number(a['other'])} - {number(a.get('alpha', 1))} * {a['self']}",
    aten.sigmoid.default: lambda a: _sigmoid(a["self"]),
    aten.silu.default: _of_x("{x} / (1.0 + tl.exp(-{x}))"),
    aten.sin.default: _of_x("tl.sin({x})"),
    aten.softplus.default: _softplus,
    aten.sqrt.default: _of_x("tl.sqrt({x})"),
    aten.square.default: _of_x("{x} * {x}"),
    aten.sub.Scalar: lambda a: _scaled(a, "self", "-", "other"),
    aten.sub.Tensor: lambda a: _scaled(a, "self", "-", "other"),
    aten.tanh.default: lambda a: _tanh(a["self"]),
    aten.to.dtype: _of_x("{x}"),
    aten._to_copy.default: _of_x("{x}"),
    aten.where.ScalarOther: _chosen,
    aten.where.ScalarSelf: _chosen,
    aten.where.self: _chosen,
    burnish_ops.gated_activation.default: _gated,
}
"""Each pointwise op but the rotary embedding, which reads two elements, and the comparisons."""

assert FORMULAS.keys() | COMPARISONS.keys() | {burnish_ops.rotary.default} == POINTWISE


def formula(target: Any, arguments: Arguments) -> str:
    """The expression of one op."""
    sign = COMPARISONS.get(target)
    if sign is not None:
        return f"{number(arguments['self'])} {sign} {number(arguments['other'])}"
    return FORMULAS[target](arguments)


_REGISTERS = {torch.float16: "tl.float32", torch.bfloat16: "tl.float32", torch.bool: "tl.int1"}


def register(dtype: torch.dtype) -> str:
    """What elements of `dtype` are in registers."""
    return _REGISTERS.get(dtype, f"tl.{str(dtype).removeprefix('torch.')}")


def cast(text: str, source: torch.dtype, target: torch.dtype) -> str:
    """A value as what it is in registers as another dtype."""
    if register(source) == register(target):
        return text
    return f"({text} != 0)" if target is torch.bool else f"{text}.to({register(target)})"


def rounded(text: str, source: torch.dtype, target: torch.dtype) -> str:
    """A cast that somebody wrote: to a narrower float, it rounds."""
    if target in (torch.float16, torch.bfloat16) and source is not target:
        return f"{text}.to(tl.{str(target).removeprefix('torch.')}).to(tl.float32)"
    return cast(text, source, target)
