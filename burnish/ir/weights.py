"""Weights as expressions.

A weight is never copied to be looked at. What a model gives is a `Stored` weight (a tensor in memory, or mapped from a
file); what a pass makes of weights is an expression over others. The expression is evaluated when the artifact is
written, one weight at a time, so that the memory a compilation needs is set by the largest weight, not by the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch

from burnish.ir.errors import WeightError


@runtime_checkable
class Weight(Protocol):
    """Something that has a shape and a dtype now, and values when asked."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def materialize(self) -> torch.Tensor:
        """The values, a CPU tensor of `shape` and `dtype`. The caller must not change it: it may be the model's own."""
        ...


@dataclass(frozen=True, eq=False)
class Stored:
    """A tensor that exists: a parameter, a buffer, a memory-mapped slice of a file, or a folded constant."""

    tensor: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def materialize(self) -> torch.Tensor:
        return self.tensor.detach()


@dataclass(frozen=True, eq=False)
class Concat:
    """Weights joined along `axis`."""

    parts: tuple[Weight, ...]
    axis: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        first = list(self.parts[0].shape)
        first[self.axis] = sum(part.shape[self.axis] for part in self.parts)
        return tuple(first)

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    def materialize(self) -> torch.Tensor:
        return torch.cat([part.materialize() for part in self.parts], dim=self.axis)


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a weight, by number: int64[count], in the order given."""

    source: Weight
    numbers: torch.Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.numbers), *self.source.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def materialize(self) -> torch.Tensor:
        return self.source.materialize()[self.numbers]


@dataclass(frozen=True, eq=False)
class Permute:
    """A weight with its axes in another order, laid out contiguously."""

    source: Weight
    order: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.source.shape[axis] for axis in self.order)

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def materialize(self) -> torch.Tensor:
        return self.source.materialize().permute(self.order).contiguous()


@dataclass(frozen=True, eq=False)
class Cast:
    """A weight in another dtype."""

    source: Weight
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    def materialize(self) -> torch.Tensor:
        return self.source.materialize().to(self.dtype)


@dataclass(frozen=True, eq=False)
class Reshape:
    """A weight with the same elements in the same order under another shape."""

    source: Weight
    shape: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def materialize(self) -> torch.Tensor:
        return self.source.materialize().reshape(self.shape)


@dataclass(frozen=True, eq=False)
class Offset:
    """`source + amount`: norms that store their scale as the distance from one."""

    source: Weight
    amount: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def materialize(self) -> torch.Tensor:
        return self.source.materialize() + self.amount


@dataclass(frozen=True, eq=False)
class Scaled:
    """A weight [out, ...] times a factor for each of its first axis."""

    source: Weight
    factor: Weight

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def materialize(self) -> torch.Tensor:
        source = self.source.materialize()
        return source * self.factor.materialize().reshape(-1, *[1] * (source.dim() - 1))


@dataclass(frozen=True, eq=False)
class Part:
    """`length` of a weight's entries along `axis`, from `start` on."""

    source: Weight
    axis: int
    start: int
    length: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.source.shape[: self.axis], self.length, *self.source.shape[self.axis + 1 :])

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def materialize(self) -> torch.Tensor:
        return self.source.materialize().narrow(self.axis, self.start, self.length).contiguous()


@dataclass(frozen=True, eq=False)
class NormedWeight:
    """A convolution's weight [out, ...] with the norm over the batch behind it: times scale / sqrt(variance + eps)."""

    source: Weight
    scale: Weight | None
    variance: Weight
    eps: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def materialize(self) -> torch.Tensor:
        source = self.source.materialize()
        factor = _norm_factor(self.scale, self.variance, self.eps).reshape(-1, *[1] * (source.dim() - 1))
        return (source * factor).to(source.dtype)


@dataclass(frozen=True, eq=False)
class NormedBias:
    """The bias to it: (bias - mean) * scale / sqrt(var + eps) + shift; one that is None is 0, a scale 1."""

    bias: Weight | None
    scale: Weight | None
    shift: Weight | None
    mean: Weight
    variance: Weight
    eps: float

    @property
    def shape(self) -> tuple[int, ...]:
        return self.mean.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.mean.dtype

    def materialize(self) -> torch.Tensor:
        """See `Weight.materialize`."""
        mean = self.mean.materialize()
        moved = -mean.double() if self.bias is None else self.bias.materialize().double() - mean.double()
        found = moved * _norm_factor(self.scale, self.variance, self.eps)
        return (found if self.shift is None else found + self.shift.materialize().double()).to(mean.dtype)


def _norm_factor(scale: Weight | None, variance: Weight, eps: float) -> torch.Tensor:
    factor = torch.rsqrt(variance.materialize().double() + eps)
    return factor if scale is None else factor * scale.materialize().double()


@dataclass
class Weights(Mapping[str, Weight]):
    """The weights of a program by name. Adding never replaces: a name means one thing for a whole compilation."""

    _entries: dict[str, Weight] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Weight:
        try:
            return self._entries[name]
        except KeyError:
            raise WeightError(f"the program has no weight named {name!r}") from None

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, name: str, weight: Weight) -> str:
        """Add `weight` under `name`, or under `name` with a number after it if the name is taken; the name used."""
        unique, count = name, 1
        while unique in self._entries:
            unique, count = f"{name}_{count}", count + 1
        self._entries[unique] = weight
        return unique

    def replaced(self, name: str, weight: Weight) -> Weights:
        """The same weights, but for other values of one under its name."""
        return Weights({**self._entries, name: weight})

    def copy(self) -> Weights:
        """The same weights (not their values) in a mapping of its own."""
        return Weights(dict(self._entries))

    def keep_only(self, names: set[str]) -> Weights:
        """Those of `names` that are here, in the order they were added."""
        return Weights({name: weight for name, weight in self._entries.items() if name in names})


def nbytes(weight: Weight) -> int:
    """Bytes that the values of `weight` take."""
    count = 1
    for size in weight.shape:
        count *= size
    return count * weight.dtype.itemsize
