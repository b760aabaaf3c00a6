"""`burnish::` ops on weights of integers, for targets whose products read them in blocks, and the weights so laid out.

A weight[N, K] is uint8[N, blocks, block * bits / 8], blocks along K; the last is filled up if need be. 4 bits: byte i
of a block has element 2i in its low half and element 2i + 1 in its high half. With u from 0 to 2^bits - 1 stored,

    weight = scale * (u - zero) + offset

where scales[N, blocks] are float32; zeros are whole, and packed as the values are, uint8[N, ceil(blocks * bits / 8)],
or None for 2^(bits - 1); offsets[N, blocks], float32 or None, are there for weights with minima. (ONNX
Runtime's MatMulNBits and GatherBlockQuantized read this, all but the offsets.)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ir.ops import define
from burnish.ir.quantization import Quantized, unpacked
from burnish.ir.traits import Traits
from burnish.ir.weights import Weight, nbytes

_LARGEST_BLOCK, _SMALLEST_BLOCK = 256, 16


def dequantized_blocks(
    values: Tensor, scales: Tensor, zeros: Tensor | None, offsets: Tensor | None, bits: int, size: int
) -> Tensor:
    """The rows[..., K = size] that values[..., blocks, bytes] and what belongs to them stand for, float32."""
    blocks = scales.shape[-1]
    u = values if bits == 8 else _apart(values)
    zero: Tensor | float = 2.0 ** (bits - 1)
    if zeros is not None:
        zero = (zeros if bits == 8 else _apart(zeros))[..., :blocks].float().unsqueeze(-1)
    floats = (u.float() - zero) * scales.unsqueeze(-1)
    if offsets is not None:
        floats = floats + offsets.unsqueeze(-1)
    return floats.flatten(-2)[..., :size]


def _apart(packed: Tensor) -> Tensor:
    """4 bits each from uint8[..., n]: [..., 2n]."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(-2)


def _together(u: Tensor) -> Tensor:
    """uint8[..., 2n] below 16 as uint8[..., n]."""
    return u[..., 0::2] | (u[..., 1::2] << 4)


def _linear_shape(x: Tensor, values: Tensor, *rest: object, **options: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], values.shape[0]))


@define(
    "quantized_linear(Tensor x, Tensor values, Tensor scales, Tensor? zeros=None, Tensor? offsets=None, "
    "Tensor? bias=None, *, int bits) -> Tensor",
    Traits(),
    _linear_shape,
)
def quantized_linear(
    x: Tensor,
    values: Tensor,
    scales: Tensor,
    zeros: Tensor | None = None,
    offsets: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    bits: int,
) -> Tensor:
    """linear(x, weight, bias) with a weight[N, K] of 8 or 4 bits in blocks: x[..., K], bias[N] -> [..., N]."""
    return F.linear(x, dequantized_blocks(values, scales, zeros, offsets, bits, x.shape[-1]).to(x.dtype), bias)


def _embedding_shape(
    values: Tensor, scales: Tensor, zeros: Tensor | None, offsets: Tensor | None, ids: Tensor, *, bits: int, size: int
) -> Tensor:
    return scales.new_empty((*ids.shape, size))


@define(
    "quantized_embedding(Tensor values, Tensor scales, Tensor? zeros, Tensor? offsets, Tensor ids, *, int bits, "
    "int size) -> Tensor",
    Traits(),
    _embedding_shape,
)
def quantized_embedding(
    values: Tensor, scales: Tensor, zeros: Tensor | None, offsets: Tensor | None, ids: Tensor, *, bits: int, size: int
) -> Tensor:
    """Rows of a table[N, K = size] of 8 or 4 bits in blocks, by ids[...]: [..., K], float32."""
    zeros, offsets = (None if part is None else part[ids] for part in (zeros, offsets))
    return dequantized_blocks(values[ids], scales[ids], zeros, offsets, bits, size)


quantized_ops = torch.ops.burnish


# ---------------------------------------------------------------- the weights


def block_of(bits: int, group: int, size: int) -> int | None:
    """How many of a row of `size` integers make a block, where `group` share a scale; None where blocks do not fit.

    A block has 16, 32, 64, 128 or 256 integers of one group. A row with one scale may end within its last block.
    """
    block = _LARGEST_BLOCK
    while block >= _SMALLEST_BLOCK:
        if group % block == 0:
            return block
        block //= 2
    return _SMALLEST_BLOCK if group == size else None


def stored_bits(weight: Quantized) -> int:
    """Bits that a number takes in blocks: there are none of 5 and 6."""
    return 4 if weight.bits == 4 else 8


@dataclass(frozen=True, eq=False)
class Blocks:
    """A quantized weight[N, K] in blocks of `block`: its values, the weight itself; the rest, in its `parts`."""

    source: Quantized
    block: int

    @property
    def shape(self) -> tuple[int, ...]:
        rows, size = self.source.shape
        return (rows, -(-size // self.block), self.block * stored_bits(self.source) // 8)

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    @cached_property
    def parts(self) -> dict[str, Weight]:
        """All that is stored: values, scales, and where the weight has them, zeros, or for its minima offsets."""
        found: dict[str, Weight] = {"values": self, "scales": BlockScales(self)}
        if self.source.zeros is not None:
            found["zeros"] = BlockZeros(self)
        if self.source.minima is not None:
            found["offsets"] = BlockOffsets(self)
        return found

    def materialize(self) -> Tensor:
        """The integers, as they are stored."""
        source = self.source
        rows, size = source.shape
        bits = stored_bits(source)
        u = unpacked(source.values.materialize(), size // source.group)
        if bits == 8:
            u = u.view(torch.uint8) ^ 128
        missing = -size % self.block
        if missing:
            u = F.pad(u, (0, missing), value=2 ** (bits - 1))
        u = u.reshape(rows, -1, self.block)
        return u.contiguous() if bits == 8 else _together(u)

    def by_block(self, of_groups: Tensor) -> Tensor:
        """What each group has, [N, groups], for each block, [N, blocks]."""
        first = torch.arange(self.shape[1]) * self.block
        return of_groups[:, first // self.source.group]


def in_blocks(weight: Quantized) -> Blocks | None:
    """A weight in the longest blocks that fit its groups; None where none do."""
    block = block_of(weight.bits, weight.group, weight.shape[1])
    return None if block is None else Blocks(weight, block)


@dataclass(frozen=True, eq=False)
class BlockScales:
    """The scales[N, blocks] of a weight in blocks."""

    of: Blocks

    @property
    def shape(self) -> tuple[int, ...]:
        return self.of.shape[:2]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def materialize(self) -> Tensor:
        """The scales, float32."""
        return self.of.by_block(self.of.source.scales.materialize().float())


@dataclass(frozen=True, eq=False)
class BlockZeros:
    """The whole zero points of a weight of 4 bits in blocks, two in a byte."""

    of: Blocks

    @property
    def shape(self) -> tuple[int, ...]:
        rows, blocks, _ = self.of.shape
        return (rows, (blocks + 1) // 2)

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8

    def materialize(self) -> Tensor:
        """The zero points, packed."""
        assert self.of.source.zeros is not None
        zeros = self.of.by_block(self.of.source.zeros.materialize()).to(torch.uint8)
        return _together(F.pad(zeros, (0, zeros.shape[1] % 2)))


@dataclass(frozen=True, eq=False)
class BlockOffsets:
    """The minimum of each block, or of 4 bits, of which 8 is taken off, the minimum + 8 * scale."""

    of: Blocks

    @property
    def shape(self) -> tuple[int, ...]:
        return self.of.shape[:2]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def materialize(self) -> Tensor:
        """The offsets, float32."""
        source = self.of.source
        assert source.minima is not None
        minima = source.minima.materialize().float()
        return self.of.by_block(minima + 8 * source.scales.materialize().float() if source.bits == 4 else minima)


def stored_bytes(weight: Quantized) -> int:
    """Bytes of a weight as an artifact for CPUs has it: in blocks, or in floats where no blocks fit; fp8 as it is."""
    if weight.numbers == "fp8":
        return nbytes(weight.values) + nbytes(weight.scales)
    blocks = in_blocks(weight)
    return nbytes(weight) if blocks is None else sum(map(nbytes, blocks.parts.values()))
