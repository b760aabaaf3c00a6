"""Caches in 8 bits as plain operators: codes are made of new tokens, and widened where attention reads them.

Where scales are fixed, one a channel, GroupQueryAttention writes and reads codes of int8 by itself: see attention.py.
Of floats in 8 bits the operators that write and join caches know nothing, so these are bytes, whose values a table of
256 says.
"""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.context import Arguments, Context, Result, dtype_of
from burnish.ir.code_ops import LARGEST, LEAST, code_ops, smallest_scale

_POWERS = range(-5, 9)  # of two that are floats in 8 bits and begin another exponent; what is smaller has that of 2^-6


def code_scales(c: Context, node: fx.Node, a: Arguments) -> Result:
    """The greatest element over the greatest code."""
    op, dtype = c.builder.op, dtype_of(a["x"])
    largest = op("ReduceMax", op("Abs", c.value(a["x"])), c.builder.constant([-1]), keepdims=1)
    scales = op("Mul", c.cast(largest, dtype, torch.float32), _number(c, 1 / LARGEST[a["numbers"]]))
    smallest = c.builder.constant(smallest_scale(dtype), dtype)
    return op("Max", c.cast(scales, torch.float32, dtype), smallest)


def to_codes(c: Context, node: fx.Node, a: Arguments) -> Result:
    """The nearest codes."""
    op, numbers = c.builder.op, a["numbers"]
    parts = op("Div", c.tensor(a["x"], torch.float32), c.tensor(a["scales"], torch.float32))
    parts = op("Clip", parts, _number(c, LEAST[numbers]), _number(c, LARGEST[numbers]))
    if numbers == "int8":
        return op("Cast", op("Round", parts), to=int(ir.DataType.INT8))
    # Casts round to floats of 8 bits, but give their bits to nobody. With n exponents below that of |x|, these are
    # 8 n for the exponent, and the steps of 2^(n - 9) that x is above zero, of which 8 are in n already.
    rounded = op("Cast", op("Cast", parts, to=int(ir.DataType.FLOAT8E4M3FN)), to=int(ir.DataType.FLOAT))
    size = op("Abs", rounded)
    powers = c.builder.constant([2.0**power for power in _POWERS], torch.float32)
    above = c.cast(op("GreaterOrEqual", c.unsqueeze(size, -1), powers), torch.bool, torch.float32)
    exponents = op("ReduceSum", above, c.builder.constant([-1]), keepdims=0)
    steps = c.builder.constant([2.0 ** (9 - n) for n in range(len(_POWERS) + 1)], torch.float32)
    steps = op("Gather", steps, c.cast(exponents, torch.float32, torch.int64))
    bits = op("Add", op("Mul", exponents, _number(c, 8.0)), op("Mul", size, steps))
    sign = c.cast(op("Less", rounded, _number(c, 0.0)), torch.bool, torch.float32)
    bits = op("Add", bits, op("Mul", sign, _number(c, 128.0)))
    return op("Cast", bits, to=int(ir.DataType.UINT8))


def from_codes(c: Context, node: fx.Node, a: Arguments) -> Result:
    """Codes times their scales."""
    product = c.builder.op("Mul", codes_as_floats(c, a["codes"]), c.tensor(a["scales"], torch.float32))
    return c.cast(product, torch.float32, dtype_of(node))


def codes_as_floats(c: Context, codes: fx.Node) -> ir.Value:
    """What codes stand for without their scales, float32."""
    if dtype_of(codes) == torch.int8:
        return c.tensor(codes, torch.float32)
    values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    table = c.builder.constant(values, torch.float32)
    return c.builder.once(
        ("floats", codes), lambda: c.builder.op("Gather", table, c.cast(c.value(codes), torch.uint8, torch.int32))
    )


def with_scales_apart(c: Context, operand: fx.Node) -> tuple[ir.Value, ir.Value | None]:
    """Keys or values [B, H, T, D] as floats; the scales of their tokens [B, H, 1, T] are left to who multiplies."""
    if operand.target is not code_ops.from_codes.default or dtype_of(operand) != torch.float32:
        return c.value(operand), None
    codes, scales = operand.args
    assert isinstance(codes, fx.Node)
    assert isinstance(scales, fx.Node)
    if scales.op == "get_attr":  # of channels
        return c.value(operand), None
    return codes_as_floats(c, codes), c.builder.op("Transpose", c.value(scales), perm=[0, 1, 3, 2])


def _number(c: Context, number: float) -> ir.Value:
    return c.builder.constant(number, torch.float32)
