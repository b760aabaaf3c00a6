"""How likely a model finds tokens: log-probabilities by its own scores, before any option changed them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from burnish.runtime.score_rules import Scores


@dataclass(frozen=True)
class TokenLogprobs:
    """Of one place of a text."""

    token: int  # what stands there
    logprob: float  # the natural logarithm of its probability
    top: dict[int, float]  # the same of the likeliest tokens, the likeliest first


def log_probabilities(logits: Scores) -> Scores:
    """The logarithms of softmax(logits[..., vocabulary]), in float32."""
    scores = logits.astype(np.float32, copy=False)
    scores = scores - scores.max(-1, keepdims=True)
    total = np.exp(scores).sum(-1, keepdims=True, dtype=np.float64)
    found: Scores = scores - np.log(total).astype(np.float32)
    return found


def of_token(known: Scores, token: int, count: int) -> TokenLogprobs:
    """A token by the log-probabilities [vocabulary] of its place, with those of the `count` likeliest."""
    count = min(count, len(known))
    ids = np.argpartition(known, len(known) - count)[len(known) - count :] if count else np.zeros(0, np.int64)
    ids = np.sort(ids)[np.argsort(-known[np.sort(ids)], kind="stable")]
    return TokenLogprobs(token, float(known[token]), dict(zip(ids.tolist(), known[ids].tolist(), strict=True)))


def of_tokens(logits: Scores, tokens: Sequence[int], count: int) -> list[TokenLogprobs]:
    """Tokens by the logits [n, vocabulary] of their places."""
    return [of_token(log_probabilities(row), token, count) for row, token in zip(logits, tokens, strict=True)]
