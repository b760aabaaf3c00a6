"""Integers and narrow floats that stand for numbers: to them, from them, and products of them."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from burnish.frontend.onnx.call import Call, Result, Table
from burnish.frontend.onnx.dtypes import torch_dtype
from burnish.frontend.onnx.operators.cast import FLOAT4_MOST, to_float4, to_float8
from burnish.frontend.onnx.operators.convolution import convolve
from burnish.frontend.onnx.operators.unsigned import widened

_KINDS = ir.DataType
RANGES = {
    _KINDS.UINT8: (0, 255),
    _KINDS.INT8: (-128, 127),
    _KINDS.UINT16: (0, 65535),
    _KINDS.INT16: (-32768, 32767),
    _KINDS.INT32: (-(2**31), 2**31 - 1),
    _KINDS.UINT4: (0, 15),
    _KINDS.INT4: (-8, 7),
    _KINDS.UINT2: (0, 3),
    _KINDS.INT2: (-2, 1),
}
_OF_DTYPE = {
    torch.uint8: _KINDS.UINT8,
    torch.int8: _KINDS.INT8,
    torch.uint16: _KINDS.UINT16,
    torch.int16: _KINDS.INT16,
    torch.int32: _KINDS.INT32,
    torch.float8_e4m3fn: _KINDS.FLOAT8E4M3FN,
    torch.float8_e4m3fnuz: _KINDS.FLOAT8E4M3FNUZ,
    torch.float8_e5m2: _KINDS.FLOAT8E5M2,
    torch.float8_e5m2fnuz: _KINDS.FLOAT8E5M2FNUZ,
    torch.float32: _KINDS.FLOAT4E2M1,
}


def spread(c: Call, scale: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """Scales or zero points, one for all, for a place of an axis or for a block of it, as a tensor that broadcasts."""
    if scale.numel() == 1 and not block:
        return scale.reshape(()) if scale.dim() < 2 else scale
    axis = axis % x.dim()
    if block:
        wide = scale.repeat_interleave(block, dim=axis)
        return wide.narrow(axis, 0, x.shape[axis])
    if scale.dim() != 1:
        return scale
    return scale.reshape([-1 if i == axis else 1 for i in range(x.dim())])


def quantized(c: Call, x: Tensor, scale: Tensor, zero: Tensor | None, kind: ir.DataType, saturate: bool) -> Tensor:
    """What stands for `x`, of a type."""
    parts = x / scale
    dtype = torch_dtype(kind, c.step.label)
    if kind in RANGES:
        low, high = RANGES[kind]
        found = torch.round(parts).to(torch.float32)
        if zero is not None:
            found = found + widened(zero).to(torch.float32)
        return torch.clamp(found, low, high).to(torch.int32).to(dtype)
    if kind is _KINDS.FLOAT4E2M1:
        return to_float4(parts.to(torch.float32))
    if dtype.itemsize == 1 and dtype.is_floating_point:
        return to_float8(parts, dtype, saturate)
    raise c.unsupported(f"numbers stand as {kind.name}")


def kind_of(c: Call, index: int, value: Tensor) -> ir.DataType:
    """The element type of an operand that stands for numbers."""
    found = c.kind(index) or _OF_DTYPE.get(value.dtype)
    if found is None:
        raise c.invalid(f"its input {index} is {value.dtype}")
    return found


def _quantize(c: Call) -> Tensor:
    x, scale, zero = c.tensor(0), c.tensor(1), c.optional(2)
    axis, block = c.integer("axis", 1), c.integer("block_size", 0)
    kind = ir.DataType(c.integer("output_dtype", 0) or _KINDS.UINT8)
    if zero is not None:
        kind = kind_of(c, 2, zero)
        zero = spread(c, zero, x, axis, block) if zero.dtype.itemsize <= 2 else zero
    scale = spread(c, scale, x, axis, block)
    precision = c.dtype("precision") if c.integer("precision", 0) else None
    if precision is not None:
        x, scale = x.to(precision), scale.to(precision)
    if not x.is_floating_point():
        x = x.to(torch.float32)
    return quantized(c, x, scale, zero, kind, c.flag("saturate", True))


def _dequantize(c: Call) -> Tensor:
    x, scale, zero = c.tensor(0), c.tensor(1), c.optional(2)
    axis, block = c.integer("axis", 1), c.integer("block_size", 0)
    numbers = widened(x).to(torch.float32)
    if zero is not None and not zero.is_floating_point():
        numbers = numbers - spread(c, widened(zero).to(torch.float32), x, axis, block)
    found = numbers * spread(c, scale.to(torch.float32), x, axis, block)
    dtype = c.dtype("output_dtype") if c.integer("output_dtype", 0) else None
    return found.to(dtype or scale.dtype)


def dynamic_parameters(x: Tensor) -> tuple[Tensor, Tensor]:
    """The scale and the zero point (as a float) of bytes that reach from the smallest element, or 0, to the largest."""
    most, least = torch.clamp(torch.amax(x), min=0), torch.clamp(torch.amin(x), max=0)
    scale = torch.where(most == least, 1.0, most - least) / 255
    return scale, torch.round(torch.clamp(0 - least / scale, 0, 255))


def _dynamic_quantize(c: Call) -> Result:
    x = c.tensor(0)
    scale, zero = dynamic_parameters(x)
    found = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    return found.to(torch.uint8), scale.to(x.dtype), zero.to(torch.uint8)


def _less_zero(x: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Integers less their zero point, which is one for all or for places of an axis counted from the last."""
    found = x.to(torch.int32)
    if zero is None:
        return found
    if zero.dim() == 1 and zero.numel() > 1 and axis == -2:
        zero = zero[:, None]
    return found - zero.to(torch.int32)


def exact_product(a: Tensor, b: Tensor) -> Tensor:
    """A product of matrices of integers, exact: in float64 all sums of products of bytes are."""
    return torch.matmul(a.to(torch.float64), b.to(torch.float64)).to(torch.int32)


def _matmul_integer(c: Call) -> Tensor:
    a, b = _less_zero(c.tensor(0), c.optional(2), -2), _less_zero(c.tensor(1), c.optional(3), -1)
    return exact_product(a, b)


def _requantized(c: Call, total: Tensor, factor: Tensor, scale: Tensor, zero: Tensor, index: int) -> Tensor:
    """A sum of products times the scales of its factors, over its own."""
    found = torch.round(total.to(factor.dtype) * (factor / scale)) + zero.to(factor.dtype)
    low, high = RANGES[kind_of(c, index, zero)]
    return torch.clamp(found, low, high).to(zero.dtype)


def _qlinear_matmul(c: Call) -> Tensor:
    a, a_scale, a_zero, b, b_scale, b_zero, scale, zero = c.tensors()
    total = exact_product(_less_zero(a, a_zero, -2), _less_zero(b, b_zero, -1))
    if a_scale.dim() == 1 and a_scale.numel() > 1:
        a_scale = a_scale[:, None]
    factor = a_scale.to(torch.float32) * b_scale.to(torch.float32)
    return _requantized(c, total, factor, scale.to(torch.float32), zero, 7)


def _channels(zero: Tensor, x: Tensor) -> Tensor:
    """What a filter has for each of its outputs, as a tensor that broadcasts."""
    return zero.reshape([-1] + [1] * (x.dim() - 1)) if zero.numel() > 1 else zero.reshape(())


def _integer_filter(w: Tensor, zero: Tensor | None) -> Tensor:
    found = w.to(torch.float64)
    return found if zero is None else found - _channels(zero.to(torch.float64), w)


def _conv_integer(c: Call) -> Tensor:
    x, w, x_zero, w_zero = c.tensor(0), c.tensor(1), c.optional(2), c.optional(3)
    numbers = x.to(torch.float64) - (0 if x_zero is None else x_zero.reshape(()).to(torch.float64))
    return convolve(c, numbers, _integer_filter(w, w_zero), None).to(torch.int32)


def _qlinear_conv(c: Call) -> Tensor:
    x, x_scale, x_zero, w, w_scale, w_zero, scale, zero = (c.tensor(index) for index in range(8))
    numbers = x.to(torch.float64) - x_zero.reshape(()).to(torch.float64)
    total = convolve(c, numbers, _integer_filter(w, w_zero), None)
    bias = c.optional(8)
    if bias is not None:
        total = total + bias.to(torch.float64).reshape([1, -1] + [1] * (total.dim() - 2))
    factor: Any = x_scale.reshape(()) * (
        w_scale.reshape([1, -1] + [1] * (total.dim() - 2)) if w_scale.numel() > 1 else w_scale.reshape(())
    )
    return _requantized(c, total, factor, scale.reshape(()), zero.reshape(()), 7)


TABLE: Table = {
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "DynamicQuantizeLinear": _dynamic_quantize,
    "MatMulInteger": _matmul_integer,
    "QLinearMatMul": _qlinear_matmul,
    "ConvInteger": _conv_integer,
    "QLinearConv": _qlinear_conv,
}
__all__ = ["FLOAT4_MOST", "RANGES", "TABLE", "dynamic_parameters", "exact_product", "quantized", "spread"]
