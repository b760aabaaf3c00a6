"""Types of elements by name: what only runs an artifact has no PyTorch to name them by."""

from __future__ import annotations

from functools import cache
from typing import Any

BYTES = {
    "bool": 1,
    "uint8": 1,
    "int8": 1,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "uint16": 2,
    "int16": 2,
    "float16": 2,
    "bfloat16": 2,
    "uint32": 4,
    "int32": 4,
    "float32": 4,
    "uint64": 8,
    "int64": 8,
    "float64": 8,
    "complex64": 8,
}
"""Bytes of an element of each type that there is."""

SHORT = {
    "float32": "f32",
    "float64": "f64",
    "float16": "f16",
    "bfloat16": "bf16",
    "int64": "i64",
    "int32": "i32",
    "int8": "i8",
    "uint8": "u8",
    "bool": "bool",
    "complex64": "c64",
}
"""What texts call them, where that is not their name."""


@cache
def name_of(dtype: Any) -> str:
    """The name of a dtype of PyTorch's or of numpy's: `torch.float32` -> "float32"."""
    return str(dtype).removeprefix("torch.")
