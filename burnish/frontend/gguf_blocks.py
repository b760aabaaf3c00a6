"""What GGML's types have in each block of a row: integers, their scales and minima."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from gguf import GGMLQuantizationType as Type
from torch import Tensor

from burnish.ir.quantization import pack


@dataclass(frozen=True)
class Part:
    """`count` numbers of `dtype` in each block: `read` gives them, of bytes[rows, blocks, bytes of a block]."""

    count: int
    dtype: torch.dtype
    read: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Integers:
    """A type whose numbers are `scale * q` or `scale * u + minimum`, as `burnish.ir.quantization` has them.

    Of K-quants, scales and minima are a half for each block, and the integers that it is multiplied with.
    """

    bits: int
    group: int
    values: Part
    scales: Part | tuple[Part, Part]
    minima: Part | tuple[Part, Part] | None = None


def _half(start: int) -> Part:
    return Part(1, torch.float16, lambda blocks: blocks[..., start : start + 2].contiguous().view(torch.float16))


def _bytes(start: int, end: int, dtype: torch.dtype) -> Part:
    return Part(end - start, dtype, lambda blocks: blocks[..., start:end].contiguous().view(dtype))


def _integers(count: int, read: Callable[[Tensor], Tensor]) -> Part:
    return Part(count, torch.int8, lambda blocks: read(blocks).to(torch.int8))


def _packed(count: int, group: int, read: Callable[[Tensor], Tensor]) -> Part:
    return Part(count // 2, torch.uint8, lambda blocks: pack(read(blocks).flatten(1), 4, group))


def _spread(data: Tensor, run: int, bits: int) -> Tensor:
    """Numbers from bytes[..., n] of several each: of each `run` bytes the lowest `bits` of all, then the next."""
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8).unsqueeze(-1)
    parts: Tensor = (data.reshape(*data.shape[:-1], -1, 1, run) >> shifts) & (2**bits - 1)
    return parts.flatten(-3)


def _five(low: int, high: int, run: int, run_of_high: int, size: int) -> Callable[[Tensor], Tensor]:
    """Numbers of five bits: four from byte `low` on, and the fifth from byte `high` on."""

    def read(blocks: Tensor) -> Tensor:
        fifth = _spread(blocks[..., high : high + size // 8], run_of_high, 1)
        return _spread(blocks[..., low : low + size // 2], run, 4) | (fifth << 4)

    return read


def _six(blocks: Tensor) -> Tensor:
    return (_spread(blocks[..., :128], 64, 4) | (_spread(blocks[..., 128:192], 32, 2) << 4)).to(torch.int8) - 32


def _three(blocks: Tensor) -> Tensor:
    return (_spread(blocks[..., 32:96], 32, 2) | (_spread(blocks[..., :32], 32, 1) << 2)) + 4  # of which 8 is zero


def _scales_of_three(blocks: Tensor) -> Tensor:
    low, high = _spread(blocks[..., 96:104], 8, 4), _spread(blocks[..., 104:108], 4, 2)
    return (low | (high << 4)).to(torch.int8) - 32


def _six_bits(first: int) -> Callable[[Tensor], Tensor]:
    """Eight scales (`first` 0) or minima (4) of six bits, in the 12 bytes from byte 4 on."""

    def read(blocks: Tensor) -> Tensor:
        bytes_ = blocks[..., 4:16]
        own, shared = bytes_[..., first : first + 4], bytes_[..., 8:12]
        low = shared & 15 if first == 0 else shared >> 4
        return torch.cat([own & 63, low | (own >> 2 & 48)], dim=-1)

    return read


_LEVELS = torch.tensor([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=torch.int8)


def _levels(start: int, size: int) -> Part:
    """Integers of 8 bits that four choose of the levels of the IQ4 types."""
    return _integers(size, lambda blocks: _LEVELS[_spread(blocks[..., start : start + size // 2], 16, 4).int()])


def _scales_of_levels(blocks: Tensor) -> Tensor:
    low, high = _spread(blocks[..., 4:8], 1, 4), _spread(blocks[..., 2:4], 1, 2)
    return (low | (high << 4)).to(torch.int8) - 32


def _less(read: Callable[[Tensor], Tensor], number: int) -> Callable[[Tensor], Tensor]:
    return lambda blocks: read(blocks).to(torch.int8) - number


def _taken_off(read: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Minima, which K-quants take off."""
    return lambda blocks: -read(blocks).to(torch.int8)


_OF_K = {
    "scales": (_half(0), _integers(8, _six_bits(0))),
    "minima": (_half(2), _integers(8, _taken_off(_six_bits(4)))),
}

KINDS = {
    # A block of 32 of 4 bits has its first 16 numbers in the low halves of its bytes, the others in the high ones, as
    # we do.
    Type.Q8_0: Integers(8, 32, _bytes(2, 34, torch.int8), _half(0)),
    Type.Q4_0: Integers(4, 32, _bytes(2, 18, torch.uint8), _half(0)),
    Type.Q4_1: Integers(4, 32, _bytes(4, 20, torch.uint8), _half(0), _half(2)),
    Type.Q5_0: Integers(5, 32, _integers(32, _less(_five(6, 2, 16, 1, 32), 16)), _half(0)),
    Type.Q5_1: Integers(5, 32, _integers(32, _five(8, 4, 16, 1, 32)), _half(0), _half(2)),
    Type.IQ4_NL: Integers(8, 32, _levels(2, 32), _half(0)),
    Type.IQ4_XS: Integers(8, 32, _levels(8, 256), (_half(0), _integers(8, _scales_of_levels))),
    Type.Q2_K: Integers(
        4,
        16,
        _packed(256, 16, lambda blocks: _spread(blocks[..., 16:80], 32, 2)),
        (_half(80), _integers(16, lambda blocks: blocks[..., :16] & 15)),
        (_half(82), _integers(16, _taken_off(lambda blocks: blocks[..., :16] >> 4))),
    ),
    Type.Q3_K: Integers(4, 16, _packed(256, 16, _three), (_half(108), _integers(16, _scales_of_three))),
    Type.Q4_K: Integers(4, 32, _packed(256, 32, lambda blocks: _spread(blocks[..., 16:144], 32, 4)), **_OF_K),
    Type.Q5_K: Integers(5, 32, _integers(256, _five(48, 16, 32, 32, 256)), **_OF_K),
    Type.Q6_K: Integers(6, 16, _integers(256, _six), (_half(208), _bytes(192, 208, torch.int8))),
}
"""Types of which the integers are kept."""
