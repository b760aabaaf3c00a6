"""One model type: built, compiled, and run in every way, against transformers' own eager logits.

`python -m tests.zoo.check TYPE` prints the outcome as one line of JSON.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import logging
import sys
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

import burnish
from burnish.ir.errors import BurnishError, CaptureError, InvalidModelError, VerificationError
from burnish.runtime.backends import Backend
from burnish.runtime.model import CompiledModel
from tests.zoo.configs import build, vocabulary
from tests.zoo.overrides import UNUSABLE

Outcome = Literal[
    "match",  # all logits and tokens are transformers' own
    "refused",  # burnish says why it cannot
    "not captured",  # torch.export cannot trace it with symbolic sizes
    "not built",  # no model of this type maps token ids to logits alone
    "timed out",
    "failed",  # an error that is not burnish's own, or burnish's own check caught a difference: a bug, and no answer
    "ill-conditioned",  # other logits, and transformers' own in float64 are others again
    "MISMATCH",  # a wrong answer: must never be
]
TOLERANCE = 1e-4  # of the largest logit
BATCH, LENGTH, NEW = 2, 40, 12


@dataclass
class Result:
    """What became of a type."""

    type: str
    outcome: Outcome
    error: str = ""  # its class
    reason: str = ""  # the first line of its message
    states: dict[str, int] = field(default_factory=dict)  # kind -> how many
    difference: float = 0.0  # the largest, over the largest logit
    seconds: float = 0.0
    by_torch: int = 0  # operations that the backend has no kernel for
    detail: str = ""  # a traceback, or where the numbers part


class Different(Exception):
    """The compiled model gives other numbers than transformers."""


def check(model_type: str, backend: Backend = "native") -> Result:
    """Build, compile and compare one type. Never raises: what goes wrong is the outcome."""
    started = time.perf_counter()
    result = _check(model_type, backend)
    result.seconds = round(time.perf_counter() - started, 1)
    return result


def _check(model_type: str, backend: Backend) -> Result:
    if model_type in UNUSABLE:
        return Result(model_type, "not built", reason=UNUSABLE[model_type])
    try:
        model = build(model_type)
        model.generation_config = GenerationConfig()  # no token is suppressed or forced
        with torch.no_grad():
            eager_logits(model, sample(model, 3))
    except Exception as error:  # transformers' own code may raise anything
        return _stopped(model_type, "not built", error)
    try:
        compiled = burnish.compile(model, backend=backend)
    except (CaptureError, InvalidModelError) as error:
        return _stopped(model_type, "not captured", error)
    except VerificationError as error:
        return _stopped(model_type, "failed", error)
    except BurnishError as error:
        return _stopped(model_type, "refused", error)
    except Exception as error:
        return _stopped(model_type, "failed", error)
    with compiled:
        states = dict(Counter(state.kind.value for state in compiled.artifact.states))
        by_torch = sum("runs by PyTorch" in note for note in compiled.trace.passes[-1].notes)
        try:
            difference = compare(model, compiled)
        except Different as different:
            noise = _noise(model)
            outcome: Outcome = "MISMATCH" if noise <= TOLERANCE else "ill-conditioned"
            reason = f"{different}; transformers' own in float64 differ by {noise:.1e}"
            return Result(model_type, outcome, reason=reason, states=states)
        except Exception as error:
            return dataclasses.replace(_stopped(model_type, "failed", error), states=states)
    return Result(model_type, "match", states=states, difference=difference, by_torch=by_torch)


def _stopped(model_type: str, outcome: Outcome, error: Exception) -> Result:
    text = str(error).strip()
    expected = isinstance(error, BurnishError) and not isinstance(error, VerificationError)
    detail = "" if expected else traceback.format_exc()
    if isinstance(error, CaptureError):
        detail = text
    return Result(model_type, outcome, type(error).__name__, text.splitlines()[0] if text else "", detail=detail)


# ---------------------------------------------------------------- comparison


def sample(model: PreTrainedModel, seed: int, length: int = LENGTH) -> Tensor:
    """Random ids [BATCH, length] of the whole vocabulary, padding and end-of-text among them."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(vocabulary(model), (BATCH, length), generator=generator)


@torch.no_grad()
def eager_logits(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits [b, s, vocabulary] of transformers' own forward, without a cache."""
    logits: Tensor = model(input_ids=ids, use_cache=False).logits
    return logits.float()


def compare(model: PreTrainedModel, compiled: CompiledModel) -> float:
    """The largest difference from eager logits, relative to the largest logit. Raises Different."""
    ids, other = sample(model, 3), sample(model, 4)
    expected = eager_logits(model, ids)
    worst = _close("the whole sequence", compiled(ids), expected)

    session = compiled.session(BATCH)
    single = [session.append(ids[:, i : i + 1], every=True) for i in range(LENGTH)]
    worst = max(worst, _close("token by token", torch.cat(single, 1), expected))

    session = compiled.session(BATCH)
    ragged = [session.append(piece, every=True) for piece in ids.split([7, 1, 2, 13, 1, 16], dim=1)]
    worst = max(worst, _close("ragged pieces", torch.cat(ragged, 1), expected))

    session.rewind(23)
    changed = torch.cat((ids[:, :23], other[:, 23:]), 1)
    after = [session.append(piece, every=True) for piece in other[:, 23:].split([1, 9, 7], dim=1)]
    worst = max(worst, _close("after a rewind to 23", torch.cat(after, 1), eager_logits(model, changed)[:, 23:]))

    _compare_generation(model, compiled, [ids[0, :19].tolist(), ids[1, :11].tolist()])
    return worst


def _noise(model: PreTrainedModel) -> float:
    """How far transformers' own logits in float64 are from those in float32, relative to the largest."""
    ids = sample(model, 3)
    expected = eager_logits(model, ids)
    return float((eager_logits(copy.deepcopy(model).double(), ids) - expected).abs().max() / expected.abs().max())


def _close(what: str, found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        raise Different(f"{what}: logits {tuple(found.shape)}, not {tuple(expected.shape)}")
    scale = max(1.0, float(expected.abs().max()))
    difference = (found.float() - expected).abs().amax(dim=(0, 2)) / scale
    worst = float(difference.max())
    if not worst <= TOLERANCE:  # also true for NaN
        first = int((~(difference <= TOLERANCE)).nonzero()[0])
        raise Different(f"{what}: relative difference {worst:.1e}, first at token {first} of {len(difference)}")
    return worst


def _compare_generation(model: PreTrainedModel, compiled: CompiledModel, prompts: list[list[int]]) -> None:
    """Greedy tokens of prompts of unequal length, against running transformers' forward again for each token."""
    found = compiled.generate(prompts, max_new_tokens=NEW, do_sample=False).tokens
    for row, (prompt, tokens) in enumerate(zip(prompts, found, strict=True)):
        if len(tokens) != NEW:
            raise Different(f"generation: {len(tokens)} tokens, not {NEW}, in row {row}")
        for count, token in enumerate(tokens):
            logits = eager_logits(model, torch.tensor([prompt + tokens[:count]]))[0, -1]
            short = float(logits.max() - logits[token])
            if not short <= TOLERANCE * max(1.0, float(logits.abs().max())):  # equal but for a tie
                raise Different(f"generation: token {token}, not {int(logits.argmax())}, at {count} of row {row}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("type")
    parser.add_argument("--backend", choices=get_args(Backend), default="native")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(options.threads)
    result: dict[str, Any] = dataclasses.asdict(check(options.type, options.backend))
    print(json.dumps(result))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
