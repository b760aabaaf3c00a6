"""Translations of pointwise ATen ops, with torch's type promotion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.builder import CONTRIB, origin_of_size
from burnish.codegen.onnx.context import Arguments, Context, Result, Translate, dtype_of, shape_of
from burnish.ir.shapes import same_size

aten = torch.ops.aten

_SOFTPLUS_IS_X = 20  # what it adds from here on is less than float32 tells

# ---------------------------------------------------------------- pointwise


def _promoted(*operands: Any) -> torch.dtype:
    """The dtype that torch computes in for these nodes and numbers."""
    vals = [operand.meta["val"] if isinstance(operand, fx.Node) else operand for operand in operands]
    vals = [0 if isinstance(v, torch.SymInt) else 0.0 if isinstance(v, torch.SymFloat) else v for v in vals]
    return torch.result_type(vals[0], vals[1])


def _binary(name: str) -> Translate:
    def translate(c: Context, node: fx.Node, a: Arguments) -> Result | None:
        left, right = a["self"], a["other"]
        dtype = dtype_of(node)
        if dtype == torch.bool or a.get("rounding_mode") is not None:
            return None
        first, second = c.tensor(left, dtype), c.tensor(right, dtype)
        heads = c.heads(first)
        if heads is not None and not isinstance(right, fx.Node) and a.get("alpha", 1) == 1:
            scaled = c.builder.op(name, heads.joined, second)  # a number for all heads
            return c.split_heads(scaled, heads.count, heads.size, heads.first)
        if a.get("alpha", 1) != 1:
            second = c.builder.op("Mul", second, c.tensor(a["alpha"], dtype))
        return c.builder.op(name, first, second)

    return translate


def _reversed_sub(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    dtype = dtype_of(node)
    if a["alpha"] != 1:
        return None
    return c.builder.op("Sub", c.tensor(a["other"], dtype), c.tensor(a["self"], dtype))


def _remainder(c: Context, node: fx.Node, a: Arguments) -> Result:
    """With the sign of the divisor."""
    dtype = dtype_of(node)
    left, right = c.tensor(a["self"], dtype), c.tensor(a["other"], dtype)
    if not dtype.is_floating_point:
        return c.builder.op("Mod", left, right)
    op, zero = c.builder.op, c.builder.constant(0, dtype)
    left_over = op("Mod", left, right, fmod=1)  # with the sign of what is divided
    apart = op("Xor", op("Less", left_over, zero), op("Less", right, zero))
    moved = op("And", apart, op("Not", op("Equal", left_over, zero)))
    return op("Where", moved, op("Add", left_over, right), left_over)


def _view_as_dtype(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """The bits of an integer as those of one with a sign, or without: what a cast makes of them."""
    before, after = dtype_of(a["self"]), dtype_of(node)
    if before.is_floating_point or after.is_floating_point or before.itemsize != after.itemsize:
        return None
    return c.cast(c.value(a["self"]), before, after)


def _copy_sign(c: Context, node: fx.Node, a: Arguments) -> Result:
    dtype = dtype_of(node)
    size = c.builder.op("Abs", c.tensor(a["self"], dtype))
    return c.builder.op("Where", _is_negative(c, c.tensor(a["other"], dtype), dtype), c.builder.op("Neg", size), size)


def _sign_bit(c: Context, node: fx.Node, a: Arguments) -> Result:
    return _is_negative(c, c.value(a["self"]), dtype_of(a["self"]))


def _is_negative(c: Context, x: ir.Value, dtype: torch.dtype) -> ir.Value:
    """Below zero, or the zero that is."""
    zero = c.builder.constant(0, dtype)
    inverse = c.builder.op("Div", c.builder.constant(1, dtype), x)
    return c.builder.op("Less", c.builder.op("Where", c.builder.op("Equal", x, zero), inverse, x), zero)


def _power(c: Context, node: fx.Node, a: Arguments) -> Result:
    dtype = dtype_of(node)
    base, exponent = c.tensor(a["self"], dtype), a["exponent"]
    if exponent == 2:
        return c.builder.op("Mul", base, base)
    return c.builder.op("Pow", base, c.tensor(exponent, dtype))


def _comparison(name: str, negated: bool = False) -> Translate:
    def translate(c: Context, node: fx.Node, a: Arguments) -> Result:
        dtype = _promoted(a["self"], a["other"])
        if dtype == torch.bool and name != "Equal":
            dtype = torch.int32
        result = c.builder.op(name, c.tensor(a["self"], dtype), c.tensor(a["other"], dtype))
        return c.builder.op("Not", result) if negated else result

    return translate


def _logical(name: str, only_bools: bool) -> Translate:
    """A logical op; `only_bools` for the bitwise ones, which mean the same on bools and something else on numbers."""

    def translate(c: Context, node: fx.Node, a: Arguments) -> Result | None:
        operands = [argument for argument in a.values() if argument is not None]
        if only_bools and any(isinstance(o, fx.Node) and dtype_of(o) != torch.bool for o in operands):
            return None
        return c.builder.op(name, *(c.tensor(operand, torch.bool) for operand in operands))

    return translate


def _unary(name: str, **attributes: Any) -> Translate:
    def translate(c: Context, node: fx.Node, a: Arguments) -> Result:
        return c.builder.op(name, c.tensor(a["self"], dtype_of(node)), **attributes)

    return translate


def _reciprocal_root(c: Context, node: fx.Node, a: Arguments) -> Result:
    return c.builder.op("Reciprocal", c.builder.op("Sqrt", c.tensor(a["self"], dtype_of(node))))


def _square(c: Context, node: fx.Node, a: Arguments) -> Result:
    x = c.tensor(a["self"], dtype_of(node))
    return c.builder.op("Mul", x, x)


def activation(c: Context, name: str, x: ir.Value, dtype: torch.dtype) -> ir.Value:
    """An activation by its name in `burnish.ir.ops.ACTIVATIONS`."""
    b = c.builder
    if name == "silu":
        if dtype == torch.float32:
            return b.op("QuickGelu", x, domain=CONTRIB, alpha=1.0)  # x * sigmoid(alpha * x), in one kernel
        return b.op("Mul", x, b.op("Sigmoid", x))
    if name in ("gelu", "gelu_tanh"):
        return b.op("Gelu", x, approximate="tanh" if name == "gelu_tanh" else "none")
    return b.op("Relu", x) if name == "relu" else _logistic(c, x, dtype)


def _logistic(c: Context, x: ir.Value, dtype: torch.dtype) -> ir.Value:
    """1 / (1 + e^-x). ONNX Runtime's Sigmoid gives 1.5e-8 for all below -18, which a norm behind it makes large."""
    b = c.builder
    return b.op("Reciprocal", b.op("Add", b.op("Exp", b.op("Neg", x)), b.constant(1, dtype)))


def _sigmoid(c: Context, node: fx.Node, a: Arguments) -> Result:
    return _logistic(c, c.tensor(a["self"], dtype_of(node)), dtype_of(node))


def _silu(c: Context, node: fx.Node, a: Arguments) -> Result:
    return activation(c, "silu", c.value(a["self"]), dtype_of(node))


def _gelu(c: Context, node: fx.Node, a: Arguments) -> Result:
    name = "gelu_tanh" if a["approximate"] == "tanh" else "gelu"
    return activation(c, name, c.value(a["self"]), dtype_of(node))


def _softplus(c: Context, node: fx.Node, a: Arguments) -> Result:
    dtype, op = dtype_of(node), c.builder.op
    x, beta = c.value(a["self"]), c.builder.constant(a["beta"], dtype)
    scaled = x if a["beta"] == 1 else op("Mul", x, beta)
    found = op("Softplus", scaled)
    found = found if a["beta"] == 1 else op("Div", found, beta)
    if a["threshold"] >= _SOFTPLUS_IS_X:
        return found
    return op("Where", op("Greater", scaled, c.builder.constant(a["threshold"], dtype)), x, found)


def _log_sigmoid(c: Context, node: fx.Node, a: Arguments) -> Result:
    """Not the logarithm of a sigmoid, which is of 0 from -88 on."""
    op = c.builder.op
    return op("Neg", op("Softplus", op("Neg", c.value(a["self"]))))


def _log_add_exp(c: Context, node: fx.Node, a: Arguments) -> Result:
    """The larger, and what the other adds: without the exponential of either, which overflows."""
    op, dtype = c.builder.op, dtype_of(node)
    one, other = c.tensor(a["self"], dtype), c.tensor(a["other"], dtype)
    same = op("Equal", one, other)  # also infinities, whose difference is none
    zero = c.builder.constant(0, dtype)
    apart = op("Where", same, zero, op("Neg", op("Abs", op("Sub", one, other))))
    return op("Add", op("Max", one, other), op("Softplus", apart))


def _clamp(c: Context, node: fx.Node, a: Arguments) -> Result:
    """ONNX's Clip has the largest finite numbers for bounds that are not given: infinities stay some here."""
    dtype = dtype_of(node)
    low, high = a.get("min"), a.get("max")
    if dtype.is_floating_point:
        low, high = -math.inf if low is None else low, math.inf if high is None else high
    return c.builder.op(
        "Clip",
        c.tensor(a["self"], dtype),
        None if low is None else c.tensor(low, dtype),
        None if high is None else c.tensor(high, dtype),
    )


def _where(c: Context, node: fx.Node, a: Arguments) -> Result:
    dtype = dtype_of(node)
    condition = c.tensor(a["condition"], torch.bool)
    return c.builder.op("Where", condition, c.tensor(a["self"], dtype), c.tensor(a["other"], dtype))


def _masked_fill(c: Context, node: fx.Node, a: Arguments) -> Result:
    dtype = dtype_of(node)
    return c.builder.op("Where", c.value(a["mask"]), c.tensor(a["value"], dtype), c.tensor(a["self"], dtype))


def _filled(number: float | None) -> Translate:
    """A tensor of one number; None: the number that the op is given."""

    def translate(c: Context, node: fx.Node, a: Arguments) -> Result | None:
        fill = a["fill_value"] if number is None else number
        if isinstance(fill, fx.Node) and origin_of_size(fill) is None:
            return None
        return c.builder.op("Expand", c.tensor(fill, dtype_of(node)), c.builder.shape(shape_of(node)))

    return translate


def _range(c: Context, node: fx.Node, a: Arguments) -> Result:
    dtype = dtype_of(node)
    start, step = a.get("start", 0), a.get("step", 1)
    return c.builder.op("Range", c.tensor(start, dtype), c.tensor(a["end"], dtype), c.tensor(step, dtype))


def fuses_with_norm(node: fx.Node) -> list[fx.Node]:
    """The RMS norms of the sum that `node` is, if ONNX Runtime can add and normalise in one kernel."""
    if node.target is not aten.add.Tensor or dtype_of(node) != torch.float32:
        return []
    left, right = node.args[0], node.args[1]
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or node.kwargs.get("alpha", 1) != 1:
        return []
    shapes = [shape_of(each) for each in (left, right, node)]
    if any(len(shape) != 3 for shape in shapes) or any(dtype_of(each) != torch.float32 for each in (left, right)):
        return []
    if not all(same_size(*sizes) for shape in shapes[:2] for sizes in zip(shape, shapes[2], strict=True)):
        return []
    norms = [user for user in node.users if user.target is torch.ops.burnish.rms_norm.default]
    return [norm for norm in norms if norm.args[0] is node and _is_plain_scale(norm)]


def _is_plain_scale(norm: fx.Node) -> bool:
    weight = norm.args[1]
    return isinstance(weight, fx.Node) and len(shape_of(weight)) == 1 and dtype_of(weight) == torch.float32


def _add(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    norms = fuses_with_norm(node)
    if not norms:
        return _plain_add(c, node, a)
    first = norms[0]
    weight, epsilon = first.args[1], first.args[2]
    assert isinstance(weight, fx.Node)
    normed, _, _, total = c.builder.ops(
        "SkipSimplifiedLayerNormalization",
        c.value(a["self"]),
        c.value(a["other"]),
        c.value(weight),
        count=4,
        domain=CONTRIB,
        epsilon=epsilon,
    )
    c.results[first] = normed
    return total


_plain_add = _binary("Add")

_SIMPLE_UNARY: dict[Any, str] = {
    aten.neg.default: "Neg",
    aten.abs.default: "Abs",
    aten.exp.default: "Exp",
    aten.log.default: "Log",
    aten.sqrt.default: "Sqrt",
    aten.reciprocal.default: "Reciprocal",
    aten.tanh.default: "Tanh",
    aten.relu.default: "Relu",
    aten.sin.default: "Sin",
    aten.cos.default: "Cos",
    aten.erf.default: "Erf",
    aten.sign.default: "Sign",
}


def _forms(op: Any, make: Callable[[], Translate]) -> dict[Any, Translate]:
    """The Tensor and Scalar overloads of a binary op."""
    translate = make()
    return {getattr(op, name): translate for name in ("Tensor", "Scalar") if hasattr(op, name)}


COMPUTE: dict[Any, Translate] = {
    aten.sigmoid.default: _sigmoid,
    aten.view.dtype: _view_as_dtype,
    aten.signbit.default: _sign_bit,
    **_forms(aten.copysign, lambda: _copy_sign),
    aten.add.Tensor: _add,
    aten.add.Scalar: _plain_add,
    **_forms(aten.sub, lambda: _binary("Sub")),
    **_forms(aten.mul, lambda: _binary("Mul")),
    **_forms(aten.div, lambda: _binary("Div")),
    **_forms(aten.rsub, lambda: _reversed_sub),
    **_forms(aten.remainder, lambda: _remainder),
    **dict.fromkeys((aten.maximum.default, aten.max.other), _binary("Max")),
    **dict.fromkeys((aten.minimum.default, aten.min.other), _binary("Min")),
    **dict.fromkeys((aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor), _power),
    **_forms(aten.eq, lambda: _comparison("Equal")),
    **_forms(aten.ne, lambda: _comparison("Equal", negated=True)),
    **_forms(aten.lt, lambda: _comparison("Less")),
    **_forms(aten.le, lambda: _comparison("LessOrEqual")),
    **_forms(aten.gt, lambda: _comparison("Greater")),
    **_forms(aten.ge, lambda: _comparison("GreaterOrEqual")),
    aten.logical_and.default: _logical("And", only_bools=False),
    aten.logical_or.default: _logical("Or", only_bools=False),
    aten.logical_xor.default: _logical("Xor", only_bools=False),
    aten.logical_not.default: _logical("Not", only_bools=False),
    # As captured; `clean` gives them their other names.
    aten.__and__.Tensor: _logical("And", only_bools=True),
    aten.__or__.Tensor: _logical("Or", only_bools=True),
    **_forms(aten.bitwise_and, lambda: _logical("And", only_bools=True)),
    **_forms(aten.bitwise_or, lambda: _logical("Or", only_bools=True)),
    **_forms(aten.bitwise_xor, lambda: _logical("Xor", only_bools=True)),
    aten.bitwise_not.default: _logical("Not", only_bools=True),
    **{op: _unary(name) for op, name in _SIMPLE_UNARY.items()},
    aten.rsqrt.default: _reciprocal_root,
    aten.square.default: _square,
    aten.silu.default: _silu,
    aten.gelu.default: _gelu,
    aten.softplus.default: _softplus,
    aten.log_sigmoid.default: _log_sigmoid,
    aten.logaddexp.default: _log_add_exp,
    **dict.fromkeys((aten.clamp.default, aten.clamp_min.default, aten.clamp_max.default), _clamp),
    **dict.fromkeys((aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar), _where),
    **dict.fromkeys((aten.masked_fill.Scalar, aten.masked_fill.Tensor), _masked_fill),
    **dict.fromkeys((aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default), _filled(0)),
    **dict.fromkeys((aten.ones.default, aten.ones_like.default, aten.new_ones.default), _filled(1)),
    **dict.fromkeys((aten.full.default, aten.full_like.default, aten.new_full.default), _filled(None)),
    **dict.fromkeys((aten.arange.default, aten.arange.start, aten.arange.start_step), _range),
}
