"""What an attention's position-only bias is, found from its values and from nothing else.

A closed form is a claim about every row up to the longest sequence, and is checked on every row: a window of 120 looks
causal for 119 tokens. Rows come in blocks, so that nothing of size tokens x tokens is held.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

# exp(-9000 + anything a model computes) is 0 in every floating dtype; masks use -1e4, finfo.min or -inf.
HIDDEN = -9000.0
_ROUNDING = 2e-6  # what float32 leaves, relative to the largest bias, of a difference of two biases
_BLOCK = 2**18  # entries: a block of them and what is computed from it stays in a cache


class NotANumber(Exception):
    """What is added to some score is NaN or +inf."""


class Bias(Protocol):
    """What is added to the scores, for `length` tokens: a block of rows (queries) or columns (keys) at a time."""

    @property
    def length(self) -> int: ...

    def rows(self, start: int, stop: int) -> Tensor:
        """Queries `start` to `stop`: [H|1, stop - start, length]."""

    def columns(self, start: int, stop: int) -> Tensor:
        """Keys `start` to `stop`: [H|1, length, stop - start]."""


@dataclass(frozen=True)
class Mask:
    """The kind of a mask and what is left over after it.

    `kind` and `extent` are those of `burnish::attention`. `slopes[H]` are ALiBi's. Where there is a `rest`, the bias
    has no closed form, and what is left beside the kind is to be kept as a `table[H|1, L, L]`. `later` is a query and a
    key after it that the query sees: a mask that has one is not causal. `blind` is a query that sees nothing. `edges`
    are the rows at which the mask begins to do something else than in the row before.
    """

    kind: str
    extent: int = 0
    slopes: Tensor | None = None
    rest: bool = False
    table: Tensor | None = None
    later: tuple[int, int] | None = None
    blind: int | None = None
    edges: tuple[int, ...] = ()


def blocks_of(length: int, heads: int) -> list[tuple[int, int]]:
    """All rows of a bias [heads, length, length], in blocks."""
    size = max(1, _BLOCK // (length * heads))
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def classify(bias: Bias, has_sinks: bool, blocks: Sequence[tuple[int, int]] | None = None) -> Mask:
    """The mask that `bias` stands for: the first closed form that all rows keep to, or the kind and a rest.

    `blocks` are the rows to look at, all if None. Softmax does not see what is added to a whole row, so a bias is
    compared after its diagonal is taken away; not so where sinks take part in the softmax without a bias.

    Raises:
        NotANumber: of what is added to some score.
    """
    if blocks is None:
        blocks = blocks_of(bias.length, bias.rows(0, 1).shape[0])
    slopes = _slopes(bias, has_sinks)
    if slopes is not None:
        seen = _look(bias, has_sinks, blocks, slopes)
        if not seen.rest and seen.kind()[0] != "none":
            return Mask(*seen.kind(), slopes=slopes, edges=seen.edges())
    seen = _look(bias, has_sinks, blocks, None)
    kind, extent = seen.kind()
    rest = seen.rest or (kind == "none" and not seen.everything)
    return Mask(kind, extent, rest=rest, later=seen.later, blind=seen.blind, edges=seen.edges())


def settled(values: Tensor, start: int, has_sinks: bool, slopes: Tensor | None = None) -> Tensor:
    """Rows of a bias [H|1, R, L] from `start` on as softmax sees them: less their diagonal, and less ALiBi's part.

    A row whose own token is hidden stays as it is.
    """
    rows, length = values.shape[-2:]
    if not has_sinks:
        own = torch.arange(start, start + rows).view(1, -1, 1).expand(values.shape[0], -1, -1)
        diagonal = values.gather(-1, own)
        diagonal = torch.where(diagonal > HIDDEN, diagonal, 0.0)
        if bool(diagonal.any()):
            values = values - diagonal
    if slopes is not None:
        distance = torch.arange(length) - torch.arange(start, start + rows).unsqueeze(-1)
        values = values - slopes.view(-1, 1, 1) * distance
    return values


def table_of(bias: Bias, kind: str, has_sinks: bool) -> Tensor:
    """The table [H|1, L, L] to keep beside a kind; what is hidden is -inf in it where the kind is "none", else 0."""
    hidden = float("-inf") if kind == "none" else 0.0
    table: Tensor | None = None
    for start, stop in blocks_of(bias.length, bias.rows(0, 1).shape[0]):
        values = settled(bias.rows(start, stop), start, has_sinks)
        if table is None:
            table = torch.empty(values.shape[0], bias.length, bias.length)
        table[:, start:stop] = torch.where(values > HIDDEN, values, hidden)
    assert table is not None
    return table


def differs(bias: Bias, shorter: Bias, has_sinks: bool, blocks: Iterable[tuple[int, int]]) -> int | None:
    """A row of `shorter` that is not the beginning of `bias`' row, of those in `blocks`; None if there is none."""
    length = shorter.length
    for start, stop in blocks:
        long, short = (settled(each.rows(start, stop), start, has_sinks) for each in (bias, shorter))
        long = long[..., :length]
        visible = long > HIDDEN
        if torch.equal(long, short):
            continue
        scale = torch.where(visible, long, 0.0).abs().amax().clamp(min=1.0)
        same = torch.where(visible, (long - short).abs() <= _ROUNDING * scale, short <= HIDDEN)
        if not bool(same.all()):
            return start + int((~same).any(-1).any(0).nonzero()[0])
    return None


def shows(kind: str, extent: int, query: Tensor, key: Tensor) -> Tensor:
    """Whether a query sees a key by a closed form; positions broadcast."""
    visible = key <= query
    if kind == "window":
        visible = visible & (query - key < extent)
    elif kind == "chunk":
        visible = visible & (query // extent == key // extent)
    return visible


def departs(bias: Bias, mask: Mask, columns: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """A query and a key of `columns` for which a mask without slopes or rest does not hold; None if there is none."""
    query = torch.arange(bias.length).unsqueeze(-1)
    for start, stop in columns:
        visible = bias.columns(start, stop) > HIDDEN
        wrong = visible != shows(mask.kind, mask.extent, query, torch.arange(start, stop))
        if bool(wrong.any()):
            place = wrong.any(0).nonzero()[0]
            return int(place[0]), start + int(place[1])
    return None


# ---------------------------------------------------------------- one look at the rows


@dataclass
class _Look:
    """What a walk over rows showed."""

    positions: Tensor  # of the rows, int64
    # How many keys each row sees, int64. One tensor for all: small ones kept between large blocks break memory up.
    counts: Tensor
    runs: bool = True  # each row sees its own token and those right before it, the same for all heads
    everything: bool = True
    largest: Tensor | None = None  # of the rest, by head
    rounding: Tensor | None = None  # how large it may be by rounding alone, by head
    later: tuple[int, int] | None = None
    blind: int | None = None

    @property
    def rest(self) -> bool:
        """Whether something is left beside what is seen and ALiBi's part, but for rounding."""
        if self.largest is None:
            return False
        return bool((self.largest > (0.0 if self.rounding is None else self.rounding)).any())

    def kind(self) -> tuple[str, int]:
        """The kind and extent that all rows keep to; "none" where no kind fits."""
        if not self.runs:
            return "none", 0
        position, count = self.positions, self.counts
        if torch.equal(count, position + 1):
            return "causal", 0
        extent = int(count.max())
        if torch.equal(count, (position + 1).clamp(max=extent)):
            return "window", extent
        if torch.equal(count, position % extent + 1):
            return "chunk", extent
        return "none", 0

    def edges(self) -> tuple[int, ...]:
        """The rows where the number of keys seen changes otherwise than it did before."""
        position, count = self.positions, self.counts
        change = count.diff(prepend=count[:1] - 1)
        turned = change != change.roll(1)
        turned[0] = False
        return tuple(position[turned].tolist())


def _slopes(bias: Bias, has_sinks: bool) -> Tensor | None:
    """What the bias falls by from a token to the one before it, [H]; None if it does not, or where it is hidden."""
    if bias.length < 2:
        return None
    row = settled(bias.rows(1, 2), 1, has_sinks)[:, 0, :2]
    slopes = row[:, 1] - row[:, 0]
    visible = bool((row > HIDDEN).all())
    return slopes if visible and bool(slopes.any()) else None


def _look(bias: Bias, has_sinks: bool, blocks: Sequence[tuple[int, int]], slopes: Tensor | None) -> _Look:
    """Walk over rows; with slopes, only as long as nothing but rounding is left beside them."""
    positions = torch.cat([torch.arange(start, stop) for start, stop in blocks])
    look, walked = _Look(positions, torch.zeros_like(positions)), 0
    if slopes is not None:
        look.rounding = _ROUNDING * (slopes.abs() * bias.length).clamp(min=1.0)
    key = torch.arange(bias.length)
    for start, stop in blocks:
        values = settled(bias.rows(start, stop), start, has_sinks, slopes)
        hidden = values <= HIDDEN
        rest = torch.where(hidden, 0.0, values)
        largest = torch.maximum(rest.amax((-1, -2)), -rest.amin((-1, -2)))
        if not bool(largest.isfinite().all()):
            raise NotANumber
        look.largest = largest if look.largest is None else torch.maximum(look.largest, largest)
        if slopes is not None and look.rest:
            return look
        position = torch.arange(start, stop).unsqueeze(-1)
        visible = ~hidden
        seen = visible[0]
        count = seen.sum(-1, dtype=torch.int32).long()
        look.counts[walked : walked + len(count)] = count
        walked += len(count)
        run = key <= position
        if not torch.equal(count, position.squeeze(-1) + 1):
            run = run & (key > position - count.unsqueeze(-1))
        same_heads = visible.shape[0] == 1 or torch.equal(visible, seen.expand_as(visible))
        if not (same_heads and torch.equal(seen, run)) or not bool(count.all()):
            _look_closer(look, visible, position, key)
        look.everything = look.everything and same_heads and bool((count == bias.length).all())
    return look


def _look_closer(look: _Look, visible: Tensor, position: Tensor, key: Tensor) -> None:
    """Note what a block of rows shows that is not a run of keys that ends at the query."""
    look.runs = False
    if look.later is None:
        later = (visible & (key > position)).any(0).nonzero()
        if len(later):
            look.later = (int(position[0]) + int(later[0, 0]), int(later[0, 1]))
    if look.blind is None:
        blind = (~visible.any(-1)).any(0).nonzero()
        if len(blind):
            look.blind = int(position[0]) + int(blind[0, 0])
