"""The check of what runs: an executor of the lowered program against the program as captured, in the ways it is used.

Whole, token by token, in pieces, after going back, unequal rows in one batch, some logits and not all, at lengths on
both sides of each boundary that the program shows, and at one long length that is drawn. What is fed depends on the
program alone, so that the same compilation makes the same checks; what was left out is said in words.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from burnish.ir.code_ops import CODES, unrounded
from burnish.ir.errors import VerificationError
from burnish.ir.interpreter import without_assertions
from burnish.ir.labels import rank
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, value
from burnish.ir.states import StateKind
from burnish.ir.trace import Check
from burnish.passes.base import Effect
from burnish.passes.conditioning import rounding_noise
from burnish.passes.verify import TOLERANCES, Verifier, check_numbers, logits_of, relative_difference
from burnish.runtime.executor import Executor, Step
from burnish.runtime.executor_reference import ReferenceExecutor
from burnish.runtime.session import CHUNK, SMALLEST_CAPACITY, Session
from burnish.runtime.states import States

_log = logging.getLogger(__name__)

_LOGITS_BYTES = 2**30  # of the longest row's logits, which are all held at once
_TOKENS = 640  # of the longest row, for models of any size: a few seconds of what compiling them takes
_OPERATIONS = 4e9  # or as many tokens as these allow, for small models
_SQUARE = 100  # operations that take as long as reading and writing one number
_LONGEST = 2048
_SHORT, _ROWS = 17, 3
_LONGEST_PAIR = 60  # of the two rows of a drawn length
_STEPS = 48  # of one token each, across the boundaries of the longest row

_Fed = Iterator[tuple[str, Tensor, Tensor]]  # in words; the logits found, those expected


@dataclass(frozen=True)
class RunPlan:
    """What is fed to a program, and what is not."""

    lengths: tuple[int, ...]  # of two rows that are fed whole, two of them drawn
    long: int  # of one row that is fed in several ways
    crossed: tuple[int, ...]  # boundaries that it crosses one token at a time
    beyond: tuple[int, ...]  # boundaries that it does not reach, and the model's limit if it is longer

    @property
    def short(self) -> int:
        """The length of the rows that are fed in many ways."""
        return min(_SHORT, self.lengths[-1])

    def checks(self, by: str) -> list[Check]:
        """The plan in words."""
        whole = ", ".join(str(length) for length in self.lengths)
        crossed = ", ".join(str(boundary) for boundary in self.crossed)
        made = [
            f"2 rows of {whole} tokens, whole; of {self.short} token by token, and after going back, "
            "together and one row alone",
            f"{_ROWS} rows of unequal lengths, then tokens for all of them",
            "logits of the last token, of one in the middle, of several, and the likeliest ids",
            f"a row of {self.long} tokens, whole and in pieces"
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
    drawn = (draw.randint(3, _SHORT - 1), draw.randint(_SHORT + 1, max(_SHORT + 1, min(long, _LONGEST_PAIR))))
    short = sorted({min(each, limit) for each in (1, 2, _SHORT, *drawn)})
    beyond = [boundary for boundary in known if boundary + 3 > long]
    if long < limit:
        beyond.append(limit)
    return RunPlan(tuple(short), long, tuple(each for each in crossed if each + 3 <= long), tuple(beyond))


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
    weights = sum(
        float(torch.Size(weight.shape).numel()) for weight in captured.weights.values() if len(weight.shape) > 1
    )
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


def _elements(val: Tensor) -> float:
    count = 1.0
    for size in val.shape:
        count *= size if isinstance(size, int) else 1
    return count


class RunVerifier:
    """Feeds executors what a plan says, and compares what they give with the captured program's logits.

    The captured program runs once on each text, whatever number of executors is compared with it.
    """

    def __init__(self, captured: Program, plan: RunPlan) -> None:
        self.captured = captured
        self.plan = plan
        self._known: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def text(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Random tokens [rows, length], and the captured program's logits for them."""
        if not self._known:
            self._run_captured()
        return self._known[rows, length]

    def _run_captured(self) -> None:
        """The captured program on all texts: its weights are evaluated once, and let go."""
        program = without_assertions(self.captured)
        over = Verifier(program).evaluated(program)
        generator = torch.Generator().manual_seed(0)
        shapes = [*((2, length) for length in self.plan.lengths), (_ROWS, self.plan.short), (1, self.plan.long)]
        for rows, length in shapes:
            tokens = torch.randint(program.signature.token_limit, (rows, length), generator=generator)
            logits = logits_of(over, tokens).float()
            check_numbers(logits)
            self._known[rows, length] = tokens, logits

    def verify(self, step: Program, executor: Executor, tolerance: float, by: str, briefly: bool = False) -> float:
        """The largest difference of an executor of `step` from the captured program, relative to the largest logit.

        `briefly`: a few tokens alone, for executors that take seconds for one. VerificationError, with what was fed
        and where the first difference is, if there is one above `tolerance`.
        """
        run = _Run(self, step, executor)
        worst = 0.0
        for fed, found, expected in run.brief() if briefly else run.all():
            difference = relative_difference(found.float(), expected)
            largest = float(difference.max())
            if tolerance < largest <= _MOST_NOISE:
                tolerance = max(tolerance, min(self._noise, _MOST_NOISE))
            if not bool((difference <= tolerance).all()):  # also true for NaN
                first = int((~(difference <= tolerance)).nonzero()[0])
                raise VerificationError(
                    f"{by} gives other logits than the model for {fed}: relative difference {largest:.2e} (allowed: "
                    f"{tolerance:.0e}), first for the logits at place {first}{self._remark()}"
                )
            worst = max(worst, largest)
        return worst

    def _remark(self) -> str:
        if self._noise <= PRECISIONS["float32"]:
            return ""
        return (
            f" (weights off by half a unit in the last place move this model's logits by {self._noise:.0e}, so that "
            "no two ways of computing it agree: verify=False compiles it unseen)"
        )

    @cached_property
    def _noise(self) -> float:
        """What rounding may do to the captured program's logits. Asked for where it could explain a difference."""
        program = without_assertions(self.captured)
        self.text(2, 1)
        noise = 3 * max(rounding_noise(program, *text) for text in self._known.values())
        if noise > PRECISIONS["float32"]:
            _log.warning("rounding alone moves this model's logits by %.0e of the largest: compared no closer", noise)
        return noise


class _Run:
    """The ways of feeding one executor: each gives what was fed in words, the logits found and those expected."""

    def __init__(self, verifier: RunVerifier, step: Program, executor: Executor) -> None:
        self.text = verifier.text
        self.plan = verifier.plan
        self.step = step
        self.executor = executor

    def session(self, rows: int, capacity: int = 0) -> Session:
        return Session(self.executor, self.step.signature, self.step.states, rows, capacity)

    def brief(self) -> _Fed:
        """A short text, and then one token."""
        tokens, logits = self.text(2, self.plan.short)
        count = min(4, tokens.shape[1])
        session = self.session(2)
        if count > 1:
            yield "a short text", session.append(tokens[:, : count - 1], every=True), logits[:, : count - 1]
        yield "one more token", session.append(tokens[:, count - 1 : count]), logits[:, count - 1 : count]

    def all(self) -> _Fed:
        """All that the plan says."""
        for length in self.plan.lengths:
            tokens, logits = self.text(2, length)
            yield f"2 rows of {length} tokens", self.session(2).append(tokens, every=True), logits
        yield from self._token_by_token()
        yield from self._after_going_back()
        yield from self._unequal_rows()
        yield from self._picked_logits()
        yield from self._long()

    def _token_by_token(self) -> _Fed:
        tokens, logits = self.text(2, self.plan.short)
        session = self.session(2)
        found = [session.append(token, every=True).clone() for token in torch.split(tokens, 1, dim=1)]
        yield "2 rows, token by token", torch.cat(found, dim=1), logits

    def _after_going_back(self) -> _Fed:
        tokens, logits = self.text(2, self.plan.short)
        length = tokens.shape[1]
        there, back = length * 3 // 4, length // 3
        if not 0 < back < there:
            return
        session = self.session(2)
        session.append(tokens.flip(1)[:, :there])  # other tokens than those that follow
        session.reset()
        yield (
            f"2 rows of {there} tokens, after a reset",
            session.append(tokens[:, :there], every=True),
            logits[:, :there],
        )
        session.rewind(back, row=1)
        yield (
            f"a token each, after one of two rows of {there} tokens went back to {back}",
            session.step([int(tokens[0, there]), int(tokens[1, back])]),
            torch.stack([logits[0, there], logits[1, back]]).unsqueeze(1),
        )
        session.rewind(back)
        yield (
            f"tokens from {back} on, after going back there",
            session.append(tokens[:, back:], every=True),
            logits[:, back:],
        )

    def _unequal_rows(self) -> _Fed:
        tokens, logits = self.text(_ROWS, self.plan.short)
        length = tokens.shape[1]
        steps = min(4, length - 1)
        if steps < 1:
            return
        lengths = [max(1, (length - steps) * (row + 1) // _ROWS) for row in range(_ROWS)]
        session = self.session(_ROWS)
        prompts = [tokens[row, :count].tolist() for row, count in enumerate(lengths)]
        expected = torch.stack([logits[row, count - 1] for row, count in enumerate(lengths)])
        yield f"rows of {lengths} tokens", session.append(prompts), expected.unsqueeze(1)
        for offset in range(steps):
            following = torch.stack([tokens[row, count + offset] for row, count in enumerate(lengths)])
            expected = torch.stack([logits[row, count + offset] for row, count in enumerate(lengths)])
            yield (
                f"a token each for rows of {[count + offset for count in lengths]} tokens",
                session.step(following.tolist()),  # as generation does
                expected.unsqueeze(1),
            )

    def _picked_logits(self) -> _Fed:
        tokens, logits = self.text(2, self.plan.short)
        length = tokens.shape[1]
        before = length // 4
        count = length - before
        for picked in ([count - 1], [count // 2], [0, count - 1], sorted({count // 3, count // 2, count - 1})):
            states = States.allocate(self.step.states, 2, max(length, 1), self.executor.device, self.executor.in_place)
            position = torch.zeros(2, dtype=torch.int64)
            if before:
                self.executor.step(Step(tokens[:, :before].contiguous(), position, torch.tensor([before - 1])), states)
            index, rest = torch.tensor(picked), tokens[:, before:].contiguous()
            found = self.executor.step(Step(rest, position + before, index), states).values.clone()
            yield f"{count} tokens, logits of {picked}", found, logits[:, before:][:, picked]
        ids = self.session(2).append(tokens, wanted="ids")
        chosen = logits[:, -1].gather(1, ids.view(2, 1)).unsqueeze(1)
        yield "the ids of the greatest logits", chosen, logits[:, -1].amax(-1).view(2, 1, 1)

    def _long(self) -> _Fed:
        tokens, logits = self.text(1, self.plan.long)
        length = tokens.shape[1]
        yield f"a row of {length} tokens", self.session(1).append(tokens, every=True), logits
        pieces = _pieces(length, self.plan.crossed)
        session = self.session(1)
        start = 0
        for count in pieces:  # compared one by one: a difference is told with the place of its piece
            new = tokens[:, start : start + count]
            # One token as generation feeds it, whose memory is bound once.
            part = session.append(new, every=True) if count > 1 else session.step(new[:, 0].tolist())
            fed = f"tokens {start} to {start + count - 1} of a row of {length} that is fed in pieces"
            yield fed, part, logits[:, start : start + count]
            start += count
        for boundary in self.plan.crossed[::-1]:  # in the middle of a piece
            start, end = max(0, boundary - 5), min(length, boundary + 6)
            session.rewind(start)
            part = session.append(tokens[:, start:end], every=True)
            yield f"tokens {start} to {end - 1} of a row at once, after going back", part, logits[:, start:end]


def _pieces(length: int, boundaries: Sequence[int]) -> list[int]:
    """Pieces that add up to `length`: across each boundary one token at a time, between them ragged."""
    singles: set[int] = set()
    for boundary in boundaries:
        near = range(max(0, boundary - 2), min(length, boundary + 2))
        if len(singles) + len(near) <= _STEPS:
            singles.update(near)
    pieces, start = [], 0
    ragged = iter((9, 1, 1, 5))
    while start < length:
        if start in singles:
            count = 1
        else:
            following = min((place for place in singles if place > start), default=length)
            count = min(next(ragged, length), following - start)
        pieces.append(count)
        start += count
    return pieces


_MOST_NOISE = 2e-2  # of the largest logit: what differs by more is wrong, whatever rounding does
PRECISIONS = {"float32": TOLERANCES[Effect.REASSOCIATES], "float16": 2e-2, "bfloat16": 1e-1, "8 bits": 3e-1}
"""Of the largest logit: what rounding to so many bits, layer after layer, may come to."""


def tolerance_of(step: Program, eight_bits: bool = False) -> float:
    """How far an executor's logits may be from float32 ones, relative to the largest, for what it computes in.

    `eight_bits`: it rounds what it multiplies with integers to 8 bits.
    """
    coded = any(node.target is burnish_ops.to_codes.default for node in step.graph.nodes)
    integers = any(str(node.target).startswith("burnish.quantized_") for node in step.graph.nodes)
    if coded or (eight_bits and integers):
        return PRECISIONS["8 bits"]
    return _tolerance_of_floats(step)


def _tolerance_of_floats(program: Program) -> float:
    """The same for the narrowest floats that a program itself computes in."""
    dtypes = {value(node).dtype for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)}
    narrowest = next((each for each in (torch.bfloat16, torch.float16) if each in dtypes), torch.float32)
    return PRECISIONS[str(narrowest).removeprefix("torch.")]


def verify_by_reference(captured: Program, step: Program, verifier: RunVerifier | None = None) -> float:
    """The same of a step program, run node by node, with caches in 8 bits left in floats."""
    verifier = verifier or RunVerifier(captured, plan_run(captured, step))
    states = tuple(
        replace(state, dtype=torch.float32) if state.dtype in CODES.values() else state for state in step.states
    )
    wide = replace(step, states=states)
    verifier.text(2, 1)  # before the weights are evaluated: those of one program at a time
    with unrounded():
        executor = ReferenceExecutor(Verifier(step).evaluated(wide))
        by = "the program, run node by node,"
        return verifier.verify(wide, executor, _tolerance_of_floats(wide), by, briefly=not Verifier.fits(step))
