"""Weights rounded to floats of 8 bits, float8_e4m3fn (Micikevicius et al., 2022), with a scale for each row.

A scale makes the largest of a row the largest that there is, 448. What is smaller has the same relative error down to
2^-14.8 of that, so that scales for shorter groups, which integers need, would gain nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.ir.quantization import Quantized
from burnish.ir.weights import Weight

LARGEST = torch.finfo(torch.float8_e4m3fn).max


@dataclass(frozen=True, eq=False)
class RowScales:
    """max |w| / 448 of each row of a weight[N, K]: float32[N, 1]; of a row of zeros something to divide by."""

    source: Weight

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.source.shape[0], 1)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def materialize(self) -> Tensor:
        """The scales."""
        return _scales(self.source.materialize())


@dataclass(frozen=True, eq=False)
class RowFloats:
    """The float8_e4m3fn[N, K] nearest to a weight over its row's scale."""

    source: Weight

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.float8_e4m3fn

    def materialize(self) -> Tensor:
        """The floats of 8 bits."""
        weight = self.source.materialize()
        parts = weight.float() / _scales(weight)
        return parts.clamp_(-LARGEST, LARGEST).to(torch.float8_e4m3fn)  # the largest may come out a little larger


def _scales(weight: Tensor) -> Tensor:
    greatest = weight.float().abs().amax(-1, keepdim=True)
    return (greatest / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)


def in_floats_of_8_bits(weight: Weight) -> Quantized:
    """weight[N, K] so rounded, when its values are asked for."""
    return Quantized(RowFloats(weight), RowScales(weight), None, 8, weight.shape[1])
