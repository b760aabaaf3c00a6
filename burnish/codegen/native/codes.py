"""Numbers of 8 bits and their scales, as `burnish/ir/code_ops.py`, by native kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from burnish.codegen.native.operands import need_floats
from burnish.codegen.native.spec import launch
from burnish.ir.code_ops import CODES
from burnish.ir.errors import UnsupportedError

_NUMBERS = {dtype: numbers for numbers, dtype in CODES.items()}


def code_scales(x: Tensor, numbers: str) -> Tensor:
    """As `burnish::code_scales`."""
    need_floats(x)
    out = x.new_empty((*x.shape[:-1], 1))
    launch("code_scales", x=x, out=out, **_sizes(x), **_places("x", x), numbers=numbers)
    return out


def to_codes(x: Tensor, scales: Tensor, numbers: str) -> Tensor:
    """As `burnish::to_codes`."""
    need_floats(x, scales)
    out = x.new_empty(x.shape, dtype=CODES[numbers])
    places = {**_places("x", x), **_places("scales", scales.expand(x.shape))}
    launch("to_codes", x=x, scales=scales, out=out, **_sizes(x), **places, numbers=numbers)
    return out


def from_codes(codes: Tensor, scales: Tensor) -> Tensor:
    """As `burnish::from_codes`."""
    need_floats(scales)
    if codes.dtype not in _NUMBERS:
        raise UnsupportedError(f"the kernel reads codes of {', '.join(map(str, _NUMBERS))}, and not {codes.dtype}")
    out = codes.new_empty(codes.shape, dtype=scales.dtype)
    places = {**_places("codes", codes), **_places("scales", scales.expand(codes.shape))}
    launch("from_codes", codes=codes, scales=scales, out=out, **_sizes(codes), **places, numbers=_NUMBERS[codes.dtype])
    return out


def _sizes(x: Tensor) -> dict[str, Any]:
    """The sizes of x in four axes, the last that of a row."""
    if not 1 <= x.dim() <= 4:
        raise UnsupportedError(f"the kernel takes one to four axes, and not {x.dim()}")
    sizes = [*[1] * (4 - x.dim()), *x.shape]
    return dict(zip(("size_a", "size_b", "size_c", "size"), sizes, strict=True))


def _places(name: str, x: Tensor) -> dict[str, Any]:
    """The strides of x in four axes."""
    strides = [*[0] * (4 - x.dim()), *x.stride()]
    parts = ("stride_a", "stride_b", "stride_c", "step")
    return {f"{name}_{part}": stride for part, stride in zip(parts, strides, strict=True)}
