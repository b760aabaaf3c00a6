"""Tensors of GGUF files as weight expressions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, dequantize

from burnish.frontend.gguf_blocks import KINDS, Part
from burnish.frontend.gguf_file import Tensor
from burnish.ir.errors import WeightError
from burnish.ir.quantization import Factored, Quantized, Widened
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
class _Numbers:
    """A part of each block, of all blocks one after the other: [rows, blocks * count]."""

    data: np.ndarray[Any, np.dtype[np.uint8]]  # [rows, bytes of a row]
    block_bytes: int
    part: Part

    @property
    def shape(self) -> tuple[int, ...]:
        rows, size = self.data.shape
        return (rows, size // self.block_bytes * self.part.count)

    @property
    def dtype(self) -> torch.dtype:
        return self.part.dtype

    def materialize(self) -> torch.Tensor:
        """The numbers."""
        blocks = torch.from_numpy(self.data).reshape(len(self.data), -1, self.block_bytes)
        return self.part.read(blocks).reshape(self.shape)


def _integers(tensor: Tensor) -> Quantized | None:
    """The integers of `tensor`, [rows, K]; None if it has none, or others than there are weights of."""
    kind = KINDS.get(tensor.kind)
    if kind is None:
        return None

    def weight(part: Part | tuple[Part, Part]) -> Weight:
        if isinstance(part, tuple):
            return Factored(weight(part[0]), weight(part[1]))
        return _Numbers(tensor.data, GGML_QUANT_SIZES[tensor.kind][1], part)

    minima = None if kind.minima is None else weight(kind.minima)
    return Quantized(weight(kind.values), weight(kind.scales), None, kind.bits, kind.group, minima)


@cache
def _is_read(kind: GGMLQuantizationType) -> bool:
    """Whether the installed gguf has the numbers that a type stands for."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except NotImplementedError:
        return False
    return True


def weight_of(tensor: Tensor) -> Weight:
    """The values of `tensor` as float32; integers are found in it by `burnish.ir.quantization.kept`.

    Raises WeightError where the installed gguf does not know the type's numbers.
    """
    dtype = _PLAIN.get(tensor.kind)
    if dtype is None:
        if not _is_read(tensor.kind):
            raise WeightError(
                f"the tensor {tensor.name!r} is of {tensor.kind.name}, whose numbers the installed gguf does not know: "
                "a newer one may (pip install -U gguf)"
            )
        floats = Dequantize(tensor.data, tensor.kind, tensor.shape)
        return Widened(floats, _integers(tensor), tensor.kind.name)
    stored = Stored(torch.from_numpy(tensor.data).view(dtype).view(tensor.shape))
    return stored if dtype is torch.float32 else Cast(stored, torch.float32)


def half_split(weight: Weight, heads: int) -> Weight:
    """Rows of each head from llama.cpp's order for interleaved rotary embedding (pairs side by side) to halves.

    weight[heads * d, ...]: row (h, i, p), with i of d / 2 pairs and p of 2, becomes row (h, p, i).
    Raises WeightError where the rows are not so many heads.
    """
    if heads < 1 or weight.shape[0] % (2 * heads):
        raise WeightError(
            f"a weight of {weight.shape[0]} rows is not one of {heads} heads, whose elements are in pairs"
        )
    rows = torch.arange(weight.shape[0]).reshape(heads, -1, 2)
    return Rows(weight, rows.transpose(1, 2).flatten())
