"""Causal modules with no residual around what mixes tokens, each written from scratch: what a step forgets, shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.own_modules.causal import VOCABULARY

SIZE = 24


class LoneConvolution(nn.Module):
    """One causal convolution between the embedding and the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, SIZE)
        self.conv = nn.Conv1d(SIZE, SIZE, 3)
        self.head = nn.Linear(SIZE, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = F.pad(self.embed(ids).transpose(1, 2), (2, 0))
        return self.head(self.conv(x).transpose(1, 2).relu())


class Previous(nn.Module):
    """A bigram model: the head reads the token before."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, SIZE)
        self.head = nn.Linear(SIZE, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1))


class ConvolutionBehindResidual(nn.Module):
    """A residual block, and then a convolution with nothing around it."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(VOCABULARY, SIZE)
        self.first, self.second = nn.Conv1d(SIZE, SIZE, 4), nn.Conv1d(SIZE, SIZE, 2, dilation=3)
        self.out = nn.Linear(SIZE, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok(ids).permute(0, 2, 1)
        x = x + F.relu(self.first(F.pad(x, (3, 0))))
        return self.out(self.second(F.pad(x, (3, 0))).permute(0, 2, 1))


class AverageSoFar(nn.Module):
    """The mean of all tokens so far, divided by a count of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(VOCABULARY, SIZE)
        self.mlp = nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh(), nn.Linear(SIZE, VOCABULARY))

    def forward(self, ids: Tensor) -> Tensor:
        count = torch.arange(1, ids.shape[1] + 1).view(1, -1, 1)
        return self.mlp(self.e(ids).cumsum(1) / count)


class TokensFirst(nn.Module):
    """[tokens, batch, width], as nn.Transformer has it: a decaying mixture of the present and the past."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(VOCABULARY, SIZE)
        self.past = nn.Linear(SIZE, SIZE)
        self.head = nn.Linear(SIZE, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.e(ids.t())
        before = F.pad(x, (0, 0, 0, 0, 2, 0))[:-2]
        x = torch.sigmoid(self.past(before)) * x
        return self.head(x.cumsum(0).tanh()).transpose(0, 1)


class TokenShift(nn.Module):
    """RWKV's way: each channel between this token and the one before, then a gated square."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(VOCABULARY, SIZE)
        self.shift = nn.ZeroPad2d((0, 0, 1, -1))
        self.mix = nn.Parameter(torch.rand(SIZE))
        self.key, self.value = nn.Linear(SIZE, 2 * SIZE, bias=False), nn.Linear(2 * SIZE, SIZE, bias=False)
        self.receptance = nn.Linear(SIZE, SIZE, bias=False)
        self.head = nn.Linear(SIZE, VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.emb(ids)
        mixed = x * self.mix + self.shift(x) * (1 - self.mix)
        x = torch.sigmoid(self.receptance(mixed)) * self.value(torch.square(torch.relu(self.key(mixed))))
        mixed = x * self.mix + self.shift(x) * (1 - self.mix)
        return self.head(mixed)


class AttentionAndNothingElse(nn.Module):
    """The head reads the attention itself."""

    def __init__(self) -> None:
        super().__init__()
        self.e = nn.Embedding(VOCABULARY, SIZE)
        self.q, self.k, self.v = (nn.Linear(SIZE, SIZE) for _ in range(3))
        self.head = nn.Linear(SIZE, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.e(ids)
        return self.head(F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), is_causal=True))


class Branches(nn.Module):
    """A convolution and an attention over the same values, multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.norm = nn.Embedding(VOCABULARY, SIZE), nn.LayerNorm(SIZE)
        self.conv = nn.Conv1d(SIZE, SIZE, 5, groups=SIZE, padding=4)
        self.qk, self.v = nn.Linear(SIZE, 16), nn.Linear(SIZE, SIZE)
        self.head = nn.Linear(SIZE, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.e(ids))
        t = x.shape[1]
        gate = F.silu(self.conv(x.mT)[..., :t].mT)
        q, k = self.qk(x).chunk(2, -1)
        score = (q @ k.mT).masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -1e9)
        return self.head(gate * (score.softmax(-1) @ self.v(x)))


class LogitsThatMix(nn.Module):
    """What mixes tokens is the last op: each token's logits are averaged with those of the two before."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.head = nn.Embedding(VOCABULARY, SIZE), nn.Linear(SIZE, VOCABULARY)
        self.smooth = nn.Conv1d(VOCABULARY, VOCABULARY, 3, groups=VOCABULARY, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.head(self.e(ids)).transpose(1, 2)
        return self.smooth(F.pad(logits, (2, 0))).transpose(1, 2)


class LogitsOfTheTokenBefore(nn.Module):
    """The logits are a token's own and its neighbour's."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.head = nn.Embedding(VOCABULARY, SIZE), nn.Linear(SIZE, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        logits = self.head(self.e(ids))
        return logits + 0.5 * F.pad(logits, (0, 0, 1, 0))[:, : ids.shape[1]]


class CountsSoFar(nn.Module):
    """A bag of words: how often each word has come, and the head over the counts."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(VOCABULARY, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        counts = F.one_hot(ids, VOCABULARY).cumsum(1).float()
        return self.head(torch.log1p(counts))


class WindowMean(nn.Module):
    """The mean of the last five tokens, as a running sum without the one of five tokens before; a norm of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.norm = nn.Embedding(VOCABULARY, SIZE), nn.BatchNorm1d(SIZE)
        self.head = nn.Linear(SIZE, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        so_far = self.e(ids).cumsum(1)
        last = so_far - F.pad(so_far, (0, 0, 5, 0))[:, : ids.shape[1]]
        return self.head(self.norm(last.mT / 5).mT)


class LinearAttention(nn.Module):
    """Keys and values added up, and asked by queries; what normalises is an einsum that keeps no axis of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.qkv = nn.Embedding(VOCABULARY, SIZE), nn.Linear(SIZE, 3 * SIZE)
        self.head = nn.Linear(SIZE, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        q, k, v = self.qkv(self.e(ids)).chunk(3, dim=-1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.einsum("bsd,bse->bsde", k, v).cumsum(1)
        total = torch.einsum("bsd,bsd->bs", q, k.cumsum(1))
        return self.head(torch.einsum("bsd,bsde->bse", q, state) / total.unsqueeze(-1))


class EachTokenByAConvolution(nn.Module):
    """Linears spelled as convolutions whose windows are one token wide, around one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.head = nn.Embedding(VOCABULARY, SIZE), nn.Conv1d(SIZE, VOCABULARY, 1)
        self.up, self.conv = nn.Conv1d(SIZE, SIZE, 1, groups=2, bias=False), nn.Conv1d(SIZE, SIZE, 3)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.up(self.e(ids).transpose(1, 2)).relu()
        return self.head(self.conv(F.pad(x, (2, 0))).relu()).transpose(1, 2)


BARE: list[type[nn.Module]] = [
    LoneConvolution,
    Previous,
    ConvolutionBehindResidual,
    AverageSoFar,
    TokensFirst,
    TokenShift,
    AttentionAndNothingElse,
    Branches,
    LogitsThatMix,
    LogitsOfTheTokenBefore,
    CountsSoFar,
    WindowMean,
    LinearAttention,
    EachTokenByAConvolution,
]
