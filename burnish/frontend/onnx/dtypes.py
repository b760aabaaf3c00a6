"""Element types of ONNX as torch's, and what has no type of its own in torch.

Integers of fewer than 8 bits, and floats of 4, are carried one to an element of a wider type, which holds all of their
values; what casts to them rounds and wraps as they would.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from burnish.ir.errors import UnsupportedError

_TYPES = ir.DataType
DTYPES: dict[ir.DataType, torch.dtype] = {
    _TYPES.FLOAT: torch.float32,
    _TYPES.UINT8: torch.uint8,
    _TYPES.INT8: torch.int8,
    _TYPES.UINT16: torch.uint16,
    _TYPES.INT16: torch.int16,
    _TYPES.INT32: torch.int32,
    _TYPES.INT64: torch.int64,
    _TYPES.BOOL: torch.bool,
    _TYPES.FLOAT16: torch.float16,
    _TYPES.DOUBLE: torch.float64,
    _TYPES.UINT32: torch.uint32,
    _TYPES.UINT64: torch.uint64,
    _TYPES.COMPLEX64: torch.complex64,
    _TYPES.COMPLEX128: torch.complex128,
    _TYPES.BFLOAT16: torch.bfloat16,
    _TYPES.FLOAT8E4M3FN: torch.float8_e4m3fn,
    _TYPES.FLOAT8E4M3FNUZ: torch.float8_e4m3fnuz,
    _TYPES.FLOAT8E5M2: torch.float8_e5m2,
    _TYPES.FLOAT8E5M2FNUZ: torch.float8_e5m2fnuz,
    _TYPES.FLOAT8E8M0: torch.float8_e8m0fnu,
    _TYPES.UINT4: torch.uint8,
    _TYPES.INT4: torch.int8,
    _TYPES.UINT2: torch.uint8,
    _TYPES.INT2: torch.int8,
    _TYPES.FLOAT4E2M1: torch.float32,
}
# Bits of the integers that are carried in 8.
NARROW_BITS = {_TYPES.UINT4: 4, _TYPES.INT4: 4, _TYPES.UINT2: 2, _TYPES.INT2: 2}
# What numpy knows by no name of its own travels as integers of the same size.
_BITS = {1: np.uint8, 2: np.uint16}
_FOREIGN = {
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e4m3fnuz,
    torch.float8_e5m2,
    torch.float8_e5m2fnuz,
    torch.float8_e8m0fnu,
}


def torch_dtype(kind: ir.DataType | int, where: str) -> torch.dtype:
    """The dtype that carries an element type. Raises UnsupportedError, with the name of `where` it is."""
    try:
        kind = ir.DataType(kind)
    except ValueError:
        raise UnsupportedError(f"{where}: there is no ONNX element type {kind}") from None
    if kind not in DTYPES:
        raise UnsupportedError(f"{where}: elements of type {kind.name} are not supported: numbers and booleans are")
    return DTYPES[kind]


def to_torch(array: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    """An array as a tensor over the same memory wherever both know its type."""
    if dtype in _FOREIGN:
        return torch.from_numpy(array.view(_BITS[array.dtype.itemsize])).view(dtype)
    wanted = numpy_dtype(dtype)
    return torch.from_numpy(array if array.dtype == wanted else array.astype(wanted))


def as_dtype(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`x` of a dtype; itself, and no cast of it in a traced graph, if it is that already."""
    return x if x.dtype is dtype else x.to(dtype)


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """numpy's name for a dtype that it has."""
    return np.dtype(str(dtype).removeprefix("torch."))
