"""The page that says what became of every model type."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from tests.zoo.check import BATCH, LENGTH, NEW, Result

_MEANING = {
    "match": "compiled; all logits and greedy tokens are transformers' own",
    "refused": "burnish says which operation it cannot make incremental, and where it is",
    "not captured": "`torch.export` cannot trace it for any length",
    "not built": "no model of this type maps token ids to logits alone",
    "timed out": "too slow to compile or to run",
    "failed": "an error that should not be; no answer was given",
    "ill-conditioned": "rounding moves the logits of transformers itself by more than that",
    "MISMATCH": "a wrong answer",
}


def write_page(path: Path, results: Sequence[Result], backend: str) -> None:
    """Write the page of all `results`."""
    counts = Counter(result.outcome for result in results)
    lines = [
        "# The model zoo",
        "",
        f"Every model type that transformers {transformers.__version__} maps to a causal language model "
        f"({len(results)} types), with torch {torch.__version__.split('+')[0]} and the {backend} backend. Each is "
        "built tiny with random weights (one layer of every kind, windows and chunks of 8 tokens), compiled with "
        f"`burnish.compile`, and compared with transformers' eager attention in float32: {BATCH} x {LENGTH} tokens as "
        f"a whole, token by token, in ragged pieces and after a rewind, to 1e-4 of the largest logit; then {NEW} "
        "greedy tokens of two prompts of unequal length.",
        "",
        "This page is written by `make zoo`.",
        "",
        "| outcome | types | |",
        "|---|---:|---|",
    ]
    lines += [f"| {outcome} | {counts[outcome]} | {meaning} |" for outcome, meaning in _MEANING.items()]
    matched = [result for result in results if result.outcome == "match"]
    whole = sum(not result.by_torch for result in matched)
    lines += [
        "",
        f"Of the {len(matched)} that match, {whole} run by the backend alone, and the others by PyTorch, too.",
    ]
    lines += ["", "| type | outcome | remembers | largest difference, or the reason | operations by PyTorch |"]
    lines += ["|---|---|---|---|---:|"]
    lines += [_row(result) for result in results]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def _row(result: Result) -> str:
    states = ", ".join(f"{count} {kind}" for kind, count in sorted(result.states.items()))
    told = f"{result.difference:.0e}" if result.outcome == "match" else _reason(result)
    return f"| {result.type} | {result.outcome} | {states} | {told} | {result.by_torch or ''} |"


def _reason(result: Result) -> str:
    """The reason in one cell: no paths of this machine, nothing that Markdown reads."""
    text = re.sub(r"(?<![\w.])/[\w./@+-]*/([\w.-]+\.py)", r"\1", result.reason)
    text = text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
    return f"{result.error}: {text}" if result.error else text
