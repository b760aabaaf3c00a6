"""The weights of an artifact: one safetensors file, laid out before it is written, one weight at a time.

Every weight starts at a multiple of 4096 bytes from the start of the file, so that it can be memory-mapped by
itself. safetensors allows no gaps, so the bytes between two weights are tensors too, `burnish.padding.N`. Of a table of
positions, its short vectors are in the file, as TABLE.vector_N, and its rows are not.
"""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.ir.dtypes import BYTES
from burnish.ir.errors import ArtifactError

WEIGHTS_FILE = "weights.safetensors"
ALIGNMENT = 4096
PADDING = "burnish.padding."
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit

SAFETENSORS_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
    "complex64": "C64",
}
"""What these files call types of elements."""
_DTYPES = {name: dtype for dtype, name in SAFETENSORS_NAMES.items()}


@dataclass(frozen=True)
class Placement:
    """Where the values of a weight lie in the file."""

    tensor: str  # name in the safetensors header; weights that are the same tensor share one
    offset: int  # from the start of the file
    length: int  # bytes
    dtype_name: str
    shape: tuple[int, ...]


def read_header(path: Path) -> dict[str, Placement]:
    """The tensors of a safetensors file by name, with our padding. Reads no values.

    Raises ArtifactError if the header is not one, or says something that the file's size contradicts.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise ArtifactError(f"{path} is no safetensors file: its header would have {length} bytes of {size}")
        text = stream.read(length)
    try:
        entries = json.loads(text)
        found = {
            name: _placement(name, entry, 8 + length, size) for name, entry in entries.items() if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"the header of {path} is malformed: {error!r}") from error
    return found


def _placement(name: str, entry: dict[str, Any], start: int, size: int) -> Placement:
    dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name!r} has a size that is not a number of elements")
    if end - begin != math.prod(shape) * BYTES[dtype] or start + end > size:
        raise ValueError(f"{name!r} of shape {list(shape)} does not fill its place in the file")
    return Placement(name, start + begin, end - begin, dtype, shape)
