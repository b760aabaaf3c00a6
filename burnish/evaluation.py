"""`evaluate`: compiled models on text, beside one another."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from burnish.calibration_text import Text, text_ids
from burnish.ir.errors import InvalidInputError, UsageError
from burnish.passes.transforms.calibration import windows
from burnish.passes.transforms.quality import Quality, compared, summed
from burnish.runtime.model import CompiledModel

_LENGTH = 512  # tokens of a window
_LEAST = 16  # tokens of a text that says anything
_STEPS = 65


@dataclass(frozen=True)
class Evaluation:
    """A compiled model on a text, next to the first of those that were evaluated with it."""

    quality: Quality
    weight_bytes: int  # as they are stored in the artifact
    cache_bytes_a_token: int  # that a token adds to the states of one row
    tokens_per_second: float  # of writing, one row, after a window of the text; the median of 64 steps


def evaluate(models: Sequence[CompiledModel], text: Text, most: int | None = None) -> list[Evaluation]:
    """Each model on `text`, in windows of 512 tokens (or as many as all models take), at most `most` windows.

    `text` is a file's path, a list of texts, or token ids; the first model's tokenizer reads it, and the first model
    is what the others' next-token distributions are compared with. Raises UsageError for models of different
    vocabularies, InvalidInputError for text that is empty, too short, or none.
    """
    if not models:
        raise UsageError("there is no model to evaluate")
    sizes = [model.signature.vocabulary for model in models]
    if len(set(sizes)) > 1:
        raise UsageError(f"the models have vocabularies of {' and '.join(map(str, sizes))} tokens: compare others")
    ids, first = text_ids(text, models[0].tokenizer)
    wrong = [each for each in ids if not 0 <= each < models[0].signature.token_limit]
    if wrong:
        raise InvalidInputError(
            f"the text has the id {wrong[0]}: the models know {models[0].signature.token_limit} ids"
        )
    if len(ids) < _LEAST:
        raise InvalidInputError(f"the text has {len(ids)} tokens, and at least {_LEAST} are needed")
    length = min(_LENGTH, len(ids) + len(first), *(model.signature.max_length for model in models))
    tokens = windows(ids, length, first)[:most]
    sums = torch.zeros(len(models), 3, dtype=torch.float64)
    for window in tokens:
        logits = [model(window[None])[0, :-1] for model in models]
        sums += torch.stack(compared(logits, window[1:]))
    qualities = summed(sums, tokens.shape[0] * (length - 1))
    rates = speeds(models, tokens[0])
    return [
        Evaluation(
            quality,
            model.artifact.manifest.weight_bytes,
            sum(state.bytes_a_token for state in model.artifact.states),
            rate,
        )
        for model, quality, rate in zip(models, qualities, rates, strict=True)
    ]


def speeds(models: Sequence[CompiledModel], window: torch.Tensor) -> list[float]:
    """Tokens a second of each model, writing the last 64 of `window`, int64[length], by the median of the steps.

    They take turns, so that a slow moment of the machine is all models' own.
    """
    sessions = [model.session(capacity=len(window)) for model in models]
    prompt = window[: max(1, len(window) - _STEPS)]
    seconds: list[list[float]] = [[] for _ in models]
    for session in sessions:
        session.append(prompt[None], wanted="ids")
    for token in window[len(prompt) :].tolist():
        for session, times in zip(sessions, seconds, strict=True):
            started = time.perf_counter()
            session.step([token], wanted="ids")
            times.append(time.perf_counter() - started)
    # The first step of a session binds its inputs.
    return [1 / statistics.median(times[1:] or times) for times in seconds]
