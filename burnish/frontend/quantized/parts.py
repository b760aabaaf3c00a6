"""What formats of quantized checkpoints have in common: tensors that together are one weight, and integers in words."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from burnish.frontend.safetensors_folder import Tensors
from burnish.ir.errors import InvalidModelError, WeightError
from burnish.ir.quantization import SCALE_DTYPE, Quantized, Widened, pack
from burnish.ir.weights import Cast, Weight

Settings = Mapping[str, Any]
"""`quantization_config` of a config.json."""

SCALES = (torch.float16, torch.bfloat16, torch.float32)
"""What scales of integers may be stored as."""


@dataclass(frozen=True, eq=False)
class Computed:
    """A weight made of the values of others, when its own are asked for."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    sources: tuple[Weight, ...]
    make: Callable[..., Tensor]

    def materialize(self) -> Tensor:
        """The values."""
        found = self.make(*(source.materialize() for source in self.sources))
        assert found.shape == self.shape
        assert found.dtype == self.dtype
        return found


@dataclass(frozen=True)
class Parts:
    """The tensors of one module that make its weight, by what follows its name."""

    module: str
    tensors: Mapping[str, Weight]
    file: Path
    joint: str = "."

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def get(self, name: str, shape: tuple[int, ...], *dtypes: torch.dtype) -> Weight:
        """A tensor, which has to be of a shape and of one of the dtypes. WeightError if it is not."""
        if name not in self.tensors:
            raise WeightError(f"{self.file} has no tensor {self._full(name)!r}, which its quantized weight needs")
        found = self.tensors[name]
        if found.shape != shape or found.dtype not in dtypes:
            wanted = " or ".join(_word(dtype) for dtype in dtypes)
            raise WeightError(
                f"{self.file}: the tensor {self._full(name)!r} is {_word(found.dtype)} {list(found.shape)}, and "
                f"{wanted} {list(shape)} is expected"
            )
        return found

    def _full(self, name: str) -> str:
        return f"{self.module}{self.joint}{name}"

    def wrong(self, what: str) -> WeightError:
        """An error of this module."""
        return WeightError(f"{self.file}: the quantized weight of {self.module} {what}")


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def parts_of(stored: Tensors, anchor: str, others: Collection[str]) -> Iterator[Parts]:
    """The modules that have a tensor `anchor`, with those of `others` that they have, too."""
    for name, (weight, file) in stored.items():
        module, dot, last = name.rpartition(f".{anchor}")
        if dot and not last:
            found = {each: stored[f"{module}.{each}"][0] for each in others if f"{module}.{each}" in stored}
            parts = Parts(module, {anchor: weight, **found}, file)
            if any(0 in each.shape for each in parts.tensors.values()):
                raise parts.wrong("has a tensor without elements")
            yield parts


def replaced(stored: Tensors, weights: Mapping[str, Weight], parts: Collection[Parts]) -> Tensors:
    """The tensors with `weights` by their modules' names in place of the parts that they were made of."""
    gone = {f"{each.module}.{name}" for each in parts for name in each.tensors}
    left = {name: found for name, found in stored.items() if name not in gone}
    files = {each.module: each.file for each in parts}
    return left | {f"{module}.weight": (weight, files[module]) for module, weight in weights.items()}


def setting(settings: Settings, name: str, allowed: Collection[Any], default: Any) -> Any:
    """A setting that has to be one of those allowed."""
    found = settings.get(name, default)
    if found not in allowed:
        words = ", ".join(repr(each) for each in allowed)
        raise InvalidModelError(f"quantization_config says {name}={found!r}, which is not read: {words} is")
    return found


# ---------------------------------------------------------------- integers


def from_words(words: Tensor, bits: int) -> Tensor:
    """The integers in words int32[..., n], the first of a word in its lowest bits: uint8[..., n * 32 / bits]."""
    bytes_ = words.contiguous().view(torch.uint8)
    if bits == 8:
        return bytes_
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    found = bytes_.unsqueeze(-1).bitwise_right_shift(shifts)
    return found.bitwise_and(2**bits - 1).flatten(-2)


def integers(
    values: Weight, shape: tuple[int, int], scales: Weight, zeros: Weight | None, bits: int, group: int, kind: str
) -> Widened:
    """scale * (u - zero) for each of `values` uint8[N, K], stored as it is where weights can be.

    scales: [N, K / group], zeros: uint8 likewise, for none all are 2^(bits - 1).
    """
    middle = 2 ** (bits - 1)
    if zeros is not None and bool((zeros.materialize() == middle).all()):
        zeros = None
    if bits == 8 and zeros is not None:
        return floats(values, shape, scales, zeros, f"{kind} with zero points")
    if bits == 8:
        q: Weight = Computed(shape, torch.int8, (values,), lambda u: (u ^ 128).view(torch.int8))
    else:
        shift = 8 - middle if zeros is None else 0  # numbers of fewer bits are 4 here
        packed = (shape[0], shape[1] // 2)
        q = Computed(packed, torch.uint8, (values,), lambda u: pack(u + shift, 4, group))
    wide = scales if scales.dtype == SCALE_DTYPE else Cast(scales, torch.float32)
    source = Quantized(q, wide, None if zeros is None else Cast(zeros, torch.float32), max(bits, 4), group)
    return Widened(source, source, kind)


def floats(values: Weight, shape: tuple[int, int], scales: Weight, zeros: Weight, kind: str) -> Widened:
    """The same as floats, for what no weight of integers is like."""

    def make(u: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
        grouped = u.float().reshape(*scale.shape, -1)
        return ((grouped - zero.float().unsqueeze(-1)) * scale.float().unsqueeze(-1)).flatten(1)

    return Widened(Computed(shape, torch.float32, (values, scales, zeros), make), None, kind)


def turned(weight: Weight) -> Weight:
    """A matrix on its side."""
    rows, columns = weight.shape
    return Computed((columns, rows), weight.dtype, (weight,), lambda x: x.T.contiguous())
