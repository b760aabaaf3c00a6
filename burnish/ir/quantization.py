"""Weights of 8 and 4 bits: integers, and a scale for each group of them along the last axis.

weight[n, k] = scale[n, k // group] * q[n, k], q from -127 to 127 or from -8 to 7. 8 bits are int8[N, K]. 4 bits are
uint8[N, K / 2]: byte i of a group has element i in its low half and element group / 2 + i in its high half, each + 8,
so that what lies side by side in memory is wanted side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from burnish.ir.weights import Weight

LARGEST = {8: 127, 4: 7}
SCALE_DTYPE = torch.float16


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight[N, K] of floats in `bits` bits, rounded to the nearest; `group` divides K."""

    source: Weight
    bits: int
    group: int

    @property
    def shape(self) -> tuple[int, ...]:
        rows, size = self.source.shape
        return (rows, size * self.bits // 8)

    @property
    def dtype(self) -> torch.dtype:
        return torch.int8 if self.bits == 8 else torch.uint8

    @cached_property
    def scales(self) -> Scales:
        """What the integers are multiplied by."""
        return Scales(self)

    def materialize(self) -> Tensor:
        """The integers, as they are stored."""
        groups = _groups(self.source.materialize(), self.group)
        scales = _scales(groups, self.bits).float()
        quotient = torch.where(scales > 0, groups / scales.clamp_min(1e-30), 0.0)
        q = quotient.round().clamp(-LARGEST[self.bits] - (self.bits == 4), LARGEST[self.bits])
        if self.bits == 8:
            return q.to(torch.int8).reshape(self.shape)
        low, high = (q + 8).to(torch.uint8).chunk(2, dim=-1)
        return (low | (high << 4)).reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Scales:
    """The scales[N, K / group] of a quantized weight."""

    of: QuantizedWeight

    @property
    def shape(self) -> tuple[int, ...]:
        rows, size = self.of.source.shape
        return (rows, size // self.of.group)

    @property
    def dtype(self) -> torch.dtype:
        return SCALE_DTYPE

    def materialize(self) -> Tensor:
        """The scales, float16."""
        return _scales(_groups(self.of.source.materialize(), self.of.group), self.of.bits).reshape(self.shape)


def dequantized(weight: Tensor, scales: Tensor) -> Tensor:
    """The weight[N, K] that is meant, in float32."""
    groups = weight.reshape(*weight.shape[:-1], scales.shape[-1], -1)
    if weight.dtype == torch.uint8:
        groups = torch.cat([groups & 15, groups >> 4], dim=-1).float() - 8
    return (groups.float() * scales.float().unsqueeze(-1)).flatten(-2)


def _groups(weight: Tensor, group: int) -> Tensor:
    return weight.float().reshape(*weight.shape[:-1], -1, group)


def _scales(groups: Tensor, bits: int) -> Tensor:
    """The scale of each group, as it is stored: the largest magnitude becomes the largest integer."""
    return (groups.abs().amax(-1, keepdim=True) / LARGEST[bits]).to(SCALE_DTYPE)
