"""The masks of a program's attentions, read from their values as far as the longest sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.errors import NotCausalError, UnsupportedError
from burnish.ir.program import describe
from burnish.passes.analyses.attention_match import Match, NoMatch
from burnish.passes.analyses.masks import HIDDEN, Mask, NotANumber, blocks_of, classify, departs, differs, table_of
from burnish.passes.analyses.position_blocks import PositionBlocks
from burnish.passes.analyses.position_only import PositionOnly
from burnish.passes.base import Log

# A mask that has no closed form is kept as a table of max_length x max_length; beyond this it is refused.
_TABLE_BYTES = 256 * 2**20
_LOOK_COST = 10  # what telling an entry's kind takes, in ops like those that compute it
_ALL_ROWS = 2**32  # ops: 2 to 3 seconds on one core; a mask that takes more is looked at in telling rows
_TELLING_ROWS = 2**30  # ops spent on these
_SHORT = (*range(1, 18), 31, 32, 33)  # lengths that are always compared with the longest


@dataclass(frozen=True)
class TermsBias:
    """What a match's terms add up to for `length` tokens: a `masks.Bias`, checked to be equal for all sequences."""

    match: Match
    blocks: PositionBlocks
    heads: int

    @property
    def length(self) -> int:
        return self.blocks.length

    def rows(self, start: int, stop: int) -> Tensor:
        """Queries `start` to `stop`: [H|1, stop - start, length]."""
        return self._block(-2, start, stop).expand(-1, stop - start, self.length)

    def columns(self, start: int, stop: int) -> Tensor:
        """Keys `start` to `stop`: [H|1, length, stop - start]."""
        return self._block(-1, start, stop).expand(-1, self.length, stop - start)

    def cost(self) -> int:
        """How many ops an entry takes, to compute and to look at, over all heads."""
        heads = self.rows(0, 1).shape[0]
        return (self.blocks.cost(self.match.term_nodes) + _LOOK_COST) * heads

    def _block(self, axis: int, start: int, stop: int) -> Tensor:
        bias = torch.zeros(1, 1, 1, 1)
        passed: Tensor | None = None  # where a mask of zeros and ones lets the scores through
        for place, (kind, node, number) in enumerate(self.match.terms):
            if kind == "scale":
                bias = bias * number
                continue
            assert isinstance(node, fx.Node)
            value = self._term(node, axis, start, stop)
            if kind == "add":
                term = value.float() if number == 1.0 else value.float() * number
                bias = bias + term if place else term
            elif kind == "gate":
                if not bool(((value == 0) | (value == 1)).all()):
                    raise NoMatch(self.match.softmax, "the scores are multiplied by numbers other than 0 and 1")
                bias = bias * value
                passed = value != 0 if passed is None else passed & (value != 0)
            elif kind == "keep":
                bias = torch.where(value, bias, number)
            else:
                bias = torch.where(value, number, bias)
        if passed is not None and not bool((passed | (bias <= HIDDEN)).all()):
            raise NoMatch(self.match.softmax, "scores multiplied by 0 are seen as 0, not hidden")
        if bias.shape[0] > 1 and not torch.equal(bias, bias[:1].expand_as(bias)):
            raise NoMatch(self.match.softmax, "the mask differs between the rows of a batch")
        return bias[0]

    def _term(self, node: fx.Node, axis: int, start: int, stop: int) -> Tensor:
        """A block of a term as [B|1, H|1, L|1, L|1]; what repeats itself stands once."""
        rank = len(self.blocks.shape(node))
        value = self.blocks.whole(node) if rank + axis < 0 else self.blocks.block(node, rank + axis, start, stop)
        value = _by_row_and_head(value, node, self.blocks.batch, self.heads)
        sizes = (stop - start, self.length) if axis == -2 else (self.length, stop - start)
        if any(size not in (1, wanted) for size, wanted in zip(value.shape[-2:], sizes, strict=True)):
            raise UnsupportedError(
                f"{describe(node)} is part of an attention's mask, but has a shape of {list(self.blocks.shape(node))} "
                f"for {self.length} tokens. If a table of positions ends there, compile with a smaller max_length"
            )
        if value.shape[0] > 1 and (value.stride(0) == 0 or torch.equal(value, value[:1].expand_as(value))):
            value = value.narrow(0, 0, 1)
        return value.narrow(1, 0, 1) if value.stride(1) == 0 else value


def _by_row_and_head(value: Tensor, node: fx.Node, batch: int, heads: int) -> Tensor:
    """A term of the bias, evaluated for `batch` rows, as [batch|1, H|1, L|1, L|1]."""
    rank = value.dim()
    if rank < 3:
        return value.reshape([1] * (4 - rank) + list(value.shape))
    if rank == 3:
        first = node.meta["val"].shape[0]
        if not isinstance(first, torch.SymInt):
            return value.unsqueeze(0)
        return value.reshape(batch, value.shape[0] // batch, *value.shape[1:])
    if rank == 5:  # [B, Hkv, queries a KV head, L, L]
        wide = value.expand(-1, heads // value.shape[2] if value.shape[1] == 1 else -1, -1, -1, -1)
        return wide.flatten(1, 2) if value.shape[1] * value.shape[2] > 1 else value.squeeze(2)
    return value


class MaskReader:
    """Reads the mask of each match; the masks of layers that compute theirs alike are read once."""

    def __init__(self, positions: PositionOnly, log: Log) -> None:
        self.positions = positions
        self.log = log
        self.max_length = positions.program.signature.max_length
        self._read: dict[Any, Mask] = {}

    def read(self, match: Match, heads: int) -> Mask:
        """The mask of a match.

        Raises:
            NoMatch: these terms are no mask; the message says why.
            UnsupportedError: the mask cannot be kept for a step.
            NotCausalError: a token sees later ones, and the mask is too large for a table in which to show them.
        """
        if not match.terms:
            return Mask("none")
        terms = tuple((kind, number) for kind, _, number in match.terms)
        key = (terms, self.positions.spelling(match.term_nodes), heads, match.sinks is None)
        if key not in self._read:
            with _one_thread():
                self._read[key] = self._classify(match, heads)
        return self._read[key]

    def _bias(self, match: Match, heads: int, length: int, batch: int = 2) -> TermsBias:
        return TermsBias(match, PositionBlocks(self.positions, batch, length), heads)

    def _classify(self, match: Match, heads: int) -> Mask:
        bias = self._bias(match, heads, self.max_length)
        has_sinks = match.sinks is not None
        try:
            if bias.cost() * self.max_length**2 <= _ALL_ROWS:
                mask = classify(bias, has_sinks)
            else:
                mask = self._from_telling_rows(match, bias)
        except NotANumber:
            raise _unsupported(match, "its mask adds NaN or infinity to some score") from None
        if mask.blind is not None and not has_sinks:
            raise _unsupported(
                match, f"its mask hides all tokens from token {mask.blind}, whose softmax is over nothing"
            )
        if mask.rest:
            self._check_size(match, bias, mask)
        for place, length in enumerate(self._shorter_lengths(mask)):
            shorter = self._bias(match, heads, length, batch=1 + place % 3)
            row = differs(bias, shorter, has_sinks, _some_rows(length))
            if row is not None:
                raise _unsupported(
                    match,
                    f"its mask is another for token {row} of {length} tokens than of {self.max_length}: it depends on "
                    "how many tokens follow",
                )
        return replace(mask, table=table_of(bias, mask.kind, has_sinks)) if mask.rest else mask

    def _check_size(self, match: Match, bias: TermsBias, mask: Mask) -> None:
        """That a table of the mask can be kept."""
        heads = bias.rows(0, 1).shape[0]
        if heads * self.max_length**2 * 4 <= _TABLE_BYTES:
            return
        if mask.later is not None:
            query, key = mask.later
            raise NotCausalError(
                f"the model cannot be run token by token: {describe(match.softmax)} lets token {query} attend to token "
                f"{key} (its mask was evaluated and shows it), so a token's output can depend on later tokens. "
                "burnish.compile takes causal language models"
            )
        raise _unsupported(
            match,
            f"its mask has no closed form, and a table of {heads} x {self.max_length} x {self.max_length} is too "
            "large: compile with a smaller max_length",
        )

    def _shorter_lengths(self, mask: Mask) -> list[int]:
        """Lengths at which the mask must be a corner of the longest: around where it turns, the others fixed."""
        edges = _spread(sorted(mask.edges), 4)
        lengths = {*_SHORT, self.max_length // 2 + 1, self.max_length - 1}
        lengths |= {edge + step for edge in edges for step in (0, 1, 2)}
        random = torch.Generator().manual_seed(0)
        lengths |= set(torch.randint(1, self.max_length + 1, (3,), generator=random).tolist())
        return sorted(length for length in lengths if 0 < length < self.max_length)

    # ------------------------------------------------------------ where all rows would take too long

    def _from_telling_rows(self, match: Match, bias: TermsBias) -> Mask:
        """The mask from the rows where it turns, the first, the last and random ones; and a note that says so."""
        length, heads, has_sinks = bias.length, bias.rows(0, 1).shape[0], match.sinks is not None
        turns = sorted(_turns(bias))
        count = max(256, _TELLING_ROWS // (bias.cost() * length))
        kept = _spread(turns, count // 8)
        random = torch.Generator().manual_seed(0)
        rows = {*range(64), *range(length - 64, length), *(turn + step for turn in kept for step in range(-2, 3))}
        size = blocks_of(length, heads)[0][1]
        starts = torch.randint(0, length, (max(64, count - len(rows)) // size,), generator=random).tolist()
        rows |= {start + step for start in starts for step in range(size)}
        blocks = _as_blocks([row for row in rows if 0 <= row < length], size)
        mask = classify(bias, has_sinks, blocks)
        keys = {0, length - 1, *_spread(kept, 32), *torch.randint(0, length, (32,), generator=random).tolist()}
        told = ""
        if not mask.rest and mask.slopes is None and mask.kind != "none":
            wrong = departs(bias, mask, [(key, key + 1) for key in sorted(keys)])
            if wrong is not None:
                mask = Mask("none", rest=True, later=wrong if wrong[1] > wrong[0] else None)
            told = f" and on all rows for {len(keys)} keys"
        if mask.rest and heads * length**2 * 4 <= _TABLE_BYTES:
            return classify(bias, has_sinks)  # all its rows are to be computed in any case
        self.log.note(
            f"the mask of {match.softmax.name} ({mask.kind}) was checked on {sum(b - a for a, b in blocks):,} of its "
            f"{length:,} rows{told}: at {len(kept):,} of the {len(turns):,} places where its values turn, on the first "
            "and last rows and on random ones; the others were not looked at, since that would take long"
        )
        return mask


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of ops on blocks that a core's cache holds: two threads would wait for each other at each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _unsupported(match: Match, reason: str) -> UnsupportedError:
    return UnsupportedError(f"the model cannot be made incremental: {describe(match.softmax)}: {reason}")


def _some_rows(length: int) -> list[tuple[int, int]]:
    """All rows of a short mask; the first, the last and some between of a long one."""
    if length <= 256:
        return [(0, length)]
    size = min(16, blocks_of(length, 1)[0][1])
    return [(start, start + size) for start in (0, length // 3, length // 2, length - size)]


def _spread(values: Sequence[int], count: int) -> list[int]:
    """At most `count` of the values: the first and last ones and those between at equal steps."""
    if len(values) <= count:
        return list(values)
    return [values[round(place * (len(values) - 1) / (count - 1))] for place in range(count)]


def _as_blocks(rows: Sequence[int], largest: int) -> list[tuple[int, int]]:
    """Rows as blocks of consecutive ones."""
    blocks: list[tuple[int, int]] = []
    for row in sorted(rows):
        if blocks and blocks[-1][1] == row and row - blocks[-1][0] < largest:
            blocks[-1] = (blocks[-1][0], row + 1)
        else:
            blocks.append((row, row + 1))
    return blocks


def _turns(bias: TermsBias) -> set[int]:
    """Positions at which a mask, or a vector that it is computed from, goes on otherwise than before."""
    length, found = bias.length, set[int]()
    for place in _spread(range(length), 9):
        row, column = bias.rows(place, place + 1)[:, 0], bias.columns(place, place + 1)[..., 0]
        for seen in (row > HIDDEN, column > HIDDEN):
            found |= set((1 + (seen[:, 1:] != seen[:, :-1]).any(0).nonzero().flatten()).tolist())
    for vector in bias.blocks.vectors(bias.match.term_nodes):
        values = vector.reshape(-1, length).double()
        bend = values.diff(n=2).abs().amax(0)
        noise = 0.0 if not vector.dtype.is_floating_point else 1e-5 * float(values.abs().amax())
        found |= set((1 + (bend > noise).nonzero().flatten()).tolist())
    return found
