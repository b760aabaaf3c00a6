"""Values in another type, and the rounding of types that are narrower than what carries them."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import Tensor

from burnish.frontend.onnx.call import Call, Table
from burnish.frontend.onnx.dtypes import NARROW_BITS, as_dtype, torch_dtype

_KINDS = ir.DataType
_FLOATS8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
_SIGNED = (_KINDS.INT4, _KINDS.INT2)
FLOAT4_MOST = 6.0


def cast(c: Call, x: Tensor, kind: ir.DataType, saturate: bool = True, rounding: str = "up") -> Tensor:
    """`x` in the type that carries `kind`, rounded to what that holds."""
    dtype = torch_dtype(kind, c.step.label)
    if x.dtype.itemsize == 1 and x.dtype.is_floating_point and x.dtype is not dtype:
        x = x.to(torch.float32)
    if kind in NARROW_BITS:
        return _wrapped(x, kind).to(dtype)
    if kind is _KINDS.FLOAT4E2M1:
        return to_float4(x.to(torch.float32))
    if dtype is torch.float8_e8m0fnu:
        return _to_powers(x.to(torch.float32), saturate, rounding)
    if dtype in _FLOATS8:
        return to_float8(x, dtype, saturate)
    if dtype is torch.bool:
        return x if x.dtype is torch.bool else x != 0
    if dtype in (torch.uint16, torch.uint32, torch.uint64) and x.is_floating_point():
        return x.to(torch.int64).to(dtype)
    return as_dtype(x, dtype)


def _wrapped(x: Tensor, kind: ir.DataType) -> Tensor:
    """The lowest bits of integers, as torch carries them."""
    bits = NARROW_BITS[kind]
    if x.is_floating_point():  # 0 for what is out of range, as the reference has it
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1)) if kind in _SIGNED else (0, 2**bits)
        whole = torch.trunc(x)
        x = torch.where((whole >= low) & (whole < high), whole, 0)
    found: Tensor = x.to(torch.int64) & (2**bits - 1)
    if kind in _SIGNED:
        found = torch.where(found >= 2 ** (bits - 1), found - 2**bits, found)
    return found


def to_float8(x: Tensor, dtype: torch.dtype, saturate: bool) -> Tensor:
    """Rounded to floats of 8 bits; what is too large is the largest, or what the type says, infinite or no number."""
    most = torch.finfo(dtype).max
    if x.dtype not in (torch.float16, torch.bfloat16, torch.float32):
        x = x.to(torch.float32)
    if saturate:
        x = torch.clamp(x, -most, most)
    elif dtype is torch.float8_e4m3fn:  # which has no infinity; halfway to what would be the next one is rounded down
        x = torch.where(torch.abs(x) > 464, torch.nan, x)
    return x.to(dtype)


def to_float4(x: Tensor) -> Tensor:
    """Rounded to floats of 4 bits: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; what is too large is 6."""
    size = torch.clamp(torch.abs(x), max=FLOAT4_MOST)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.copysign(torch.round(size / step) * step, x)


def _to_powers(x: Tensor, saturate: bool, rounding: str) -> Tensor:
    """Rounded to powers of two, of which only the exponents are kept."""
    bits = torch.abs(x).view(torch.int32)
    exponent, fraction = (bits >> 23) & 0xFF, bits & 0x7FFFFF
    if rounding == "up":
        more = fraction > 0
    elif rounding == "nearest":  # a half goes up, but for the smallest exponent, whose power is even
        more = (fraction > 0x400000) | ((fraction == 0x400000) & (exponent > 0))
    else:
        more = torch.zeros_like(fraction, dtype=torch.bool)
    raised = torch.clamp(exponent + more.to(torch.int32), max=0xFE if saturate else 0xFF)
    return torch.where(exponent == 0xFF, exponent, raised).to(torch.uint8).view(torch.float8_e8m0fnu)


def _cast(c: Call) -> Tensor:
    torch_dtype(c.required("to"), c.step.label)
    kind = ir.DataType(c.required("to"))
    return cast(c, c.tensor(0), kind, c.flag("saturate", True), c.text("round_mode", "up"))


def _cast_like(c: Call) -> Tensor:
    kind = c.kind(1)
    if kind is None:
        return as_dtype(c.tensor(0), c.tensor(1).dtype)
    return cast(c, c.tensor(0), kind, c.flag("saturate", True), c.text("round_mode", "up"))


TABLE: Table = {"Cast": _cast, "CastLike": _cast_like}
