"""What changes scores whether or not there is sampling: transformers' processors, in transformers' order.

And OpenAI's penalties, beside the one for repetition. Everything is one row, float32 [vocabulary], in numpy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from burnish.ir.errors import InvalidInputError
from burnish.runtime.options import GenerationOptions

if TYPE_CHECKING:  # it takes numpy a while
    from numpy.typing import NDArray

Scores: TypeAlias = "NDArray[np.floating[Any]]"
Ids: TypeAlias = "NDArray[np.int64]"

NEVER = -np.inf


def add_bias(scores: Scores, bias: Sequence[tuple[int, float]]) -> Scores:
    """Scores with numbers added to those of some ids."""
    biased = scores.copy()
    for token, value in bias:
        biased[token] += value
    return biased


def penalize_repetition(scores: Scores, seen: Ids, penalty: float) -> Scores:
    """Scores of the ids in `seen` divided by `penalty` where positive, else multiplied (Keskar et al., 2019)."""
    chosen, penalized = scores[seen], scores.copy()
    penalized[seen] = np.where(chosen < 0, chosen * penalty, chosen / penalty)
    return penalized


def penalize_use(scores: Scores, new: Ids, frequency: float, presence: float) -> Scores:
    """Scores of the ids in `new` less `frequency` for each time that one is there, and less `presence`."""
    ids, counts = np.unique(new, return_counts=True)
    penalized = scores.copy()
    penalized[ids] -= (frequency * counts + presence).astype(scores.dtype)
    return penalized


def repeating(ids: Ids, size: int) -> Ids:
    """The tokens behind `ids` that would end a group of `size` tokens that is there already."""
    if len(ids) < size:
        return ids[:0]
    groups = sliding_window_view(ids, size)
    same: NDArray[np.bool_] = (groups[:, :-1] == ids[len(ids) - size + 1 :]).all(-1)
    ends: Ids = groups[same, -1]
    return ends


def completing(ids: Ids, words: Iterable[Sequence[int]]) -> list[int]:
    """The tokens behind `ids` that would end one of the `words`, each of one token or more."""
    return [
        word[-1]
        for word in words
        if len(word) <= 1 + len(ids) and ids[1 + len(ids) - len(word) :].tolist() == list(word[:-1])
    ]


def forbid(scores: Scores, ids: Sequence[int] | Ids) -> Scores:
    """Scores without the tokens `ids`."""
    left = scores.copy()
    left[np.asarray(ids, np.int64)] = NEVER
    return left


def force(scores: Scores, ids: Sequence[int]) -> Scores:
    """Scores that leave only the tokens `ids`."""
    only = np.full_like(scores, NEVER)
    only[list(ids)] = 0
    return only


def check_left(scores: Scores) -> float:
    """The greatest score. Raises InvalidInputError where that is of no token."""
    most = float(scores.max(initial=NEVER))
    if not np.isfinite(most):
        raise InvalidInputError(
            f"no token is left to choose, as the best of the scores is {most}: either the options forbid all of them, "
            "or the weights have numbers that are none (nan)"
        )
    return most


@dataclass(frozen=True)
class ScoreRules:
    """What the options say of the scores of a row."""

    options: GenerationOptions
    prompt: int  # its tokens
    room: int  # how many may follow; the last of them may be a forced one

    @property
    def any(self) -> bool:
        """Whether anything is changed at all."""
        options = self.options
        ends = options.eos_token_id and (options.min_length or options.min_new_tokens)
        forced = options.forced_eos_token_id or options.forced_bos_token_id is not None
        suppressed = options.suppress_tokens or options.begin_suppress_tokens or options.bad_words_ids
        penalized = options.repetition_penalty != 1 or options.frequency_penalty or options.presence_penalty
        return bool(options.logit_bias or penalized or options.no_repeat_ngram_size or ends or forced or suppressed)

    def apply(self, scores: Scores, ids: Ids) -> Scores:
        """The scores of what follows `ids`, the prompt and all new tokens."""
        options, length, new = self.options, len(ids), len(ids) - self.prompt
        if options.logit_bias:
            scores = add_bias(scores, options.logit_bias)
        if options.repetition_penalty != 1:
            scores = penalize_repetition(scores, ids, options.repetition_penalty)
        if options.frequency_penalty or options.presence_penalty:
            scores = penalize_use(scores, ids[self.prompt :], options.frequency_penalty, options.presence_penalty)
        if options.no_repeat_ngram_size:
            scores = forbid(scores, repeating(ids, options.no_repeat_ngram_size))
        ends = [token for token in options.eos_token_id if token < len(scores)]
        if options.bad_words_ids:
            words = [word for word in options.bad_words_ids if len(word) > 1 or word[0] not in ends]
            scores = forbid(scores, completing(ids, words))
        if ends and (length < options.min_length or new < options.min_new_tokens):
            scores = forbid(scores, ends)
        if options.forced_bos_token_id is not None and length == 1:
            scores = force(scores, [options.forced_bos_token_id])
        if options.forced_eos_token_id and new == self.room - 1:
            scores = force(scores, options.forced_eos_token_id)
        if options.suppress_tokens:
            scores = forbid(scores, options.suppress_tokens)
        # Where the first new token is a forced one, what may not begin the text may not be the second.
        first = 1 if options.forced_bos_token_id is not None and self.prompt == 1 else 0
        if options.begin_suppress_tokens and new == first:
            scores = forbid(scores, options.begin_suppress_tokens)
        return scores
