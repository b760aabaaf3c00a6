"""Weights of products as CPUs stream them, and the op that gives them back as the floats that they stand for.

Rows of weight[N, K] come in panels of 16, whose elements stand in the order in which they are multiplied, as
`burnish/runtime/native/cpp/formats.h` reads them. In a panel, inputs come one behind the other, each with its 16 rows:

    f32, f16   [K][16]
    bf16       [K / 2][16][2]
    q8, q8f    for each 32 inputs: scales [16], int8 [8 steps][16][4]
    q4         for each 32 inputs: scales [16], bytes [4][16][4] of two numbers each: the low half is of step 2i, the
               high half of step 2i + 1
    q4m, q4f   the same, with minima [16] behind the scales

A number is scale * q in q8, scale * (u - 8) in q4, scale * u + minimum in q4m and q4f; scales and minima are float16,
or float32 in q8f and q4f. K is filled up with zeros to whole steps, N to whole panels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ir.ops import define
from burnish.ir.quantization import Quantized, as_quantized, unpacked
from burnish.ir.traits import Traits
from burnish.ir.weights import Cast, Concat, Permute, Reshape, Rows, Weight

Format = Literal["f32", "bf16", "f16", "q8", "q8f", "q4", "q4m", "q4f"]
FORMATS: tuple[Format, ...] = get_args(Format)
PANEL, GROUP = 16, 32

_FLOATS: dict[Format, torch.dtype] = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def is_integer(form: Format) -> bool:
    """Whether a format is of integers."""
    return form not in _FLOATS


def _has_minima(form: Format) -> bool:
    return form in ("q4m", "q4f")


def _part_dtype(form: Format) -> torch.dtype:
    return torch.float32 if form in ("q8f", "q4f") else torch.float16


def _filled(form: Format, size: int) -> int:
    unit = GROUP if is_integer(form) else 2 if form == "bf16" else 1
    return -(-size // unit) * unit


def _group_bytes(form: Format) -> int:
    parts = _part_dtype(form).itemsize * PANEL * (2 if _has_minima(form) else 1)
    return parts + (512 if form.startswith("q8") else 256)


def panel_bytes(form: Format, size: int) -> int:
    """Bytes of one panel of rows of `size` elements."""
    filled = _filled(form, size)
    return filled // GROUP * _group_bytes(form) if is_integer(form) else filled * PANEL * _FLOATS[form].itemsize


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
    """The bytes of a weight[N, K] of floats or integers: uint8[panels, bytes]."""
    rows, size = weight.shape
    places = order.places(rows)
    if not is_integer(form):
        x = _in_panels(weight.materialize().to(_FLOATS[form]), places)  # [P, 16, K]
        x = F.pad(x, (0, _filled(form, size) - size))
        if form == "bf16":
            x = x.reshape(*x.shape[:2], -1, 2)
        return _bytes(x.transpose(1, 2))
    source = as_quantized(weight)
    assert source is not None, "floats have formats of floats"
    groups = -(-size // GROUP)
    q = unpacked(source.values.materialize(), size // source.group)
    filling = 0 if source.bits == 8 or _has_minima(form) else 8
    q = F.pad(_in_panels(q, places), (0, groups * GROUP - size), value=filling)
    q = q.reshape(len(q), PANEL, groups, 8, 4).permute(0, 2, 3, 1, 4)  # [P, groups, 8, 16, 4]
    if source.bits == 4:
        q = q[:, :, 0::2] | (q[:, :, 1::2] << 4)
    scales, minima = _parts(source)
    parts = [scales, *([minima] if minima is not None else [])]
    whole = [_bytes(_by_group(each, source, places, groups, form)) for each in parts]
    return torch.cat([*(each.reshape(len(q), groups, -1) for each in whole), _bytes(q, 2)], dim=-1).flatten(1)


def _by_group(part: Tensor, source: Quantized, places: Tensor, groups: int, form: Format) -> Tensor:
    """What each group of a weight has, [N, K / group], for each 32 inputs: [P, groups, 16]."""
    first = torch.arange(groups) * GROUP // source.group
    return _in_panels(part[:, first], places).transpose(1, 2).to(_part_dtype(form))


def _parts(source: Quantized) -> tuple[Tensor, Tensor | None]:
    """Scales and minima, float32 [N, K / group]; of 4 bits without zero points, no minima."""
    scales = source.scales.materialize().float()
    return scales, None if source.zeros is None else -scales * source.zeros.materialize()


def _bytes(x: Tensor, kept: int = 1) -> Tensor:
    """x as bytes, with its first `kept` axes."""
    return x.contiguous().flatten(kept).view(torch.uint8)


def format_of(weight: Weight, dtype: torch.dtype | None) -> tuple[Format, str]:
    """The format that keeps a weight[N, K] as it is, but for floats in `dtype`, if that is given.

    Beside it, why integers are in floats, if they are.
    """
    source = as_quantized(weight)
    why = ""
    if source is not None:
        if source.group % GROUP and source.group != source.shape[1]:
            why = f"{source.group} of them share a scale, and panels have one for each {GROUP}"
        else:
            scales, minima = _parts(source)
            halves = all(_fits_half(each) for each in (scales, minima) if each is not None)
            if source.bits == 8:
                return ("q8" if halves else "q8f"), ""
            if minima is not None:
                return ("q4m" if halves else "q4f"), ""
            if halves:
                return "q4", ""
            why = "their scales are no half floats"
    return next(form for form, each in _FLOATS.items() if each == (dtype or stored_dtype(weight))), why


def _fits_half(x: Tensor) -> bool:
    """Whether half floats are these numbers, but for what rounding them in float32 did."""
    return bool(((x.half().float() - x).abs() <= x.abs() * 2.0**-21).all())


def stored_dtype(weight: Weight) -> torch.dtype:
    """What a weight of floats was stored in, if all its parts were, before it was widened; else its own dtype."""
    if isinstance(weight, Cast) and weight.source.dtype in _FLOATS.values():
        return stored_dtype(weight.source)
    if isinstance(weight, Rows | Permute | Reshape):
        return stored_dtype(weight.source)
    if isinstance(weight, Concat):
        found = {stored_dtype(part) for part in weight.parts}
        return found.pop() if len(found) == 1 else weight.dtype
    return weight.dtype if weight.dtype in _FLOATS.values() else torch.float32


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
        dtype = _FLOATS.get(self.form)
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
    if not is_integer(form):
        x = panels.view(_FLOATS[form]).float()
        x = x.reshape(count, -1, PANEL, 2).permute(0, 2, 1, 3).flatten(2) if form == "bf16" else _turned(x, count)
    else:
        x = _integers(panels, form)
    places = RowOrder(head, pairs).places(rows)
    found = x.new_empty(rows, size)
    found[places[places >= 0]] = x.flatten(0, 1)[places >= 0][:, :size]
    return found.reshape(unpacked_shape(rows, size, experts))


def _turned(x: Tensor, count: int) -> Tensor:
    return x.reshape(count, -1, PANEL).transpose(1, 2)


def _integers(panels: Tensor, form: Format) -> Tensor:
    """Floats [panels, 16, inputs] from panels of integers."""
    groups = panels.reshape(len(panels), -1, _group_bytes(form))
    dtype = _part_dtype(form)
    size = dtype.itemsize * PANEL
    scales, rest = groups[..., :size].contiguous().view(dtype).float(), groups[..., size:]
    minima: Tensor | float = 0.0
    if _has_minima(form):
        minima, rest = rest[..., :size].contiguous().view(dtype).float().unsqueeze(-1), rest[..., size:]
    if form.startswith("q8"):
        q = rest.contiguous().view(torch.int8)
    else:
        bytes_ = rest.reshape(*rest.shape[:2], 4, 64)
        q = torch.stack((bytes_ & 15, bytes_ >> 4), dim=3)
    q = q.reshape(*rest.shape[:2], 8, PANEL, 4).permute(0, 1, 3, 2, 4).flatten(3).float()  # [P, groups, 16, 32]
    if form == "q4":
        q = q - 8
    return (q * scales.unsqueeze(-1) + minima).transpose(1, 2).flatten(2)


panel_ops = torch.ops.burnish
