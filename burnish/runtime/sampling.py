"""From logits to the next token: transformers' processors, in transformers' order.

First what changes scores whether or not there is sampling (`score_rules`), then, when sampling, temperature, top-k,
top-p and min-p. Everything is one row, float32 [vocabulary], in numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from burnish.runtime.executor import TOP, StepResult, Wanted
from burnish.runtime.options import GenerationOptions
from burnish.runtime.score_rules import Ids, ScoreRules, Scores, check_left

_FIRST_LOOK = 1024  # tokens among which the nucleus of top-p is sought before all are sorted


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
        """`room`: how many tokens each row can get."""
        self._options = options
        self._rules = [ScoreRules(options, len(prompt), count) for prompt, count in zip(prompts, room, strict=True)]
        self._ruled = self._rules[0].any
        self._new = 0
        self._ids: list[Ids] = []  # of each row, with room for its new ones, where a rule may look at them
        if self._ruled:
            self._ids = [np.empty(rules.prompt + rules.room, np.int64) for rules in self._rules]
            for ids, prompt in zip(self._ids, prompts, strict=True):
                ids[: len(prompt)] = prompt
        self._all: Ids | None = None  # every id, once it is known how many there are
        self.wanted: Wanted = "logits"
        if not self._ruled and not options.do_sample:
            self.wanted = "ids"
        elif not self._ruled and 0 < options.top_k <= TOP // 2:
            self.wanted = "top"

    @cached_property
    def _random(self) -> list[np.random.Generator]:
        """Of each row its own, so that what it draws does not depend on the others.

        Its seed is the options', with the place of its prompt and its number among those of the same prompt. Made by
        the first who draws: numpy imports it then.
        """
        entropy = np.random.SeedSequence(self._options.seed).entropy
        keys = [divmod(row, self._options.num_return_sequences) for row in range(len(self._rules))]
        seeds = [np.random.SeedSequence(entropy, spawn_key=key) for key in keys]
        return [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]

    def choose(
        self,
        found: StepResult,
        logits: Callable[[], StepResult] | None = None,
        active: Sequence[bool] | None = None,
    ) -> list[int]:
        """The next token of each row, from what is `wanted` of it, or from its logits [b, 1, vocabulary].

        `logits` gives these where the top is not enough. Of rows that are not `active` it is any.
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
            chosen = [
                self._choose_row(row, scores[row], ids[row]) if active is None or active[row] else 0
                for row in range(len(scores))
            ]
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
        rules = self._rules[row]
        return rules.apply(scores, self._ids[row][: rules.prompt + self._new]) if self._ruled else scores

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

    def _choose_row(self, row: int, scores: Scores, ids: Ids | None) -> int:
        scores = self.process(row, scores)
        if self._options.do_sample:
            scores, ids = self.candidates(scores, ids)
            most = check_left(scores)
            heap = np.exp(scores - most).cumsum(dtype=np.float64)
            place = int(heap.searchsorted(self._random[row].random() * heap[-1], side="right"))
            token = int(ids[min(place, len(ids) - 1)])
        else:
            token = int(scores.argmax())
        if self._ruled:
            self._ids[row][self._rules[row].prompt + self._new] = token
        return token
