"""Tensors of GGUF files as weight expressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, dequantize

from burnish.frontend.gguf_file import Tensor
from burnish.ir.weights import Cast, Permute, Reshape, Stored, Weight

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


def weight_of(tensor: Tensor) -> Weight:
    """The values of `tensor` as float32."""
    dtype = _PLAIN.get(tensor.kind)
    if dtype is None:
        return Dequantize(tensor.data, tensor.kind, tensor.shape)
    stored = Stored(torch.from_numpy(tensor.data).view(dtype).view(tensor.shape))
    return stored if dtype is torch.float32 else Cast(stored, torch.float32)


def half_split(weight: Weight, heads: int) -> Weight:
    """Rows of each head from llama.cpp's order for interleaved rotary embedding (pairs side by side) to halves.

    weight[heads * d, ...]: row (h, i, p), with i of d / 2 pairs and p of 2, becomes row (h, p, i).
    """
    rows, rest = weight.shape[0], weight.shape[1:]
    pairs = Reshape(weight, (heads, rows // heads // 2, 2, *rest))
    order = (0, 2, 1, *range(3, 3 + len(rest)))
    return Reshape(Permute(pairs, order), weight.shape)
