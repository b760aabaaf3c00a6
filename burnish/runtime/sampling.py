"""From logits to the next token: transformers' processors, in transformers' order.

First what changes scores whether or not there is sampling (repetition penalty, least lengths, forced and suppressed
tokens), then, when sampling, temperature, top-k, top-p and min-p. Everything is one row, float32 [vocabulary], in
numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np

from burnish.ir.errors import InvalidInputError
from burnish.runtime.executor import TOP, StepResult, Wanted
from burnish.runtime.options import GenerationOptions

if TYPE_CHECKING:  # it takes numpy a while
    from numpy.typing import NDArray

Scores: TypeAlias = "NDArray[np.floating[Any]]"
Ids: TypeAlias = "NDArray[np.int64]"

_NEVER = -np.inf
_FIRST_LOOK = 1024  # tokens among which the nucleus of top-p is sought before all are sorted


def penalize_repetition(scores: Scores, seen: Ids, penalty: float) -> Scores:
    """Scores of the ids in `seen` divided by `penalty` where positive, else multiplied (Keskar et al., 2019)."""
    chosen, penalized = scores[seen], scores.copy()
    penalized[seen] = np.where(chosen < 0, chosen * penalty, chosen / penalty)
    return penalized


def forbid(scores: Scores, ids: Sequence[int]) -> Scores:
    """Scores without the tokens `ids`."""
    left = scores.copy()
    left[list(ids)] = _NEVER
    return left


def force(scores: Scores, ids: Sequence[int]) -> Scores:
    """Scores that leave only the tokens `ids`."""
    only = np.full_like(scores, _NEVER)
    only[list(ids)] = 0
    return only


class Candidates(NamedTuple):
    """The tokens that are still possible."""

    scores: Scores
    ids: Ids


def keep_top_k(candidates: Candidates, count: int) -> Candidates:
    """The `count` best, and what is level with the last of them."""
    scores, ids = candidates
    if count >= len(scores):
        return candidates
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    keep = np.flatnonzero(scores >= least)
    return Candidates(scores[keep], ids[keep])


def keep_top_p(candidates: Candidates, mass: float) -> Candidates:
    """The best that together have the probability `mass` (Holtzman et al., 2019), at least one."""
    best = scores = candidates.scores
    total = np.exp(scores - scores.max()).sum(dtype=np.float64)
    if len(scores) > _FIRST_LOOK:
        best = np.partition(scores, len(scores) - _FIRST_LOOK)[-_FIRST_LOOK:]
    for looked_at in (best, scores):
        descending = np.sort(looked_at)[::-1]
        probability = np.exp((descending - descending[0]).astype(np.float64)) / total
        above = probability.cumsum() - probability  # what the better ones have together
        if above[-1] >= mass:
            break
    least = descending[max(1, int(np.count_nonzero(above < mass))) - 1]
    keep = np.flatnonzero(scores >= least)
    return Candidates(scores[keep], candidates.ids[keep])


def keep_min_p(candidates: Candidates, share: float) -> Candidates:
    """Those at least `share` times as likely as the best."""
    scores, ids = candidates
    keep = np.flatnonzero(np.exp(scores - scores.max()) >= share)
    return Candidates(scores[keep], ids[keep])


class Sampler:
    """Chooses tokens for the rows of a batch."""

    def __init__(self, options: GenerationOptions, prompts: Sequence[Sequence[int]], room: Sequence[int]) -> None:
        """`room`: how many tokens each row can get; the last of them may be a forced one."""
        self._options = options
        self._prompts = [len(prompt) for prompt in prompts]
        self._room = list(room)
        self._new = 0
        self._seen: list[Ids] = []
        if options.repetition_penalty != 1:
            self._seen = [np.unique(np.array(prompt, dtype=np.int64)) for prompt in prompts]
        self._all: Ids | None = None  # every id, once it is known how many there are
        self.wanted: Wanted = "logits"
        if not self._processes() and not options.do_sample:
            self.wanted = "ids"
        elif not self._processes() and 0 < options.top_k <= TOP // 2:
            self.wanted = "top"

    @cached_property
    def _random(self) -> np.random.Generator:
        """Made by the first who draws: numpy imports it then."""
        return np.random.Generator(np.random.PCG64(self._options.seed))

    def _processes(self) -> bool:
        """Whether anything but temperature, top-k, top-p and min-p touches the scores."""
        options = self._options
        ends = options.eos_token_id and (options.min_length or options.min_new_tokens)
        forced = options.forced_eos_token_id or options.forced_bos_token_id is not None
        suppressed = options.suppress_tokens or options.begin_suppress_tokens
        return bool(self._seen or ends or forced or suppressed)

    def choose(self, found: StepResult, logits: Callable[[], StepResult] | None = None) -> list[int]:
        """The next token of each row, from what is `wanted` of it, or from its logits [b, 1, vocabulary].

        `logits` gives these where the top is not enough.
        """
        values = found.array
        if found.kind == "ids":
            chosen: list[int] = values[:, 0].tolist()
        else:
            ids: list[Ids | None] = [None] * len(values)
            if found.kind == "top":
                top = values[:, 0]
                if logits is None or self._is_enough(top[:, 0].view(np.float32)):
                    values, ids = top[:, :1].view(np.float32), list(top[:, 1].astype(np.int64))
                else:
                    values = logits().array
            scores: Scores = values.astype(np.float32, copy=False)[:, 0]
            draws = self._random.random(len(scores)).tolist()
            chosen = [self._choose_row(row, scores[row], ids[row], draw) for row, draw in enumerate(draws)]
        self._new += 1
        return chosen

    def _is_enough(self, top: Scores) -> bool:
        """Whether no score that top-k keeps can be level with one that is not in the top[b, TOP or the vocabulary]."""
        ascending = np.sort(self._tempered(top), axis=-1)
        return top.shape[1] < TOP or bool((ascending[:, 0] < ascending[:, -self._options.top_k]).all())

    def _tempered(self, scores: Scores) -> Scores:
        temperature = self._options.temperature
        return scores if temperature == 1 else scores / scores.dtype.type(temperature)

    def process(self, row: int, scores: Scores) -> Scores:
        """The scores of a row after the processors that apply with and without sampling."""
        options, length = self._options, self._prompts[row] + self._new
        if self._seen:
            scores = penalize_repetition(scores, self._seen[row], options.repetition_penalty)
        ends = options.eos_token_id
        if ends and (length < options.min_length or self._new < options.min_new_tokens):
            scores = forbid(scores, [each for each in ends if each < len(scores)])
        if options.forced_bos_token_id is not None and length == 1:
            scores = force(scores, [options.forced_bos_token_id])
        if options.forced_eos_token_id and self._new == self._room[row] - 1:
            scores = force(scores, options.forced_eos_token_id)
        if options.suppress_tokens:
            scores = forbid(scores, options.suppress_tokens)
        # Where the first new token is a forced one, what may not begin the text may not be the second.
        first = 1 if options.forced_bos_token_id is not None and self._prompts[row] == 1 else 0
        if options.begin_suppress_tokens and self._new == first:
            scores = forbid(scores, options.begin_suppress_tokens)
        return scores

    def candidates(self, scores: Scores, ids: Ids | None = None) -> Candidates:
        """The tokens that sampling chooses from, with their scores. `ids`: of these scores, if not of all tokens."""
        options = self._options
        if ids is None:
            if self._all is None:
                self._all = np.arange(len(scores))
            ids = self._all
        found = Candidates(self._tempered(scores), ids)
        if options.top_k:
            found = keep_top_k(found, options.top_k)
        if options.top_p < 1:
            found = keep_top_p(found, options.top_p)
        if options.min_p:
            found = keep_min_p(found, options.min_p)
        return found

    def _choose_row(self, row: int, scores: Scores, ids: Ids | None, draw: float) -> int:
        scores = self.process(row, scores)
        if self._options.do_sample:
            scores, ids = self.candidates(scores, ids)
            most = scores.max(initial=_NEVER)
            if not np.isfinite(most):
                raise InvalidInputError(
                    f"no token is left to draw from, as the best of the scores is {most}: either the options forbid "
                    "all of them, or the weights have numbers that are none (nan)"
                )
            heap = np.exp(scores - most).cumsum(dtype=np.float64)
            place = int(heap.searchsorted(draw * heap[-1], side="right"))
            token = int(ids[min(place, len(ids) - 1)])
        else:
            token = int(scores.argmax())
        if self._seen and token not in self._seen[row]:
            self._seen[row] = np.append(self._seen[row], token)
        return token
