"""What weights in panels stand for as weights in rows again: floats, or where panels have integers, these integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from burnish.ir.panel_formats import GROUP, INTEGERS, Format
from burnish.ir.panels import RowOrder, from_panels, integer_parts
from burnish.ir.quantization import Quantized, pack
from burnish.ir.weights import Stored, Weight


@dataclass(frozen=True, eq=False)
class Unpanelled:
    """The floats[rows, size] that panels stand for."""

    panels: Weight
    form: str
    rows: int
    size: int
    order: RowOrder

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, self.size)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def materialize(self) -> Tensor:
        """The floats."""
        panels = self.panels.materialize()
        return from_panels(panels, self.form, self.rows, self.size, self.order.head, self.order.pairs)


@dataclass(frozen=True, eq=False)
class _Part:
    """Of a weight of integers in panels: 0, integers as `burnish.ir.quantization` has them; 1, scales; 2, minima."""

    of: Unpanelled
    number: int

    @property
    def bits(self) -> int:
        bits = INTEGERS[cast(Format, self.of.form)].bits
        return 4 if bits == 2 else bits

    @property
    def group(self) -> int:
        return GROUP // INTEGERS[cast(Format, self.of.form)].runs

    @property
    def shape(self) -> tuple[int, ...]:
        packed = self.of.size // 2 if self.bits == 4 else self.of.size
        return (self.of.rows, packed if self.number == 0 else self.of.size // self.group)

    @property
    def dtype(self) -> torch.dtype:
        if self.number:
            return torch.float32
        return torch.uint8 if self.bits == 4 else torch.int8

    def materialize(self) -> Tensor:
        """The numbers."""
        of, form = self.of, cast(Format, self.of.form)
        numbers, parts = integer_parts(of.panels.materialize(), form)
        found = parts[self.number - 1] if self.number else numbers()
        found = found.transpose(1, 2).flatten(2).flatten(0, 1)  # [places, ...]
        places = of.order.places(of.rows)
        kept = places >= 0
        ordered = found.new_empty(of.rows, found.shape[1])
        ordered[places[kept]] = found[kept]
        if self.number:
            return ordered[:, : self.shape[1]].contiguous()
        integers = ordered[:, : of.size]
        if self.bits == 4 and not INTEGERS[form].minima:
            integers = integers + 8
        return pack(integers, self.bits, self.group)


def unpanelled(panels: Weight, form: str, rows: int, size: int, order: RowOrder) -> Weight:
    """The weight[rows, size] that panels stand for: `Quantized` where they are of integers in whole groups."""
    floats = Unpanelled(panels, form, rows, size, order)
    if form not in INTEGERS or size % GROUP:
        return floats
    kind = INTEGERS[form]
    values, scales, minima = (_Part(floats, number) for number in range(3))
    if not kind.minima:
        return Quantized(values, scales, None, values.bits, values.group)
    zeros = _zeros(scales.materialize(), minima.materialize()) if values.bits == 4 else None
    if zeros is not None:
        return Quantized(values, scales, Stored(zeros), values.bits, values.group)
    return Quantized(values, scales, None, values.bits, values.group, minima)


def _zeros(scales: Tensor, minima: Tensor) -> Tensor | None:
    """The zero points from 0 to 15 that minima were made of, times scales, up to their rounding; None if of others."""
    zeros = torch.where(scales == 0, 0.0, (-minima / scales).round())
    rounding = minima.abs() * 2.0**-20
    exact = (zeros >= 0) & (zeros <= 15) & ((minima + zeros * scales).abs() <= rounding)
    return zeros if bool(exact.all()) else None
