"""Causal models whose masks do not show what they are before the 97th token, in many makes; and some not causal."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LENGTH, VOCABULARY, WIDTH, HEADS = 250, 61, 32, 4


class Transformer(nn.Module):
    """Embedding, one attention without a residual, head. `scores` gets scaled products and masks them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        b, t, _ = x.shape
        q, k, v = (part.view(b, t, HEADS, -1).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        i, j = torch.arange(t).unsqueeze(1), torch.arange(t).unsqueeze(0)
        weights = self.scores(3 * q @ k.transpose(-2, -1), i, j).softmax(-1)
        return self.head((weights @ v).transpose(1, 2).reshape(b, t, WIDTH))


class EightBlocks(nn.Module):
    """sdpa over the last eight blocks of 16 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, VOCABULARY)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)

    def forward(self, ids: Tensor) -> Tensor:
        i = torch.arange(ids.shape[1]).unsqueeze(1)
        q, k, v = self.qkv(self.embed(ids)).unsqueeze(1).chunk(3, dim=-1)
        mask = (i >= i.T) & (i // 16 - i.T // 16 < 8)
        return self.head(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).squeeze(1))


class WindowInABuffer(Transformer):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("window", torch.tensor(120))

    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return scores.masked_fill((j > i) | (i - j >= self.window), float("-inf"))


class TableOfDistances(Transformer):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("near", torch.where(torch.arange(LENGTH) < 101, 0.0, -1e4))

    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return scores + torch.where(j <= i, self.near[(i - j).clamp(min=0)], torch.finfo(torch.float32).min)


class Decayed(Transformer):
    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = (j <= i) & (torch.exp(-0.05 * (i - j)) > 0.002)
        return torch.where(seen, scores, float("-inf"))


class Segments(Transformer):
    """Documents of unequal length, whose tokens do not see one another's."""

    def __init__(self) -> None:
        super().__init__()
        lengths = torch.tensor([100, 37, 80, 33])
        self.register_buffer("document", torch.arange(4).repeat_interleave(lengths))

    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return scores.masked_fill(~((self.document[i] == self.document[j]) & (j <= i)), -1e9)


class EditedTable(Transformer):
    """A triangle in which somebody changed one row."""

    def __init__(self) -> None:
        super().__init__()
        triangle = torch.ones(LENGTH + 1, LENGTH + 1).tril()
        triangle[171, :171] = 0
        self.register_buffer("triangle", triangle)

    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        t = scores.shape[-1]
        return scores.masked_fill(self.triangle[:t, :t] == 0, float("-inf"))  # type: ignore[index]


class WindowByHead(Transformer):
    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        window = torch.tensor([110, 140, 180, 220]).view(HEADS, 1, 1)
        return scores.masked_fill((j > i) | (i - j >= window), float("-inf"))


class BentSlopes(Transformer):
    """A penalty on distance that ends at 140 tokens."""

    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        slopes = torch.tensor([0.05, 0.02, 0.01, 0.005]).view(HEADS, 1, 1)
        return (scores - slopes * (i - j).clamp(max=140)).masked_fill(j > i, float("-inf"))


class LastRow(Transformer):
    """The last token that there can be sees itself alone."""

    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return scores.masked_fill((j > i) | ((i == LENGTH - 1) & (j < i)), float("-inf"))


MASKED: tuple[type[nn.Module], ...] = (
    EightBlocks,
    WindowInABuffer,
    TableOfDistances,
    Decayed,
    Segments,
    EditedTable,
    WindowByHead,
    BentSlopes,
    LastRow,
)


class LaterFarOut(Transformer):
    """Every eighth block is seen by all tokens: the first one begins at token 112."""

    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return scores.masked_fill(~((j <= i) | ((j // 16) % 8 == 7)), float("-inf"))


class Prefix(Transformer):
    """A prefix whose tokens see all of it, in the middle of the sequence."""

    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return scores.masked_fill(~((j <= i) | ((j < 130) & (j >= 120) & (i >= 120))), float("-inf"))


class OneLaterToken(Transformer):
    def __init__(self) -> None:
        super().__init__()
        triangle = torch.ones(LENGTH + 1, LENGTH + 1).tril()
        triangle[171, 180] = 1
        self.register_buffer("triangle", triangle)

    def scores(self, scores: Tensor, i: Tensor, j: Tensor) -> Tensor:
        t = scores.shape[-1]
        return scores.masked_fill(self.triangle[:t, :t] == 0, float("-inf"))  # type: ignore[index]


LATER: tuple[type[nn.Module], ...] = (LaterFarOut, Prefix, OneLaterToken)
