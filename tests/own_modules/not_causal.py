"""Six models whose tokens see later ones: each must be refused, with the line that does it."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tests.own_modules.causal import HEADS, WIDTH, Base


class Bidirectional(Base):
    """BERT-like: attention without a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def mix(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (each.view(b, t, HEADS, -1).transpose(1, 2) for each in self.qkv(x).chunk(3, dim=-1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, -1)


class MeanOverSequence(Base):
    """Takes the mean of all tokens away from each."""

    def mix(self, x: Tensor) -> Tensor:
        return x - x.mean(dim=1, keepdim=True)


class Flip(Base):
    """Reads the sequence from its end."""

    def mix(self, x: Tensor) -> Tensor:
        return x + x.flip(1)


class PeekingShift(Base):
    """Each token sees the one after it."""

    def mix(self, x: Tensor) -> Tensor:
        return x + F.pad(x[:, 1:], (0, 0, 0, 1))


class BidirectionalConvolution(Base):
    """A convolution centred on each token."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def mix(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2)).transpose(1, 2)


class PointwiseConvolutionPadded(Base):
    """A window of one token, and zeros around that move tokens towards the first."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 1, padding=1)

    def mix(self, x: Tensor) -> Tensor:
        return self.conv(x.transpose(1, 2))[..., 2:].transpose(1, 2)


# Each with the piece of source that the refusal must name.
REFUSED: tuple[tuple[type[nn.Module], str], ...] = (
    (Bidirectional, "scaled_dot_product_attention"),
    (MeanOverSequence, "x.mean(dim=1"),
    (Flip, "x.flip(1)"),
    (PeekingShift, "x[:, 1:]"),
    (BidirectionalConvolution, "self.conv("),
    (PointwiseConvolutionPadded, "self.conv("),
)
