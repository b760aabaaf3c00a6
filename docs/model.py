"""The models that the pages on passes show: a small decoder as somebody would write it for training, and images."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """x over its root mean square, times a learned weight."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def rotate(x: Tensor, base: float = 10000.0) -> Tensor:
    """Rotary embedding of x[B, H, S, D], by the positions 0 to S - 1."""
    size = x.shape[-1]
    frequencies = base ** (-torch.arange(0, size, 2) / size)
    angles = torch.outer(torch.arange(x.shape[2]), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    first, second = x.chunk(2, dim=-1)
    return x * angles.cos() + torch.cat((-second, first), dim=-1) * angles.sin()


class Attention(nn.Module):
    """Causal attention of four query heads over two KV heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.size = width // 4
        self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, width // 2), nn.Linear(width, width // 2)
        self.o = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for f in (self.q, self.k, self.v))
        q, k = rotate(q), rotate(k).repeat_interleave(2, dim=1)
        scores = torch.einsum("bhsd,bhtd->bhst", q, k) / self.size**0.5
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        return self.o((weights @ v.repeat_interleave(2, dim=1)).transpose(1, 2).flatten(-2))


class Block(nn.Module):
    """A short causal convolution, attention, a gated feed-forward layer; each with a norm and a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, kernel_size=3, padding=2, groups=width)
        self.attention = Attention(width)
        self.gate, self.up, self.down = nn.Linear(width, 96), nn.Linear(width, 96), nn.Linear(96, width)
        self.norm1, self.norm2, self.norm3 = (RMSNorm(width) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.convolution(self.norm1(x).transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
        x = x + self.attention(self.norm2(x))
        normed = self.norm3(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))


class Decoder(nn.Module):
    """Token ids to logits."""

    def __init__(self, layers: int = 2, width: int = 64, vocabulary: int = 256) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm, self.head = RMSNorm(width), nn.Linear(width, vocabulary, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Mixer(nn.Module):
    """A depthwise convolution on images [B, C, H, W], then a norm and a scaled linear on their channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm, self.linear = nn.LayerNorm(channels), nn.Linear(channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.scale * self.linear(self.norm(self.convolution(x).permute(0, 2, 3, 1)))
        return x + y.permute(0, 3, 1, 2)


class Images(nn.Module):
    """Images to the mean of what two mixers make of them, beside what they made it of."""

    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 4, 4)
        self.mixers = nn.ModuleList(Mixer(channels) for _ in range(2))
        self.join, self.norm = nn.Conv2d(2 * channels, channels, 1), nn.LayerNorm(channels)

    def forward(self, pixels: Tensor) -> Tensor:
        x = first = self.stem(pixels)
        for mixer in self.mixers:
            x = mixer(x)
        x = self.join(torch.cat((first, x), 1))
        return self.norm(x.permute(0, 2, 3, 1)).mean((1, 2))
