"""Causal modules in which a row of the batch sees others: each must be refused, at the line marked `# mixes`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.own_modules.causal import VOCABULARY

SIZE, EXPERTS = 16, 4


class RowsBetween(nn.Module):
    """Embedding and head; what stands between is what differs."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(VOCABULARY, SIZE), nn.Linear(SIZE, VOCABULARY)

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.between(self.embed(ids)))


class Centred(RowsBetween):
    def between(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)  # mixes


class Flipped(RowsBetween):
    def between(self, x: Tensor) -> Tensor:
        return x + x.flip(0)  # mixes


class AddedUp(RowsBetween):
    def between(self, x: Tensor) -> Tensor:
        return x.cumsum(0)  # mixes


class Shared(RowsBetween):
    def between(self, x: Tensor) -> Tensor:
        return x.softmax(0)  # mixes


class Sorted(RowsBetween):
    def between(self, x: Tensor) -> Tensor:
        return x.sort(dim=0).values  # mixes


class Crossed(RowsBetween):
    def between(self, x: Tensor) -> Tensor:
        return torch.einsum("bsd,csd->bsd", x, x)  # mixes


class Alike(RowsBetween):
    def between(self, x: Tensor) -> Tensor:
        rows = x.permute(1, 0, 2)
        return ((rows @ rows.mT).softmax(-1) @ rows).permute(1, 0, 2)  # mixes


class ByTheFirst(RowsBetween):
    def between(self, x: Tensor) -> Tensor:
        return x + x[:1]  # mixes


class Turned(RowsBetween):
    def between(self, x: Tensor) -> Tensor:
        return x + x.roll(1, 0)  # mixes


class Divided(RowsBetween):
    def between(self, x: Tensor) -> Tensor:
        return x / x.shape[0]  # mixes


class Statistics(RowsBetween):
    """A batch norm in training mode, by hand."""

    def between(self, x: Tensor) -> Tensor:
        return (x - x.mean(0)) / x.var(0, keepdim=True, correction=0).add(1e-5).sqrt()  # mixes


class Capacity(RowsBetween):
    """Switch routing: an expert's capacity is counted over all tokens of all rows, row by row behind each token."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(SIZE, EXPERTS)

    def between(self, x: Tensor) -> Tensor:
        chosen = torch.nn.functional.one_hot(self.router(x).argmax(-1), EXPERTS).transpose(0, 1)  # [S, B, E]
        place = chosen.cumsum(1).transpose(0, 1)  # mixes
        return x * (place.amax(-1, keepdim=True) < 3)


MIXED: tuple[type[nn.Module], ...] = (
    Centred,
    Flipped,
    AddedUp,
    Shared,
    Sorted,
    Crossed,
    Alike,
    ByTheFirst,
    Turned,
    Divided,
    Statistics,
    Capacity,
)
