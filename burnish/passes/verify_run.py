"""The check of what runs: an executor of the lowered program against the program as captured, in the ways it is used.

Whole, token by token, in pieces, after going back, unequal rows in one batch, some logits and not all, at lengths on
both sides of each boundary that the program shows, and at one long length that is drawn (run_plan.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from burnish.ir.code_ops import CODES, unrounded
from burnish.ir.errors import VerificationError
from burnish.ir.interpreter import without_assertions
from burnish.ir.ops import burnish_ops
from burnish.ir.panel_formats import is_integer
from burnish.ir.panels import Panels
from burnish.ir.program import Program, value
from burnish.passes.base import Effect
from burnish.passes.conditioning import rounding_noise
from burnish.passes.run_plan import ROWS, RunPlan, pieces, plan_run
from burnish.passes.verify import TOLERANCES, Verifier, check_numbers, logits_of, relative_difference
from burnish.runtime.executor import Executor, Step
from burnish.runtime.executor_reference import ReferenceExecutor
from burnish.runtime.session import Session
from burnish.runtime.states import States

_log = logging.getLogger(__name__)

_Fed = Iterator[tuple[str, Tensor, Tensor]]  # in words; the logits found, those expected


class RunVerifier:
    """Feeds executors what a plan says, and compares what they give with the captured program's logits.

    The captured program runs once on each text, whatever number of executors is compared with it.
    """

    def __init__(self, captured: Program, plan: RunPlan) -> None:
        self.captured = captured
        self.plan = plan
        self._known: dict[int, tuple[Tensor, Tensor]] = {}  # by length

    def text(self, rows: int, length: int) -> tuple[Tensor, Tensor]:
        """Random tokens [rows, length], and the captured program's logits for them."""
        if not self._known:
            self._run_captured()
        tokens, logits = self._known[length]
        return tokens[:rows], logits[:rows]

    def _run_captured(self) -> None:
        """The captured program on all texts: its weights are evaluated once, and let go."""
        program = without_assertions(self.captured)
        over = Verifier(program).evaluated(program)
        generator = torch.Generator().manual_seed(0)
        shapes = [(ROWS if length == self.plan.short else 2, length) for length in self.plan.lengths]
        if self.plan.long not in self.plan.lengths:
            shapes.append((1, self.plan.long))
        for rows, length in shapes:
            tokens = torch.randint(program.signature.token_limit, (rows, length), generator=generator)
            logits = logits_of(over, tokens).float()
            check_numbers(logits)
            self._known[length] = tokens, logits

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
        tokens, logits = self.text(ROWS, self.plan.short)
        length = tokens.shape[1]
        steps = min(4, length - 1)
        if steps < 1:
            return
        lengths = [max(1, (length - steps) * (row + 1) // ROWS) for row in range(ROWS)]
        session = self.session(ROWS)
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
            states = States.allocate(self.step.states, 2, max(length, 1), self.executor.memory, self.executor.in_place)
            position = torch.zeros(2, dtype=torch.int64)
            if before:
                self.executor.step(Step(tokens[:, :before].contiguous(), position, torch.tensor([before - 1])), states)
            index, rest = torch.tensor(picked), tokens[:, before:].contiguous()
            found = self.executor.step(Step(rest, position + before, index), states)
            yield f"{count} tokens, logits of {picked}", found.tensor.clone(), logits[:, before:][:, picked]
        ids = self.session(2).append(tokens, wanted="ids")
        chosen = logits[:, -1].gather(1, ids.view(2, 1)).unsqueeze(1)
        yield "the ids of the greatest logits", chosen, logits[:, -1].amax(-1).view(2, 1, 1)

    def _long(self) -> _Fed:
        tokens, logits = self.text(1, self.plan.long)
        length = tokens.shape[1]
        session, start = self.session(1), 0
        for count in pieces(self.plan.pieced, self.plan.crossed):  # a difference is told with the place of its piece
            yield self._piece(session, start, start + count, "that is fed in pieces")
            start += count
        session = self.session(1)
        yield f"a row of {length} tokens", session.append(tokens, every=True), logits
        for boundary in self.plan.crossed[::-1]:
            start, end = max(0, boundary - 5), min(length, boundary + 6)
            if boundary + 2 > self.plan.pieced:
                session.rewind(boundary - 2)
                for place in range(boundary - 2, min(length, boundary + 2)):
                    yield self._piece(session, place, place + 1, "after going back")
            session.rewind(start)
            yield self._piece(session, start, end, "in one piece, after going back")

    def _piece(self, session: Session, start: int, end: int, how: str) -> tuple[str, Tensor, Tensor]:
        """Tokens of the long row; one alone as generation feeds it, whose memory is bound once."""
        tokens, logits = self.text(1, self.plan.long)
        new = tokens[:, start:end]
        found = session.append(new, every=True) if end > start + 1 else session.step(new[:, 0].tolist())
        return f"tokens {start} to {end - 1} of a row of {tokens.shape[1]} {how}", found, logits[:, start:end]


_MOST_NOISE = 2e-2  # of the largest logit: what differs by more is wrong, whatever rounding does
PRECISIONS = {"float32": TOLERANCES[Effect.REASSOCIATES], "float16": 2e-2, "bfloat16": 1e-1, "8 bits": 3e-1}
"""Of the largest logit: what rounding to so many bits, layer after layer, may come to."""


def tolerance_of(step: Program, eight_bits: bool = False) -> float:
    """How far an executor's logits may be from float32 ones, relative to the largest, for what it computes in.

    `eight_bits`: it rounds what it multiplies with integers to 8 bits.
    """
    coded = any(node.target is burnish_ops.to_codes.default for node in step.graph.nodes)
    if coded or (eight_bits and has_integers(step)):
        return PRECISIONS["8 bits"]
    return _tolerance_of_floats(step)


def has_integers(step: Program) -> bool:
    """Whether it multiplies with weights of integers."""
    return any(str(node.target).startswith("burnish.quantized_") for node in step.graph.nodes) or any(
        isinstance(weight, Panels) and is_integer(weight.form) for weight in step.weights.values()
    )


def _tolerance_of_floats(program: Program) -> float:
    """The same for the narrowest floats that a program itself computes in."""
    dtypes = {value(node).dtype for node in program.graph.nodes if isinstance(node.meta.get("val"), Tensor)}
    dtypes |= {
        each for weight in program.weights.values() if isinstance(weight, Panels) and (each := weight.rounded_to)
    }
    narrowest = next((each for each in (torch.bfloat16, torch.float16) if each in dtypes), torch.float32)
    return PRECISIONS[str(narrowest).removeprefix("torch.")]


def verify_by_reference(captured: Program, step: Program, verifier: RunVerifier | None = None) -> float:
    """The same of a step program, run node by node, with caches in 8 bits left in floats."""
    verifier = verifier or RunVerifier(captured, plan_run(captured, step))
    states = tuple(
        replace(state, dtype_name="float32") if state.dtype in CODES.values() else state for state in step.states
    )
    wide = replace(step, states=states)
    verifier.text(2, 1)  # before the weights are evaluated: those of one program at a time
    with unrounded():
        executor = ReferenceExecutor(Verifier(step).evaluated(wide))
        by = "the program, run node by node,"
        return verifier.verify(wide, executor, _tolerance_of_floats(wide), by, briefly=not Verifier.fits(step))
