"""A case: a module and how it is compiled, what it gives compared with eager in the ways in which models are used."""

from __future__ import annotations

import random
import re
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from unittest import mock

import torch
from torch import Tensor, nn

import burnish
from burnish.frontend import read
from burnish.frontend.source import Source
from burnish.ir.errors import (
    CaptureError,
    InvalidModelError,
    MixedRowsError,
    NotCausalError,
    UnsupportedError,
    UsageError,
    VerificationError,
)
from burnish.passes.base import Pass
from burnish.passes.compilation_checks import ROUNDING
from burnish.passes.verify_run import PRECISIONS
from burnish.runtime.backends import Backend
from burnish.runtime.model import CompiledModel
from tests.fuzz.attention import Attention
from tests.fuzz.modules import Model, leaks, parts
from tests.fuzz.shrink import shrink

TOLERANCE = 1e-4  # of the largest logit, where float32 itself does not leave more
ILL = 1e-4  # models that float32 computes less exactly than this say nothing of who computes them
HUGE = 1e8  # logits of models whose scores a large number in a mask does not hide
REFUSALS = (CaptureError, InvalidModelError, MixedRowsError, NotCausalError, UnsupportedError, UsageError)
"""What compile may raise. Its other errors say that a pass, the check of what runs, or an artifact is at fault."""
LOSSY = ("int8", "cache int8")
_PAIRS = 30  # pieces that a text is fed in, at most


@dataclass(frozen=True)
class Pipeline:
    """The passes of a target, some left out, some repeated right behind themselves, with a transform among them."""

    target: str = ""  # "": the default, which is not spelled
    without: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()
    transform: str = ""  # "merge heads", which is exact for equal ones; or one of LOSSY

    def passes(self) -> list[Pass] | None:
        """What to give to compile."""
        if not self.target:
            return None
        transforms: list[Pass] = []
        if self.transform:
            transforms.append(
                {
                    "merge heads": burnish.ConvertToGQA(1),
                    "int8": burnish.Quantize("int8"),
                    "cache int8": burnish.QuantizeCache("int8"),
                }[self.transform]
            )
        found: list[Pass] = []
        for each in burnish.default_passes(self.target, transforms=transforms):
            if each.name not in self.without:
                found += [each] * (2 if each.name in self.twice else 1)
        return found


@dataclass(frozen=True)
class Case:
    """One example. `seed` is that of the texts and of the pieces in which they are fed."""

    model: Model
    longest: int
    pipeline: Pipeline = Pipeline()
    verify: bool = True
    seed: int = 0

    @property
    def changes(self) -> bool:
        """Whether the transform makes another function of it, which can be compared with itself alone."""
        attentions = [each for each in parts(self.model) if isinstance(each, Attention)]
        exact = all(each.equal or each.kv_heads == 1 for each in attentions)
        return self.pipeline.transform in LOSSY or (self.pipeline.transform == "merge heads" and not exact)


@dataclass(frozen=True)
class Outcome:
    """kind: "matched", "refused" (and with what reason), "refused, as it has to be" (a leak), or "ill-conditioned"."""

    kind: str
    reason: str = ""


class WrongAnswer(AssertionError):
    """A fault of burnish: other logits than eager's, a leak that was compiled, or an error that is not one to raise."""


def examine(case: Case, backend: Backend | None = None, quick: bool = False) -> Outcome:
    """Compile and compare. `backend`: this one alone. `quick`: few tokens, for a backend that takes seconds for one.

    WrongAnswer if anything is not as it should be.
    """
    module = case.model.build(case.longest)
    ids = torch.randint(
        case.model.vocabulary, (3, case.longest), generator=torch.Generator().manual_seed(case.seed), dtype=torch.int64
    )
    leaking = leaks(case.model)
    with torch.no_grad():
        expected = module(ids)
        noise = _difference(expected, case.model.build(case.longest).double()(ids).float())
        if not noise <= ILL:  # NaN, too
            return Outcome("ill-conditioned")
        if not leaking and _sees(module, ids, expected, (1, 2, 7, case.longest - 1)):
            if float(expected.abs().max()) > HUGE:
                return Outcome("ill-conditioned")
            raise AssertionError("this module was drawn as a causal one, and eager says that it is not")
    try:
        with ExitStack() as closing:
            try:
                compiled = closing.enter_context(_compiled(case, module, backend))
            except REFUSALS as error:
                left_out = ", with passes left out" if case.pipeline.without else ""
                kind = "refused, as it has to be" if leaking else f"refused{left_out}"
                return Outcome(kind, f"{type(error).__name__}: {plain(str(error))}")
            except VerificationError as error:
                if "no two ways of computing it agree" not in str(error) and ROUNDING not in str(error):
                    raise
                return Outcome("ill-conditioned")  # on other tokens than those above, or in 8 bits
            with torch.no_grad():
                if leaking and _sees(module, ids, expected, range(1, case.longest)):
                    raise WrongAnswer("a token sees later ones, or a row another, and it was compiled")
                models = [compiled]
                exact = compiled.backend == "onnxruntime" or (compiled.backend == "native" and not case.changes)
                if backend is None and exact:
                    models.append(closing.enter_context(burnish.load(compiled.artifact.path, backend="reference")))
                # Of what a transform makes, the noise is another's than the module's; and what lies between two codes
                # of a cache is rounded either way.
                most = {"": TOLERANCE, "cache int8": 3e-2}.get(case.pipeline.transform, 1e-3)
                tolerance = max(most, 10 * noise)
                if case.changes and compiled.backend == "native":
                    models.append(closing.enter_context(burnish.load(compiled.artifact.path, accuracy="fast")))
                for each in models:
                    if case.changes:
                        expected = each.session(3).append(ids, every=True)
                    # Attention of other pieces has other last bits, and to 8 bits those may be rounded otherwise.
                    rounds = case.changes and each is not compiled
                    allowed = max(tolerance, PRECISIONS["8 bits"]) if rounds else tolerance
                    _Comparison(case, module, each, ids, expected, allowed).make(quick)
    except AssertionError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{last.filename.rpartition('/burnish/')[2]}:{last.lineno}"
        raise WrongAnswer(f"{type(error).__name__} at {where}: {error}") from error
    return Outcome("matched")


def _compiled(case: Case, module: nn.Module, backend: Backend | None) -> CompiledModel:
    if backend is None and case.pipeline.target == "native":
        backend = "native"
    elif backend is None and case.pipeline.target == "onnxruntime" and not case.changes:
        backend = "onnxruntime"
    elif backend is None and (case.pipeline.target == "cuda" or case.changes):
        backend = "reference"
    # Capturing takes most of the time, and is the same for all ways of compiling a module.
    with mock.patch("burnish.compiler.read", return_value=_captured(case.model, case.longest)):
        return burnish.compile(module, passes=case.pipeline.passes(), backend=backend, verify=case.verify)


@lru_cache(maxsize=1)
def _captured(model: Model, longest: int) -> Source:
    return read(model.build(longest), max_length=longest)


def way_of(error: AssertionError) -> str:
    """What failures are told apart by."""
    return plain(str(error))[:60]


def smallest(case: Case, error: AssertionError) -> Case:
    """A smaller case that fails in the same way."""

    def fails(other: Case) -> bool:
        try:
            examine(other)
        except AssertionError as found:
            return way_of(found) == way_of(error)
        except Exception:  # a description that makes no module
            return False
        return False

    return shrink(case, fails)


def plain(message: str) -> str:
    """A refusal without names, places and sizes: what refusals are counted by."""
    message = re.sub(r"`[^`]*`|\S*\.py:\d+|'[^']*'|\([^()]*\)", "…", message.splitlines()[0])
    return re.sub(r"\b\w*\d\w*\b", "#", message)[:150]


def _difference(found: Tensor, expected: Tensor) -> float:
    """The largest difference, relative to the largest logit."""
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-3))


def _sees(module: nn.Module, ids: Tensor, expected: Tensor, lengths: Sequence[int]) -> bool:
    """Whether eager gives the first tokens of a text otherwise than the text; or a row alone than among others."""
    if any(_difference(module(ids[row : row + 1]), expected[row : row + 1]) > 1e-3 for row in range(len(ids))):
        return True
    return any(_difference(module(ids[:1, :length]), expected[:1, :length]) > 1e-3 for length in lengths)


class _Comparison:
    """One compiled model beside eager: `expected` are eager's logits [3, longest, vocabulary] of `ids`."""

    def __init__(
        self, case: Case, module: nn.Module, compiled: CompiledModel, ids: Tensor, expected: Tensor, tolerance: float
    ) -> None:
        self.module, self.compiled, self.ids, self.expected = module, compiled, ids, expected
        self.longest, self.changed = case.longest, case.changes
        self.allowed = tolerance * float(expected.abs().max().clamp(min=1e-3))
        self.random = random.Random(case.seed)

    def make(self, quick: bool) -> None:
        """All comparisons, or the quick ones."""
        if quick:
            self.pieces([3, 1, 1, 4], 2)
            self.unequal([2, 5], [1])
            return
        self.pieces([self.longest], 3)
        self.pieces([1] * min(18, self.longest), 2)
        for _ in range(2):
            self.pieces(list(self._ragged()), self.random.randint(1, 3))
        self.rewound()
        lengths = [self.random.randint(1, self.longest - 6) for _ in range(3)]
        self.unequal(lengths, [1, 3, 1])
        self.generated([self.random.randint(1, 9), self.random.randint(1, self.longest), self.longest - 3])

    def _ragged(self) -> Iterator[int]:
        left = self.longest
        for _ in range(_PAIRS):
            count = min(left, self.random.choice((1, 1, 1, 2, 3, 7, self.longest // 3)))
            if count:
                yield count
            left -= count
        if left:
            yield left

    def same(self, found: Tensor, expected: Tensor, fed: str) -> None:
        """WrongAnswer unless logits [.., n, vocabulary] are equal but for rounding."""
        difference = (found - expected).abs()
        if not bool((difference <= self.allowed).all()):  # NaN, too
            worst = float(difference.max()) / self.allowed
            place = int((~(difference <= self.allowed)).any(-1).any(0).nonzero()[0])
            raise WrongAnswer(
                f"{self.compiled.backend} gives other logits than eager for {fed}: {worst:.1f} times what is allowed, "
                f"first at place {place}"
            )

    def pieces(self, counts: list[int], rows: int) -> None:
        session, start = self.compiled.session(rows), 0
        for count in counts:
            found = session.append(self.ids[:rows, start : start + count], every=True)
            fed = f"tokens from {start} of {rows} rows fed in {counts}"
            self.same(found, self.expected[:rows, start : start + count], fed)
            start += count

    def rewound(self) -> None:
        session = self.compiled.session(2)
        session.append(self.ids.flip(1)[:2, : self.longest // 2])  # other tokens
        session.rewind(0)
        session.append(self.ids[:2, : self.longest - 2])
        for _ in range(3):
            back = self.random.randint(0, min(session.lengths) - 1)
            session.rewind(back)
            end = self.random.randint(back + 1, self.longest)
            found = session.append(self.ids[:2, back:end], every=True)
            self.same(found, self.expected[:2, back:end], f"tokens {back} to {end} after going back")
        if min(session.lengths) > 1:  # one row goes back further than the other
            session.rewind(min(session.lengths) - 1, row=1)
            rest = [row[length:] for row, length in zip(self.ids[:2].tolist(), session.lengths, strict=True)]
            if all(rest):
                found = session.append(rest)
                self.same(found[:, 0], self.expected[:2, -1], "the rest, after one row went back further")

    def unequal(self, lengths: list[int], counts: list[int]) -> None:
        rows = len(lengths)
        session = self.compiled.session(rows)
        lengths, before = list(lengths), [0] * rows
        for count in [0, *counts]:
            lengths = [length + count for length in lengths]
            ids = [self.ids[row, before[row] : lengths[row]].tolist() for row in range(rows)]
            last = torch.stack([self.expected[row, lengths[row] - 1] for row in range(rows)])
            self.same(
                session.append(ids)[:, 0], last, f"{count or 'the first'} tokens of rows that have {lengths} then"
            )
            before = lengths

    def generated(self, lengths: list[int]) -> None:
        """Greedy tokens of prompts of unequal lengths: each is among those that eager finds likeliest."""
        if self.changed:
            return
        prompts = [self.ids[row, :length].tolist() for row, length in enumerate(lengths)]
        found = self.compiled.generate(prompts, max_new_tokens=8, do_sample=False).tokens
        for prompt, tokens in zip(prompts, found, strict=True):
            if len(tokens) != min(8, self.longest - len(prompt) + 1):
                raise WrongAnswer(f"generate gave {len(tokens)} tokens behind {len(prompt)} of {self.longest}")
            text = torch.tensor([[*prompt, *tokens[:-1]]])
            logits = self.module(text)[0, len(prompt) - 1 :]
            chosen = logits.gather(1, torch.tensor(tokens).unsqueeze(1))[:, 0]
            behind = logits.amax(1) - chosen
            if not bool((behind <= 2 * self.allowed).all()):
                place = int((behind > 2 * self.allowed).nonzero()[0])
                raise WrongAnswer(
                    f"{self.compiled.backend} generates another token than eager behind {len(prompt) + place} tokens, "
                    f"in a batch of prompts of {lengths}: {float(behind[place]):.2g} less likely"
                )


def counted(outcomes: Counter[Outcome]) -> str:
    """How many came out how, and the reasons of refusals, as lines."""
    kinds: Counter[str] = Counter()
    for outcome, count in outcomes.items():
        kinds[outcome.kind] += count
    lines = [", ".join(f"{count} {kind}" for kind, count in kinds.most_common())]
    for outcome, count in outcomes.most_common():
        if outcome.reason:
            lines.append(f"  {count:5} {outcome.kind}: {outcome.reason}")
    return "\n".join(lines)
