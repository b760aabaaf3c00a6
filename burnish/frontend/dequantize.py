"""Tensors of GGUF files as weight expressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

from burnish.frontend.gguf_file import Tensor
from burnish.ir.quantization import Quantized, Widened
from burnish.ir.weights import Cast, Rows, Stored, Weight

_PLAIN = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
    GGMLQuantizationType.BF16: torch.bfloat16,
    GGMLQuantizationType.F64: torch.float64,
}


@dataclass(frozen=True, eq=False)
class Dequantize:
    """Blocks of a GGML type as float32."""

    data: np.ndarray[Any, np.dtype[np.uint8]]  # [rows, bytes of a row]
    kind: GGMLQuantizationType
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def materialize(self) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(dequantize(self.data, self.kind))).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class _Field:
    """A field of each block of 32: numbers of `dtype` at the bytes from `start` to `end` of a block, in a row."""

    data: np.ndarray[Any, np.dtype[np.uint8]]  # [rows, bytes of a row]
    start: int
    end: int
    block_bytes: int
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        rows, size = self.data.shape
        return (rows, size // self.block_bytes * (self.end - self.start) // self.dtype.itemsize)

    def materialize(self) -> torch.Tensor:
        """The numbers, of all blocks one after the other."""
        blocks = torch.from_numpy(self.data).reshape(len(self.data), -1, self.block_bytes)
        return blocks[..., self.start : self.end].contiguous().view(self.dtype).flatten(1)


@dataclass(frozen=True, eq=False)
class _WithLeast:
    """A part of a Q4_1 tensor, weight = d * u + m, as scale * (u - zero). A block whose d is 0 is m * (0 + 1)."""

    d: _Field
    m: _Field
    u: _Field
    part: Literal["values", "scales", "zeros"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.u.shape if self.part == "values" else self.d.shape

    @property
    def dtype(self) -> torch.dtype:
        return {"values": torch.uint8, "scales": torch.float16, "zeros": torch.float32}[self.part]

    def materialize(self) -> torch.Tensor:
        """The part, of all blocks one after the other."""
        d = self.d.materialize()
        if self.part == "values":
            u = self.u.materialize().reshape(*d.shape, -1)
            return torch.where((d == 0).unsqueeze(-1), 0, u).flatten(1)
        m = self.m.materialize()
        if self.part == "scales":
            return torch.where(d == 0, m, d)
        return torch.where(d == 0, -1.0, -m.float() / torch.where(d == 0, 1.0, d.float()))


def _integers(tensor: Tensor) -> Quantized | None:
    """The integers of `tensor`; None if it has none, or others than these.

    GGML has the first 16 numbers of a block of 4 bits in the low halves of its bytes and the others in the high ones,
    as we do.
    """
    if len(tensor.shape) != 2:
        return None

    def field(start: int, end: int, dtype: torch.dtype) -> _Field:
        return _Field(tensor.data, start, end, GGML_QUANT_SIZES[tensor.kind][1], dtype)

    scales = field(0, 2, torch.float16)
    if tensor.kind is GGMLQuantizationType.Q8_0:
        return Quantized(field(2, 34, torch.int8), scales, None, bits=8, group=32)
    if tensor.kind is GGMLQuantizationType.Q4_0:
        return Quantized(field(2, 18, torch.uint8), scales, None, bits=4, group=32)
    if tensor.kind is GGMLQuantizationType.Q4_1:
        parts = scales, field(2, 4, torch.float16), field(4, 20, torch.uint8)
        values, both, zeros = (_WithLeast(*parts, part) for part in ("values", "scales", "zeros"))
        return Quantized(values, both, zeros, bits=4, group=32, whole_zeros=False)
    return None


def weight_of(tensor: Tensor) -> Weight:
    """The values of `tensor` as float32; integers are found in it by `burnish.ir.quantization.kept`."""
    dtype = _PLAIN.get(tensor.kind)
    if dtype is None:
        floats = Dequantize(tensor.data, tensor.kind, tensor.shape)
        integers = _integers(tensor)
        return floats if integers is None else Widened(floats, integers)
    stored = Stored(torch.from_numpy(tensor.data).view(dtype).view(tensor.shape))
    return stored if dtype is torch.float32 else Cast(stored, torch.float32)


def half_split(weight: Weight, heads: int) -> Weight:
    """Rows of each head from llama.cpp's order for interleaved rotary embedding (pairs side by side) to halves.

    weight[heads * d, ...]: row (h, i, p), with i of d / 2 pairs and p of 2, becomes row (h, p, i).
    """
    rows = torch.arange(weight.shape[0]).reshape(heads, -1, 2)
    return Rows(weight, rows.transpose(1, 2).flatten())
