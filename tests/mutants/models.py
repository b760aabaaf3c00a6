"""Models that mutants need beside those of `tests.own_modules`: few, each for what no other shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.own_modules.causal import HEADS, WIDTH, Base, FusedQKV


class Sinks(Base):
    """Capped scores, and one more a head, which takes probability and gives nothing; chunks of eight; two KV heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.sinks = nn.Parameter(torch.randn(HEADS))

    def mix(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, HEADS, -1).transpose(1, 2)
        k, v = (part.view(b, t, 2, -1).transpose(1, 2).repeat_interleave(2, 1) for part in self.kv(x).chunk(2, -1))
        i = torch.arange(t)
        seen = (i[:, None] >= i) & (i[:, None] // 8 == i // 8)
        scores = 2 * torch.tanh(q @ k.mT * q.shape[-1] ** -0.5 / 2)
        scores = scores.masked_fill(~seen, float("-inf"))
        sinks = self.sinks.view(1, -1, 1, 1).expand(b, -1, t, 1)
        weights = torch.cat([scores, sinks], -1).softmax(-1)[..., :-1]
        return (weights @ v).transpose(1, 2).reshape(b, t, -1)


class Chunks(Base):
    """Each token sees those of its own eight; no sinks."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def mix(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (part.view(b, t, HEADS, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        i = torch.arange(t)
        seen = (i[:, None] >= i) & (i[:, None] // 8 == i // 8)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(b, t, -1)


class FilledPartByPart(FusedQKV):
    """Halves exchanged by writes into an empty tensor, then an attention; a norm and a gate by hand."""

    def mix(self, x: Tensor) -> Tensor:
        half = WIDTH // 2
        y = torch.empty_like(x)
        y[..., :half] = x[..., half:]
        y[..., half:] = -x[..., :half]
        y = super().mix(y)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)
        return y * torch.sigmoid(y) * x


class TwoWindows(Base):
    """Two attentions over the same keys and values: the last three tokens, and the last nine."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.kv = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def mix(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        near, far = (part.view(b, t, HEADS, -1).transpose(1, 2) for part in self.q(x).chunk(2, -1))
        k, v = (part.view(b, t, HEADS, -1).transpose(1, 2) for part in self.kv(x).chunk(2, -1))
        distance = torch.arange(t)[:, None] - torch.arange(t)
        seen = [(distance >= 0) & (distance < extent) for extent in (3, 9)]
        y = F.scaled_dot_product_attention(near, k, v, attn_mask=seen[0])
        y = y * F.scaled_dot_product_attention(far, k, v, attn_mask=seen[1])
        return y.transpose(1, 2).reshape(b, t, -1)


MODELS: tuple[type[nn.Module], ...] = (Sinks, Chunks, TwoWindows, FilledPartByPart)


class SumFromTheLast(Base):
    """A running sum from the last token on."""

    def mix(self, x: Tensor) -> Tensor:
        return x.flip(1).cumsum(1).flip(1)


class LastOfAll(Base):
    """Each token reads the last one."""

    def mix(self, x: Tensor) -> Tensor:
        return x * x[:, -1:]


class LookAhead(Base):
    """A convolution of each token with the two after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 3)

    def mix(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x.transpose(1, 2), (0, 2))).transpose(1, 2)


REFUSED: tuple[type[nn.Module], ...] = (SumFromTheLast, LastOfAll, LookAhead)
