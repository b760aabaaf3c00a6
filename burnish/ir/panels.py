"""Weights of products in panels, as `burnish.ir.panel_formats` says, and the op that gives back what they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ir.ops import define
from burnish.ir.panel_formats import (
    BY_K_QUANT,
    FLOATS,
    FORMATS,
    GROUP,
    INTEGERS,
    PANEL,
    SCALED,
    Format,
    Integers,
    filled,
    panel_bytes,
)
from burnish.ir.quantization import Factored, Quantized, as_quantized, unpacked
from burnish.ir.traits import Traits
from burnish.ir.weights import Cast, Concat, Permute, Reshape, Rows, Stored, Weight


@dataclass(frozen=True)
class RowOrder:
    """Which row of a weight stands where.

    head: each `head` rows begin a panel of their own; 0: the rows follow each other. pairs: rows 2i and 2i + 1 are a
    gate and what it is for; a panel has 8 gates, then the 8 that belong to them.
    """

    head: int = 0
    pairs: bool = False

    def places(self, rows: int) -> Tensor:
        """The row at each place of all panels, int64; -1 where a panel is filled up."""
        numbers = torch.arange(rows)
        if self.head:
            numbers = F.pad(numbers.reshape(-1, self.head), (0, -self.head % PANEL), value=-1)
        elif self.pairs:
            both = F.pad(numbers.reshape(-1, 2), (0, 0, 0, -(rows // 2) % (PANEL // 2)), value=-1)
            return both.reshape(-1, PANEL // 2, 2).transpose(1, 2).flatten()
        flat = numbers.flatten()
        return F.pad(flat, (0, -len(flat) % PANEL), value=-1)


# ---------------------------------------------------------------- packing


def _in_panels(x: Tensor, places: Tensor) -> Tensor:
    """Rows of x[N, ...] by their places: [panels, 16, ...], zeros where there is none."""
    found = x[places.clamp(min=0)]
    found[places < 0] = 0
    return found.reshape(-1, PANEL, *x.shape[1:])


def packed(weight: Weight, form: Format, order: RowOrder) -> Tensor:
    """The bytes of a weight[N, K]: uint8[panels, bytes]."""
    rows, size = weight.shape
    places = order.places(rows)
    if form in FLOATS:
        x = _in_panels(weight.materialize().to(FLOATS[form]), places)  # [P, 16, K]
        x = F.pad(x, (0, filled(form, size) - size))
        if form == "bf16":
            x = x.reshape(*x.shape[:2], -1, 2)
        return _bytes(x.transpose(1, 2))
    source = as_quantized(weight)
    assert source is not None, "floats have formats of floats"
    if form == "f8":
        codes = _in_panels(source.values.materialize().view(torch.uint8), places)
        by_row = _in_panels(source.scales.materialize().float(), places)
        return torch.cat([_bytes(by_row), _bytes(codes.transpose(1, 2))], dim=-1)
    if form == "f8b":
        codes = _in_panels(source.values.materialize().view(torch.uint8), places).transpose(1, 2)
        blocks = codes.reshape(len(codes), -1, SCALED * PANEL)
        return torch.cat([_bytes(_turned(source.scales, places), 2), blocks], dim=-1).flatten(1)
    kind = INTEGERS[form]
    whole = filled(form, size)
    q = F.pad(_in_panels(_numbers(source, size), places), (0, whole - size)) + kind.added
    q = q.reshape(len(q), PANEL, -1, 8, 4).permute(0, 2, 3, 1, 4)  # [P, groups, 8, 16, 4]
    scales, minima = _parts(source)
    parts = [scales, *([minima] if minima is not None else [])]
    if not kind.blocked:
        plain = [_by_group(part.materialize(), source, places, whole // GROUP).to(kind.scales) for part in parts]
        return torch.cat([*(_bytes(part, 2) for part in plain), _in_steps(q, kind.bits)], dim=-1).flatten(1)
    factored = [part for part in parts if isinstance(part, Factored)]
    integers = [_turned(part.integers, places).reshape(*q.shape[:2], -1) for part in factored]
    if kind.paired:
        integers = [integers[0].view(torch.uint8) | ((-integers[1]).view(torch.uint8) << 4)]
    halves = [_turned(part.halves, places) for part in factored]
    rest = torch.cat([*(_bytes(part, 2) for part in integers), _in_steps(q, kind.bits)], dim=-1)
    rest = rest.reshape(len(q), whole // kind.unit, -1)
    return torch.cat([*(_bytes(part, 2) for part in halves), rest], dim=-1).flatten(1)


def _numbers(source: Quantized, size: int) -> Tensor:
    """Integers[N, K] that times their scales are the weight, but for minima: int8."""
    q = unpacked(source.values.materialize(), size // source.group).to(torch.int8)
    return q - 8 if source.bits == 4 and source.zeros is None and source.minima is None else q


def _in_steps(q: Tensor, bits: int) -> Tensor:
    """Numbers[P, groups, 8 steps, 16, 4] as they are stored: bytes [P, groups, 64 * bits]."""
    if bits == 8:
        return _bytes(q, 2)
    u = q.to(torch.uint8)
    least = min(bits, 4)
    low = _together((u & (2**least - 1)).reshape(*u.shape[:2], -1, 8 // least, *u.shape[3:]), least)
    if bits <= 4:
        return _bytes(low, 2)
    above = (u >> 4).reshape(*u.shape[:2], bits - 4, -1, *u.shape[3:])
    return torch.cat([_bytes(low, 2), _bytes(_together(above, bits - 4), 2)], dim=-1)


def _together(u: Tensor, bits: int) -> Tensor:
    """Numbers[..., 8 / bits, 16, 4] in bytes[..., 16, 4], the first in the lowest bits."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8).reshape(-1, 1, 1)
    found: Tensor = (u << shifts).sum(-3, dtype=torch.uint8)
    return found


def _apart(bytes_: Tensor, bits: int) -> Tensor:
    """Numbers[..., 8 / bits, 64] of bytes[..., 64]."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8).unsqueeze(-1)
    found: Tensor = (bytes_.unsqueeze(-2) >> shifts) & (2**bits - 1)
    return found


def _turned(part: Weight, places: Tensor) -> Tensor:
    """part[N, n] in panels: [P, n, 16]."""
    return _in_panels(part.materialize(), places).transpose(1, 2)


def _by_group(part: Tensor, source: Quantized, places: Tensor, groups: int) -> Tensor:
    """What each group of a weight has, [N, K / group], for each 32 inputs: [P, groups, 16]."""
    first = torch.arange(groups) * GROUP // source.group
    return _in_panels(part[:, first], places).transpose(1, 2)


def _parts(source: Quantized) -> tuple[Weight, Weight | None]:
    """Scales and minima[N, K / group]; of zero points, scale times these."""
    if source.zeros is None:
        return source.scales, source.minima
    return source.scales, Stored(-source.scales.materialize().float() * source.zeros.materialize())


def _bytes(x: Tensor, kept: int = 1) -> Tensor:
    """x as bytes, with its first `kept` axes."""
    return x.contiguous().flatten(kept).view(torch.uint8)


def format_of(weight: Weight, dtype: torch.dtype | None) -> tuple[Format, str]:
    """The format that keeps a weight[N, K] as it is, but for floats in `dtype`, if that is given.

    Beside it, why integers are in floats, if they are.
    """
    source = as_quantized(weight)
    found = None if source is None else _format_of_integers(source)
    if found is not None:
        return found, ""
    why = "" if source is None else "their scales are no half floats"
    if source is not None and _splits_groups(source):
        why = f"{source.group} of them share a scale, and panels have one for each {GROUP}"
    return next(form for form, each in FLOATS.items() if each == (dtype or stored_dtype(weight))), why


def _splits_groups(source: Quantized) -> bool:
    return source.group % GROUP != 0 and source.group != source.shape[1]


def _format_of_integers(source: Quantized) -> Format | None:
    """The format that keeps integers and what they are scaled by; None where none does."""
    if source.numbers == "fp8":
        return "f8" if source.group == source.shape[1] else "f8b" if source.group == SCALED else None
    scales, minima = _parts(source)
    if isinstance(scales, Factored):
        found = BY_K_QUANT.get((source.bits, source.group, minima is not None))
        if found is not None:
            return found
    if _splits_groups(source):
        return None
    halves = all(_fits_half(each.materialize().float()) for each in (scales, minima) if each is not None)
    wanted = [Integers(source.bits, dtype, minima is not None) for dtype in (torch.float16, torch.float32)]
    fitting = wanted if halves else wanted[1:]
    return next((form for kind in fitting for form, each in INTEGERS.items() if each == kind), None)


def _fits_half(x: Tensor) -> bool:
    """Whether half floats are these numbers, but for what rounding them in float32 did."""
    return bool(((x.half().float() - x).abs() <= x.abs() * 2.0**-21).all())


def stored_dtype(weight: Weight) -> torch.dtype:
    """What a weight of floats was stored in, if all its parts were, before it was widened; else its own dtype."""
    if isinstance(weight, Cast) and weight.source.dtype in FLOATS.values():
        return stored_dtype(weight.source)
    if isinstance(weight, Rows | Permute | Reshape):
        return stored_dtype(weight.source)
    if isinstance(weight, Concat):
        found = {stored_dtype(part) for part in weight.parts}
        return found.pop() if len(found) == 1 else weight.dtype
    return weight.dtype if weight.dtype in FLOATS.values() else torch.float32


@dataclass(frozen=True, eq=False)
class Panels:
    """A weight[N, K] in panels."""

    source: Weight
    form: Format
    order: RowOrder

    @property
    def shape(self) -> tuple[int, ...]:
        rows, size = self.source.shape
        return (len(self.order.places(rows)) // PANEL, panel_bytes(self.form, size))

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    @property
    def rounded_to(self) -> torch.dtype | None:
        """The dtype that floats are rounded to, if that loses something."""
        dtype = FLOATS.get(self.form)
        return None if dtype in (None, torch.float32, stored_dtype(self.source)) else dtype

    def materialize(self) -> Tensor:
        """The bytes."""
        return packed(self.source, self.form, self.order)


# ---------------------------------------------------------------- the op


def unpacked_shape(rows: int, size: int, experts: int) -> tuple[int, ...]:
    """The shape of the weight that panels of `rows` rows stand for."""
    return (experts, rows // experts, size) if experts else (rows, size)


def _shape(
    panels: Tensor, form: str, rows: int, size: int, head: int = 0, pairs: bool = False, experts: int = 0
) -> Tensor:
    return panels.new_empty(unpacked_shape(rows, size, experts), dtype=torch.float32)


@define(
    "from_panels(Tensor panels, str form, int rows, int size, int head=0, bool pairs=False, int experts=0) -> Tensor",
    Traits(),
    _shape,
)
def from_panels(
    panels: Tensor, form: str, rows: int, size: int, head: int = 0, pairs: bool = False, experts: int = 0
) -> Tensor:
    """The weight[rows, size], float32, that panels stand for, or weight[experts, rows / experts, size].

    `form` is one of `FORMATS`; for `head` and `pairs` see `RowOrder`.
    """
    if form not in FORMATS:
        raise ValueError(f"there is no format {form!r} of panels: there are {', '.join(FORMATS)}")
    count = len(panels)
    if form == "f8":
        front, codes = panels.tensor_split([4 * PANEL], dim=-1)
        scales = front.contiguous().view(torch.float32).unsqueeze(-1)
        x = _across(codes.contiguous().view(torch.float8_e4m3fn).float(), count) * scales
    elif form == "f8b":
        front, codes = panels.reshape(count, -1, PANEL * (4 + SCALED)).tensor_split([4 * PANEL], dim=-1)
        scales = front.contiguous().view(torch.float32).unsqueeze(2)  # [P, K / 128, 1, 16]
        codes = codes.contiguous().view(torch.float8_e4m3fn).float().reshape(count, -1, SCALED, PANEL)
        x = _across(codes * scales, count)
    elif form in FLOATS:
        x = panels.view(FLOATS[form]).float()
        x = x.reshape(count, -1, PANEL, 2).permute(0, 2, 1, 3).flatten(2) if form == "bf16" else _across(x, count)
    else:
        x = _integers(panels, form)
    places = RowOrder(head, pairs).places(rows)
    found = x.new_empty(rows, size)
    found[places[places >= 0]] = x.flatten(0, 1)[places >= 0][:, :size]
    return found.reshape(unpacked_shape(rows, size, experts))


def _across(x: Tensor, count: int) -> Tensor:
    return x.reshape(count, -1, PANEL).transpose(1, 2)


def integer_parts(panels: Tensor, form: Format) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """What panels of integers have: what gives the numbers [panels, groups, 16, 32], and scales and minima
    [panels, groups, 16, runs].
    """
    kind = INTEGERS[form]
    units = panels.reshape(len(panels), -1, kind.unit_bytes)
    halves: list[Tensor] = []
    if kind.blocked:
        front, units = units.tensor_split([kind.parts * 2 * PANEL], dim=-1)
        halves = [each.view(torch.float16).float() for each in front.contiguous().chunk(kind.parts, dim=-1)]
    groups = units.reshape(len(panels), -1, kind.group_bytes)
    front, steps = groups.tensor_split([kind.parts * kind.part_bytes], dim=-1)
    both = (front & 15, -(front >> 4).view(torch.int8)) if kind.paired else front.chunk(kind.parts, dim=-1)
    parts = []
    for place, part in enumerate(both):
        each = part.contiguous().view(kind.scales).float().reshape(*groups.shape[:2], kind.runs, PANEL)
        if halves:
            each = (each.reshape(*halves[place].shape[:2], -1, PANEL) * halves[place].unsqueeze(2)).reshape(each.shape)
        parts.append(each.transpose(2, 3))
    return lambda: _from_steps(steps, kind.bits) - kind.added, parts


def _integers(panels: Tensor, form: Format) -> Tensor:
    """Floats [panels, 16, inputs] from panels of integers."""
    numbers, parts = integer_parts(panels, form)
    q = numbers()
    floats = q.reshape(*q.shape[:3], INTEGERS[form].runs, -1) * parts[0].unsqueeze(-1)
    if len(parts) > 1:
        floats = floats + parts[1].unsqueeze(-1)
    return floats.flatten(3).transpose(1, 2).flatten(2)


def _from_steps(steps: Tensor, bits: int) -> Tensor:
    """Numbers as they are stored, float [P, groups, 16, 32], from bytes [P, groups, 64 * bits]."""
    count = steps.shape[:2]
    if bits == 8:
        q = steps.contiguous().view(torch.int8)
    else:
        bytes_ = steps.reshape(*count, bits, 64)
        q = _apart(bytes_[:, :, :4], min(bits, 4))
        if bits > 4:
            q = q | (_apart(bytes_[:, :, 4:], bits - 4) << 4).reshape(q.shape)
    return q.reshape(*count, 8, PANEL, 4).permute(0, 1, 3, 2, 4).flatten(3).float()


panel_ops = torch.ops.burnish
