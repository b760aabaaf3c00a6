"""Tensors of a file: what they claim, checked against the bytes that are there, and mapped where a file has them.

External data is never read as a whole: a tensor is a part of a mapping of its file, whose pages come as they are used.
"""

from __future__ import annotations

import math
import os
import stat
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from burnish.frontend.onnx.dtypes import DTYPES, numpy_dtype, to_torch
from burnish.ir.errors import InvalidModelError, UnsupportedError, WeightError

_MOST_ELEMENTS = 2**40
_FIELDS = {  # where elements that are not raw bytes are, and how many of them a number of that field holds
    ir.DataType.FLOAT: ("float_data", 1),
    ir.DataType.COMPLEX64: ("float_data", 0.5),
    ir.DataType.DOUBLE: ("double_data", 1),
    ir.DataType.COMPLEX128: ("double_data", 0.5),
    ir.DataType.INT64: ("int64_data", 1),
    ir.DataType.UINT32: ("uint64_data", 1),
    ir.DataType.UINT64: ("uint64_data", 1),
    ir.DataType.INT4: ("int32_data", 2),
    ir.DataType.UINT4: ("int32_data", 2),
    ir.DataType.FLOAT4E2M1: ("int32_data", 2),
    ir.DataType.INT2: ("int32_data", 4),
    ir.DataType.UINT2: ("int32_data", 4),
}
_SIGNED = (ir.DataType.INT4, ir.DataType.INT2)
_FLOAT4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def check_tensor(proto: onnx.TensorProto, where: str, folder: Path) -> None:
    """Raises unless the bytes of a tensor are what its shape and type say.

    Raises:
        UnsupportedError: elements that are no numbers.
        InvalidModelError: sizes that are none, a location that leaves the folder.
        WeightError: too few or too many bytes.
    """
    try:
        kind = ir.DataType(proto.data_type)
    except ValueError:
        raise InvalidModelError(f"{where}: there is no element type {proto.data_type}") from None
    if kind not in DTYPES:
        raise UnsupportedError(f"{where}: elements of type {kind.name} are not supported: numbers and booleans are")
    shape = list(proto.dims)
    if any(size < 0 for size in shape) or len(shape) > 64:
        raise InvalidModelError(f"{where}: its shape is {shape[:64]}")
    count = math.prod(shape)
    if count > _MOST_ELEMENTS:
        raise InvalidModelError(f"{where}: its shape {shape} is of {count} elements, and at most {_MOST_ELEMENTS} are")
    size = _bytes(kind, count)
    if proto.HasField("segment"):
        raise UnsupportedError(f"{where}: it is in segments")
    if proto.data_location == onnx.TensorProto.EXTERNAL:
        external_bytes(proto, where, folder, size)
        return
    if proto.HasField("raw_data"):
        if len(proto.raw_data) != size:
            raise WeightError(f"{where}: it has {len(proto.raw_data)} bytes, and {kind.name}{shape} is of {size}")
        return
    field, held = _FIELDS.get(kind, ("int32_data", 1))
    found = len(getattr(proto, field))
    if found != math.ceil(count / held):
        raise WeightError(
            f"{where}: it has {found} numbers in {field}, and {kind.name}{shape} is of {math.ceil(count / held)}"
        )


def _bytes(kind: ir.DataType, count: int) -> int:
    return math.ceil(count * kind.bitwidth / 8)


def external_bytes(proto: onnx.TensorProto, where: str, folder: Path, size: int) -> tuple[Path, int]:
    """The file that a tensor is in, and where it begins. For what it raises see `check_tensor`."""
    entries = {entry.key: entry.value for entry in proto.external_data}
    location = entries.get("location", "")
    offset, length = _number(entries, "offset", where, 0), _number(entries, "length", where, size)
    path = inside(folder, location, where)
    if length != size:
        raise WeightError(f"{where}: it says that it has {length} bytes, and its shape and type say {size}")
    there = path.stat().st_size
    if offset + size > there:
        raise WeightError(f"{where}: {location} has {there} bytes, and the tensor ends at {offset + size}")
    return path, offset


def _number(entries: dict[str, str], key: str, where: str, default: int) -> int:
    text = entries.get(key, "")
    if text == "":
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidModelError(f"{where}: the {key} of its external data is {text[:40]!r}, and bytes are expected")
    return int(text)


def inside(folder: Path, location: str, where: str) -> Path:
    """A file of the model's folder. Raises InvalidModelError for one that is elsewhere, or reached by a link."""
    if not location or "\0" in location or os.path.isabs(location) or ".." in Path(location).parts:
        raise InvalidModelError(f"{where}: its external data is at {location!r}: a path inside of {folder} is expected")
    path = folder / location
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError, ValueError):
        raise InvalidModelError(f"{where}: its external data {location!r} is not in {folder}") from None
    if not real.is_relative_to(folder.resolve()):
        raise InvalidModelError(
            f"{where}: its external data {location!r} is a link to {real}, outside of {folder}: copy it there"
        )
    if not stat.S_ISREG(mode):
        raise InvalidModelError(f"{where}: its external data {location!r} is no file")
    return real


def _sizes(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    return tuple(int(str(size)) for size in tensor.shape)


class Reader:
    """Reads the tensors of one model; each file is mapped once."""

    def __init__(self) -> None:
        self._maps: dict[Path, np.ndarray[Any, np.dtype[np.uint8]]] = {}

    def array(self, tensor: ir.TensorProtocol, where: str) -> tuple[np.ndarray[Any, Any], torch.dtype]:
        """A tensor as an array of the type that carries it, and that type."""
        kind = tensor.dtype
        if kind not in DTYPES:
            raise UnsupportedError(f"{where}: elements of type {kind.name} are not supported: numbers and booleans are")
        dtype = DTYPES[kind]
        shape = _sizes(tensor)
        if isinstance(tensor, ir.ExternalTensor):
            return _unpacked(self._external(tensor, where), kind, shape), dtype
        array = np.asarray(tensor.numpy())
        if kind.bitwidth < 8:
            array = array.astype(numpy_dtype(dtype))
        return array.reshape(shape), dtype

    def tensor(self, tensor: ir.TensorProtocol, where: str) -> torch.Tensor:
        """A tensor over the bytes of its file."""
        return as_tensor(*self.array(tensor, where))

    def _external(self, tensor: ir.ExternalTensor, where: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        size = _bytes(tensor.dtype, math.prod(_sizes(tensor)))
        path = inside(Path(tensor.base_dir), str(tensor.location), where)
        offset = tensor.offset or 0
        if size == 0:
            return np.empty(0, np.uint8)
        if path not in self._maps:
            # Copy on write: torch wants memory that may be written to, and nothing writes to the file.
            self._maps[path] = np.memmap(path, dtype=np.uint8, mode="c")
        found = self._maps[path][offset : offset + size]
        if len(found) != size:
            raise WeightError(f"{where}: {tensor.location} has become shorter than the tensor")
        return found


def _unpacked(raw: np.ndarray[Any, Any], kind: ir.DataType, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Bytes as elements, of which several may be in one byte, the lowest bits first."""
    bits = int(kind.bitwidth)
    if bits >= 8:
        dtype = np.dtype(kind.numpy())
        found = np.asarray(raw)
        if found.ctypes.data % dtype.itemsize:
            found = found.copy()
        found = found.view(dtype)
        return found.reshape(shape)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts: np.ndarray[Any, Any] = ((raw[:, None] >> shifts) & (2**bits - 1)).reshape(-1)[: math.prod(shape)]
    if kind is ir.DataType.FLOAT4E2M1:
        parts = _FLOAT4[parts]
    elif kind in _SIGNED:
        parts = np.where(parts >= 2 ** (bits - 1), parts.astype(np.int8) - 2**bits, parts).astype(np.int8)
    return parts.reshape(shape)


def as_tensor(array: np.ndarray[Any, Any], dtype: torch.dtype) -> torch.Tensor:
    """An array as a tensor over the same memory, which nothing writes to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return to_torch(np.asarray(array, order="C"), dtype)
