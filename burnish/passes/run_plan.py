"""What is fed to a program that is to run: lengths on both sides of each boundary that it shows, and one that is drawn.

It depends on the program alone, so that the same compilation makes the same checks; what is left out is said in words.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.ir.labels import rank
from burnish.ir.program import Program
from burnish.ir.states import StateKind
from burnish.ir.trace import Check
from burnish.runtime.session import CHUNK, SMALLEST_CAPACITY

_LOGITS_BYTES = 2**30  # of the longest row's logits, which are all held at once
_TOKENS = 640  # of the longest row, for models of any size: a few seconds of what compiling them takes
_OPERATIONS = 4e9  # or as many tokens as these allow, for small models
_SQUARE = 100  # operations that take as long as reading and writing one number
_LONGEST = 2048
_SHORT, ROWS = 17, 3
_LONGEST_PAIR = 60  # of the two rows of a drawn length
_STEPS = 48  # of one token each, across the boundaries of the longest row
_PIECED = 80  # tokens of the longest row of a large model that are fed in pieces


@dataclass(frozen=True)
class RunPlan:
    """What is fed to a program, and what is not."""

    lengths: tuple[int, ...]  # of two rows that are fed whole, two of them drawn
    short: int  # one of these, of rows that are fed in many ways
    long: int  # of one row that is fed in several ways
    pieced: int  # of these, how many are fed in pieces, too
    crossed: tuple[int, ...]  # boundaries that it crosses one token at a time
    beyond: tuple[int, ...]  # boundaries that it does not reach, and the model's limit if it is longer

    def checks(self, by: str) -> list[Check]:
        """The plan in words."""
        whole = ", ".join(str(length) for length in self.lengths)
        crossed = ", ".join(str(boundary) for boundary in self.crossed)
        made = [
            f"2 rows of {whole} tokens, whole; of {self.short} token by token, and after going back, "
            "together and one row alone",
            f"{ROWS} rows of unequal lengths, then tokens for all of them",
            "logits of the last token, of one in the middle, of several, and the likeliest ids",
            f"a row of {self.long} tokens, whole, and {'' if self.pieced == self.long else f'{self.pieced} '}in pieces"
            + (f", one token at a time across {crossed}" if crossed else ""),
        ]
        found = [Check(each, by) for each in made]
        if self.beyond:
            beyond = ", ".join(str(boundary) for boundary in self.beyond)
            found.append(Check(f"texts longer than {self.long} tokens; boundaries there: {beyond}", ""))
        return found


def plan_run(captured: Program, step: Program) -> RunPlan:
    """What to feed to a step program that was made of `captured`."""
    limit = step.signature.max_length
    affordable = _affordable(captured, limit)
    known = sorted(boundary for boundary in _boundaries(step) if boundary < limit)
    crossed = [boundary for boundary in known if boundary + 3 <= affordable]
    least = max([min(41, affordable), *(boundary + 3 for boundary in crossed)])
    # Drawn, and the same for the same program: its size is the seed.
    draw = random.Random(sum(rank(node) for node in captured.graph.nodes if node.op == "get_attr"))
    long = limit if affordable == limit else draw.randint(max(least, affordable // 2), affordable)
    large = 2 * _numbers(captured) * long > _OPERATIONS  # each step takes long
    usual = _SHORT // 2 if large else _SHORT
    drawn = [draw.randint(usual + 1, max(usual + 1, min(long, _LONGEST_PAIR)))]
    if not large:
        drawn.append(draw.randint(3, usual - 1))
    lengths = sorted({min(each, limit) for each in (1, 2, usual, *drawn)})
    beyond = [boundary for boundary in known if boundary + 3 > long]
    if long < limit:
        beyond.append(limit)
    return RunPlan(
        lengths=tuple(lengths),
        short=min(usual, limit),
        long=long,
        pieced=min(long, _PIECED) if large else long,
        crossed=tuple(each for each in crossed if each + 3 <= long),
        beyond=tuple(beyond),
    )


def _boundaries(step: Program) -> set[int]:
    """Numbers of tokens at which the program, or what runs it, begins to do something else."""
    found = {CHUNK, SMALLEST_CAPACITY}
    for node in step.graph.nodes:
        extent = node.kwargs.get("extent") if node.op == "call_function" else None
        if isinstance(extent, int) and extent > 0:
            found |= {extent, 2 * extent} if node.kwargs.get("mask") == "chunk" else {extent}
    for state in step.states:
        size = state.shape[state.axis]
        if state.kind in (StateKind.RING, StateKind.WINDOW) and isinstance(size, int):
            found.add(size)
    return found


def _affordable(captured: Program, limit: int) -> int:
    """The longest row whose logits can be computed whole in a small part of the time that compiling takes."""
    weights = _numbers(captured)
    width = 0.0  # of the products of scores: elements a pair of tokens
    for node in captured.graph.nodes:
        val = node.meta.get("val")
        if isinstance(val, Tensor):
            squares = sum(captured.sequence in str(size) for size in val.shape) > 1
            width += _elements(val) if squares else 0
    most = max(2 * weights * _TOKENS, _OPERATIONS)
    length = min(limit, max(1, _LOGITS_BYTES // (4 * captured.signature.vocabulary)), _LONGEST)
    while length > 41 and 2 * weights * length + _SQUARE * width * length**2 > 1.25 * most:
        length = int(length * 0.9)
    return length


def _numbers(program: Program) -> float:
    """The numbers of its products' weights: so many operations, twice, are a token."""
    return sum(float(torch.Size(weight.shape).numel()) for weight in program.weights.values() if len(weight.shape) > 1)


def _elements(val: Tensor) -> float:
    count = 1.0
    for size in val.shape:
        count *= size if isinstance(size, int) else 1
    return count


def pieces(length: int, boundaries: Sequence[int]) -> list[int]:
    """Pieces that add up to `length`: across each boundary one token at a time, between them ragged."""
    singles: set[int] = set()
    for boundary in boundaries:
        near = range(max(0, boundary - 2), min(length, boundary + 2))
        if len(singles) + len(near) <= _STEPS:
            singles.update(near)
    found, start = [], 0
    ragged = iter((9, 1, 1, 5))
    while start < length:
        if start in singles:
            count = 1
        else:
            following = min((place for place in singles if place > start), default=length)
            count = min(next(ragged, length), following - start)
        found.append(count)
        start += count
    return found
