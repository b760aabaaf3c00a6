"""Beam search: the texts that a model finds likeliest as a whole, by the steps of transformers' search.

A prompt has `num_beams` beams, unfinished texts, each a row of the session. A step takes the best of all their
continuations: what ends among the very best is a text found, weighed by its length, and the best of the others go on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from burnish.runtime.executor import StepResult
from burnish.runtime.logprobs import TokenLogprobs, log_probabilities, of_token
from burnish.runtime.options import GenerationOptions
from burnish.runtime.score_rules import ScoreRules, Scores, check_left
from burnish.runtime.session import Session

_LEAST = -1e9  # what transformers has for minus infinity


@dataclass(frozen=True)
class Beam:
    """A text behind the prompt."""

    score: float  # the sum of its tokens' log-probabilities; of one that has ended, over a power of its length
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)  # where they were asked for


class BeamSearch:
    """The search behind one prompt."""

    def __init__(
        self, options: GenerationOptions, prompt: Sequence[int], room: int, stops: Callable[[list[int]], bool] | None
    ) -> None:
        """`room`: how many tokens there can be; `stops`: whether a text ends at a stop string."""
        self._options = options
        self._prompt = list(prompt)
        self._rules = ScoreRules(options, len(prompt), room)
        self._stops = stops
        # All beams are the prompt at first, and all but one are as good as forbidden.
        self.beams = [Beam(_LEAST if number else 0.0) for number in range(options.num_beams)]
        self.sources = list(range(options.num_beams))  # of each beam, which of those before the step it continues
        self.found: list[Beam] = []  # the best that have ended, the best first
        self.done = False

    def step(self, logits: Scores) -> None:
        """Take the logits [beams, vocabulary] behind the beams."""
        options, count = self._options, self._options.num_beams
        known = log_probabilities(logits)
        ruled = known
        if self._rules.any:
            texts = [np.array(self._prompt + beam.tokens, np.int64) for beam in self.beams]
            ruled = np.stack([self._rules.apply(row, ids) for row, ids in zip(known, texts, strict=True)])
        scores = (ruled + np.array([[beam.score] for beam in self.beams], np.float32)).reshape(-1)
        check_left(scores)
        # So many that enough of them do not end.
        best = _greatest(scores, max(2, 1 + len(options.eos_token_id)) * count)
        sources, tokens = (each.tolist() for each in np.divmod(best, known.shape[1]))
        ended = np.array([self._ends(*pair) for pair in zip(sources, tokens, strict=True)])

        def beam(place: int, score: np.floating) -> Beam:
            before, token = self.beams[sources[place]], tokens[place]
            logprobs = before.logprobs
            if options.logprobs is not None:
                logprobs = [*logprobs, of_token(known[sources[place]], token, options.logprobs)]
            return Beam(float(score), [*before.tokens, token], logprobs)

        length = len(self.beams[0].tokens) + 1
        weighed = scores[best[:count]] / length**options.length_penalty
        found = [*self.found, *(beam(place, weighed[place]) for place in np.flatnonzero(ended[:count]).tolist())]
        self.found = sorted(found, key=lambda each: -each.score)[:count]
        left = scores[best] + np.float32(_LEAST) * ended
        kept = _greatest(left, count).tolist()
        self.beams, self.sources = [beam(place, left[place]) for place in kept], [sources[place] for place in kept]
        self.done = bool(ended.all()) or self._is_over(length)

    def _ends(self, source: int, token: int) -> bool:
        tokens = self.beams[source].tokens
        if token in self._options.eos_token_id or len(tokens) + 1 == self._rules.room:
            return True
        return self._stops is not None and self._stops([*tokens, token])

    def _is_over(self, length: int) -> bool:
        """Whether no beam is taken to become better than the worst text found, where there are enough of these."""
        options = self._options
        if len(self.found) < options.num_beams:
            return False
        if options.early_stopping is True:
            return True
        if options.early_stopping == "never" and options.length_penalty > 0:
            length = self._rules.room  # longer ones are weighed better
        return bool(np.float32(self.beams[0].score) / length**options.length_penalty <= self.found[-1].score)


def search(
    session: Session,
    options: GenerationOptions,
    prompts: Sequence[Sequence[int]],
    room: Sequence[int],
    read: StepResult,
    stops: Callable[[list[int]], bool] | None,
) -> list[Beam]:
    """Of each prompt, as many texts as num_return_sequences, the best first.

    The session has taken the prompts, and `read` are the logits [b, 1, vocabulary] behind them.
    """
    count = options.num_beams
    searches = [BeamSearch(options, prompt, most, stops) for prompt, most in zip(prompts, room, strict=True)]
    rows = [number for number in range(len(prompts)) for _ in range(count)]
    logits = read.array[rows]
    session.select(rows)
    while True:
        for number, each in enumerate(searches):
            if not each.done:
                each.step(logits[number * count : (number + 1) * count, 0])
        if all(each.done for each in searches):
            break
        # What is over stays where it is, and takes no token.
        rows = [
            number * count + (place if each.done else each.sources[place])
            for number, each in enumerate(searches)
            for place in range(count)
        ]
        session.select(rows)
        next_tokens = [0 if each.done else beam.tokens[-1] for each in searches for beam in each.beams]
        active = [not each.done for each in searches for _ in each.beams]
        logits = session.advance(next_tokens, active).array
    return [beam for each in searches for beam in each.found[: options.num_return_sequences]]


def _greatest(scores: Scores, count: int) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """The places of the greatest scores, the greatest first; of equal ones the first."""
    count = min(count, len(scores))
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    places = np.flatnonzero(scores >= least)
    return places[np.argsort(-scores[places], kind="stable")][:count]
