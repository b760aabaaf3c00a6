"""Weights of 8 bits and fewer: integers, or floats of 8 bits, and a scale for each group of them along the last axis.

weight[n, k] = scale[n, k // group] * q[n, k], q from -127 to 127, or of 4, 5 and 6 bits from -8, -16 and -32 on. 4 bits
are uint8[N, K / 2]: byte i of a group has element i in its low half and element group / 2 + i in its high half, each
+ 8, so that what lies side by side in memory is wanted side by side. All others are int8[N, K]. With zero points, of 4
bits alone, weight = scale * (u - zero) for the u from 0 to 15 that is stored; with minima, weight = scale * u + minimum
for the u from 0 on. Floats are float8_e4m3fn[N, K], with a scale for a row.

Until a program is lowered, its graph has products of floats, whose weights say that they are of integers (`Quantized`):
so every pass that moves weights about works on them, and what a program computes on the way is what it will compute.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from burnish.ir.weights import Cast, Concat, Offset, Permute, Reshape, Rows, Weight

SCALE_DTYPE = torch.float16


@dataclass(frozen=True, eq=False)
class Quantized:
    """The floats[N, K] that integers and scales stand for."""

    values: Weight  # as they are stored: int8[N, K], uint8[N, K / 2] or float8_e4m3fn[N, K]
    scales: Weight  # float16[N, K / group]; float32 where an exact weight needs it, and of floats
    zeros: Weight | None  # float32[N, K / group], integers from 0 to 15, of 4 bits only; None: 8, or minima
    bits: int
    group: int
    minima: Weight | None = None  # float16 or float32[N, K / group]; no zero points beside them

    @property
    def numbers(self) -> str:
        """What a user calls what is stored: int8, fp8."""
        return "fp8" if self.values.dtype == torch.float8_e4m3fn else f"int{self.bits}"

    @property
    def shape(self) -> tuple[int, ...]:
        rows, size = self.values.shape
        return (rows, 2 * size if self.bits == 4 else size)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def materialize(self) -> Tensor:
        """The floats."""
        zeros, minima = (None if part is None else part.materialize() for part in (self.zeros, self.minima))
        return dequantized(self.values.materialize(), self.scales.materialize(), zeros, minima)


@dataclass(frozen=True, eq=False)
class Widened:
    """Floats whose file has something narrower for them: floats to all but who asks for the integers that were `kept`.

    source: of the rows of all matrices that there are, [matrices * N, K]; None: the file's type has no such integers.
    """

    floats: Weight
    source: Quantized | None
    kind: str  # of numbers, as the file calls it

    @property
    def shape(self) -> tuple[int, ...]:
        return self.floats.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.floats.dtype

    def materialize(self) -> Tensor:
        """The floats."""
        return self.floats.materialize()


def as_quantized(weight: Weight) -> Quantized | None:
    """The rows of `weight` as integers and scales, if it is made of such weights; None if it is of floats.

    Of several matrices, [..., N, K], these are the rows of all of them.
    """
    return _made_of(weight, lambda leaf: leaf if isinstance(leaf, Quantized) else None)


def kept(weight: Weight) -> Quantized | None:
    """The same, as the integers that its file has; None if it has others, or floats."""
    return _made_of(weight, lambda leaf: leaf.source if isinstance(leaf, Widened) else None)


def why_not_kept(weight: Weight) -> str:
    """Why a weight that its file has narrower is `kept` in no integers; nothing where the file has floats for it."""
    leaves = list(_leaves(weight))
    found = [leaf for leaf in leaves if isinstance(leaf, Widened)]
    if not found:
        return ""
    strange = sorted({leaf.kind for leaf in found if leaf.source is None})
    if strange:
        return f"numbers of {' and '.join(strange)} are no integers with scales that weights have"
    kinds = sorted({leaf.kind for leaf in found}) + (["floats"] if len(found) < len(leaves) else [])
    if len(kinds) > 1:
        return f"it is joined of {' and '.join(kinds)}, and integers are of one kind"
    return f"its rows of {kinds[0]} are taken apart"


def _leaves(weight: Weight) -> Iterator[Weight]:
    """What a weight is made of in the end."""
    if isinstance(weight, Concat):
        for part in weight.parts:
            yield from _leaves(part)
    elif isinstance(weight, Rows | Reshape | Permute | Cast | Offset):
        yield from _leaves(weight.source)
    else:
        yield weight


def kind_of(weight: Weight) -> tuple[object, ...] | None:
    """Equal for weights that can be joined and be of integers still: numbers, group, scales, zeros; None for floats."""
    found = as_quantized(weight)
    return None if found is None else _kind(found)


def _kind(weight: Quantized) -> tuple[object, ...]:
    parts = (weight.scales, weight.zeros, weight.minima)
    return weight.numbers, weight.group, *((type(part) is Factored, part.dtype) if part else None for part in parts)


def _made_of(weight: Weight, integers_of: Callable[[Weight], Quantized | None]) -> Quantized | None:
    """Rows and joins of weights that `integers_of` finds integers in."""
    found = integers_of(weight)
    if found is not None:
        return found
    if isinstance(weight, Reshape) and weight.shape[-1] == weight.source.shape[-1]:
        return _made_of(weight.source, integers_of)
    if isinstance(weight, Rows) and len(weight.shape) == 2:
        source = _made_of(weight.source, integers_of)
        return None if source is None else _each([source], lambda part: Rows(part, weight.numbers))
    if not isinstance(weight, Concat) or weight.axis % len(weight.shape) == len(weight.shape) - 1:
        return None
    parts = [found for part in weight.parts if (found := _made_of(part, integers_of)) is not None]
    if len(parts) != len(weight.parts) or len({_kind(part) for part in parts}) != 1:
        return None
    joined = _each(parts, lambda *same: Concat(same))
    if weight.axis == 0:
        return joined
    numbers = _joined_rows([part.shape for part in weight.parts], weight.axis)
    return _each([joined], lambda part: Rows(part, numbers))


def _joined_rows(shapes: Sequence[tuple[int, ...]], axis: int) -> Tensor:
    """Which of all rows of parts, one part behind the other, is each row of them joined along `axis`: int64."""
    counts = [math.prod(shape[:-1]) for shape in shapes]
    numbers = torch.split(torch.arange(sum(counts)), counts)
    parts = [part.reshape(shape[:-1]) for part, shape in zip(numbers, shapes, strict=True)]
    return torch.cat(parts, dim=axis).flatten()


@dataclass(frozen=True, eq=False)
class Factored:
    """Scales or minima[N, groups] of GGML's K-quants: an integer each, times a half for 256 inputs, in float32."""

    halves: Weight  # float16[N, K / 256]
    integers: Weight  # int8[N, groups]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.integers.shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def materialize(self) -> Tensor:
        """The products."""
        halves, integers = self.halves.materialize().float(), self.integers.materialize().float()
        return (integers.reshape(*halves.shape, -1) * halves.unsqueeze(-1)).flatten(1)


@dataclass(frozen=True, eq=False)
class Repeated:
    """Each of the scales[N, groups] `times` times in a row."""

    source: Weight
    times: int

    @property
    def shape(self) -> tuple[int, ...]:
        rows, groups = self.source.shape
        return (rows, groups * self.times)

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def materialize(self) -> Tensor:
        """The scales, repeated."""
        return self.source.materialize().repeat_interleave(self.times, dim=1)


def regrouped(weight: Quantized, group: int) -> Quantized:
    """8 bits in smaller groups, which divide those that there are: the same integers, with scales repeated."""
    assert weight.bits == 8
    assert weight.zeros is None
    return replace(weight, scales=Repeated(weight.scales, weight.group // group), group=group)


def _each(weights: Sequence[Quantized], make: Callable[..., Weight]) -> Quantized:
    """Weights of one kind as one, made part by part."""

    def part(name: str) -> Weight | None:
        found = [getattr(weight, name) for weight in weights]
        if isinstance(found[0], Factored):
            return Factored(make(*(each.halves for each in found)), make(*(each.integers for each in found)))
        return None if found[0] is None else make(*found)

    values, scales = part("values"), part("scales")
    assert values is not None
    assert scales is not None
    return replace(weights[0], values=values, scales=scales, zeros=part("zeros"), minima=part("minima"))


def pack(q: Tensor, bits: int, group: int) -> Tensor:
    """Integers[N, K] as they are stored: of 4 bits from 0 to 15."""
    if bits != 4:
        return q.to(torch.int8)
    low, high = q.to(torch.uint8).reshape(q.shape[0], -1, group).chunk(2, dim=-1)
    return (low | (high << 4)).reshape(q.shape[0], -1)


def unpacked(weight: Tensor, groups: int) -> Tensor:
    """Integers[N, K] from how they are stored; `groups` of them a row. Of 4 bits: uint8, from 0 to 15."""
    if weight.dtype != torch.uint8:
        return weight
    parts = weight.reshape(weight.shape[0], groups, -1)
    return torch.cat([parts & 15, parts >> 4], dim=-1).flatten(1)


def dequantized(weight: Tensor, scales: Tensor, zeros: Tensor | None = None, minima: Tensor | None = None) -> Tensor:
    """The weight[N, K] that is meant, in float32."""
    q = unpacked(weight, scales.shape[-1]).float().reshape(*scales.shape, -1)
    if zeros is not None:
        q = q - zeros.unsqueeze(-1)
    elif weight.dtype == torch.uint8 and minima is None:
        q = q - 8
    floats = q * scales.float().unsqueeze(-1)
    if minima is not None:
        floats = floats + minima.float().unsqueeze(-1)
    return floats.flatten(-2)
