"""A program run on random tokens, and its logits in a few numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.table import Table
from torch import Tensor

from burnish.ir.program import Program
from burnish.ir.signature import POSITION
from burnish.passes.verify import SHAPES, logits_of, ragged, random_tokens, relative_difference, run_step

_STEP_SHAPES = ((1, 12), (2, 24))


@dataclass(frozen=True)
class Run:
    """One run: what was fed, and what came out."""

    tokens: tuple[int, int]  # rows, and tokens in each
    pieces: tuple[int, ...]  # how many tokens were fed at a time
    logits: Tensor
    seconds: float
    difference: float | None  # to the run that was fed the same tokens at once, relative to the largest logit


def run_program(program: Program) -> Iterator[Run]:
    """Run a whole program on random tokens (seed 0) of several shapes; a step program each time also in pieces."""
    stepwise = POSITION in program.signature.inputs
    for rows, length in _STEP_SHAPES if stepwise else SHAPES:
        tokens = random_tokens(program, rows, min(length, program.signature.max_length))
        length = tokens.shape[1]
        started = time.perf_counter()
        logits = run_step(program, tokens, [length], length) if stepwise else logits_of(program, tokens)
        yield Run((rows, length), (length,), logits, time.perf_counter() - started, None)
        pieces = ragged(length)
        if stepwise and len(pieces) > 1:
            started = time.perf_counter()
            found = run_step(program, tokens, pieces, length)
            seconds = time.perf_counter() - started
            yield Run((rows, length), tuple(pieces), found, seconds, float(relative_difference(found, logits).max()))


def runs_table(runs: list[Run]) -> Table:
    """A row for each run."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, header_style="bold")
    for name in ("tokens", "fed at\na time", "logits"):
        table.add_column(name, no_wrap=name != "fed at\na time")
    for name in ("mean", "std", "min", "max", "NaN,\ninf", "to\nwhole", "s"):
        table.add_column(name, justify="right")
    for run in runs:
        values = run.logits.double()
        finite = values[values.isfinite()]
        statistics = [finite.mean(), finite.std(correction=0), finite.min(), finite.max()] if finite.numel() else []
        table.add_row(
            f"{run.tokens[0]} x {run.tokens[1]}",
            "all" if len(run.pieces) == 1 else " ".join(map(str, run.pieces)),
            str(list(run.logits.shape)),
            *([f"{float(statistic):.3g}" for statistic in statistics] or ["-"] * 4),
            str(values.numel() - finite.numel()),
            "" if run.difference is None else f"{run.difference:.1e}",
            f"{run.seconds:.2f}",
        )
    return table
