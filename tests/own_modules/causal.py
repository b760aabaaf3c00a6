"""Ten small causal models in ten styles, none with a cache: what somebody wrote this morning."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

VOCABULARY, WIDTH, HEADS, LENGTH = 61, 32, 4, 64


class NanoGPT(nn.Module):
    """Learned positions, packed qkv, scaled_dot_product_attention(is_causal=True), tied head: nanoGPT's style."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(VOCABULARY, WIDTH)
        self.wpe = nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.ModuleList(NanoBlock() for _ in range(2))
        self.ln_f = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.head.weight = self.wte.weight

    def forward(self, idx: Tensor) -> Tensor:
        _, t = idx.size()
        assert t <= LENGTH, f"cannot forward a sequence of {t} tokens"
        x = self.wte(idx) + self.wpe(torch.arange(0, t, dtype=torch.long, device=idx.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.ln_f(x))


class NanoBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.c_attn, self.c_proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.size()
        q, k, v = self.c_attn(self.ln_1(x)).split(WIDTH, dim=2)
        q, k, v = (each.view(b, t, HEADS, c // HEADS).transpose(1, 2) for each in (q, k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))
        return x + self.mlp(self.ln_2(x))


class Base(nn.Module):
    """Embedding, one mixing module, head; the mixing module is what differs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def mix(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        x = x + self.mix(self.norm(x))
        return self.head(x)


class FusedQKV(Base):
    """One projection seen as [batch, tokens, 3, heads, size] and unbound; a mask of -inf made with full and triu."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def mix(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mask = torch.full((t, t), float("-inf")).triu(1)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]) + mask).softmax(dim=-1)
        return self.out((weights @ v).transpose(1, 2).reshape(b, t, -1))


class Einsum(Base):
    """Attention in einsum over [batch, tokens, heads, size], masked with where."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))

    def mix(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (project(x).view(b, t, HEADS, -1) for project in (self.q, self.k, self.v))
        scores = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[-1] ** -0.5
        allowed = torch.arange(t)[:, None] >= torch.arange(t)[None, :]
        weights = torch.where(allowed, scores, -1e30).softmax(-1)
        return torch.einsum("bhij,bjhd->bihd", weights, v).reshape(b, t, -1)


class TrilBuffer(Base):
    """Single-head attention with a hand-written softmax over a tril buffer: the lecture's style."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.query, self.value = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.register_buffer("tril", torch.tril(torch.ones(LENGTH, LENGTH)))

    def mix(self, x: Tensor) -> Tensor:
        _, t, c = x.shape
        k, q = self.key(x), self.query(x)
        wei = q @ k.transpose(-2, -1) * c**-0.5
        wei = wei.masked_fill(self.tril[:t, :t] == 0, float("-inf"))
        wei = torch.exp(wei - wei.max(dim=-1, keepdim=True).values)
        wei = wei / wei.sum(dim=-1, keepdim=True)
        return wei @ self.value(x)


class AlibiByHand(Base):
    """No positions but a penalty on distance, one slope a head, added to the causal mask."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.slopes = [2.0 ** -(1 + head) for head in range(HEADS)]

    def mix(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (each.view(b, t, HEADS, -1).transpose(1, 2) for each in self.qkv(x).chunk(3, dim=-1))
        position = torch.arange(t)
        distance = position[None, :] - position[:, None]
        bias = torch.tensor(self.slopes)[:, None, None] * distance
        bias = bias.masked_fill(distance > 0, float("-inf"))
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.unsqueeze(0))
        return self.out(y.transpose(1, 2).flatten(2))


class SlidingWindow(Base):
    """Each token sees itself and the six before it; rotary embedding by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def rotate(self, x: Tensor) -> Tensor:
        t, d = x.shape[-2:]
        angle = torch.arange(t)[:, None] * 100.0 ** (-torch.arange(0, d, 2) / d)
        cos, sin = angle.cos(), angle.sin()
        even, odd = x[..., ::2], x[..., 1::2]
        return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)

    def mix(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q, k, v = (each.view(b, t, HEADS, -1).transpose(1, 2) for each in self.qkv(x).chunk(3, dim=-1))
        i = torch.arange(t)
        seen = (i[:, None] >= i[None, :]) & (i[:, None] - i[None, :] < 7)
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, attn_mask=seen)
        return self.out(y.transpose(1, 2).reshape(b, t, -1))


class SharedKey(Base):
    """Two attentions over one K (and one KV head for all queries), the second with its own values."""

    def __init__(self) -> None:
        super().__init__()
        self.q1, self.q2 = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.k = nn.Linear(WIDTH, WIDTH // HEADS)
        self.v1, self.v2 = nn.Linear(WIDTH, WIDTH // HEADS), nn.Linear(WIDTH, WIDTH // HEADS)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        b, t, _ = q.shape
        q = q.view(b, t, HEADS, -1).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v.unsqueeze(1), is_causal=True, enable_gqa=True)
        return y.transpose(1, 2).reshape(b, t, -1)

    def mix(self, x: Tensor) -> Tensor:
        k = self.k(x).unsqueeze(1)
        return self.attend(self.q1(x), k, self.v1(x)) - 0.5 * self.attend(self.q2(x), k, self.v2(x))


class ConvolutionFirst(Base):
    """A causal depthwise convolution in front of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(WIDTH, WIDTH, 4, groups=WIDTH, padding=3)
        self.attention = FusedQKV()

    def mix(self, x: Tensor) -> Tensor:
        t = x.shape[1]
        x = F.silu(self.conv(x.transpose(1, 2))[..., :t].transpose(1, 2))
        return self.attention.mix(x)


class RunningSum(Base):
    """No attention: the mean of all tokens so far, by a running sum."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def mix(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.shape[1] + 1).unsqueeze(-1)
        return self.out(torch.sigmoid(self.gate(x)) * (x.cumsum(dim=1) / count))


class MultiHeadLatent(Base):
    """Keys and values from a narrow latent; one rotary key shared by all heads (DeepSeek's attention, by hand)."""

    def __init__(self) -> None:
        super().__init__()
        self.latent, self.rope = 12, 4
        self.q = nn.Linear(WIDTH, HEADS * (8 + self.rope))
        self.down, self.up = nn.Linear(WIDTH, self.latent + self.rope), nn.Linear(self.latent, HEADS * (8 + 6))
        self.out = nn.Linear(HEADS * 6, WIDTH)

    def rotate(self, x: Tensor) -> Tensor:
        t, d = x.shape[-2:]
        angle = torch.outer(torch.arange(t).float(), 50.0 ** (-torch.arange(0, d, 2) / d))
        angle = torch.cat((angle, angle), dim=-1)
        half = torch.cat((-x[..., d // 2 :], x[..., : d // 2]), dim=-1)
        return x * angle.cos() + half * angle.sin()

    def mix(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        q = self.q(x).view(b, t, HEADS, -1).transpose(1, 2)
        q = torch.cat((q[..., :8], self.rotate(q[..., 8:])), dim=-1)
        latent, shared = self.down(x).split((self.latent, self.rope), dim=-1)
        k, v = self.up(latent).view(b, t, HEADS, -1).transpose(1, 2).split((8, 6), dim=-1)
        shared = self.rotate(shared.unsqueeze(1)).expand(b, HEADS, t, self.rope)
        k = torch.cat((k, shared), dim=-1)
        scores = q @ k.mT / math.sqrt(12)
        scores = scores + torch.ones(t, t).tril().log()
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, -1))


STYLES: tuple[type[nn.Module], ...] = (
    NanoGPT,
    FusedQKV,
    Einsum,
    TrilBuffer,
    AlibiByHand,
    SlidingWindow,
    SharedKey,
    ConvolutionFirst,
    RunningSum,
    MultiHeadLatent,
)
