"""Draws cases for as long as one likes: `python -m tests.fuzz --examples 5000 --seed 1`, or `--minutes 60`.

Prints how many compiled and gave what eager does, how many were refused and why, and each failure with its case,
shrunk. The exit code is 1 if there is a failure.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.cases import Case, Outcome, counted, examine, plain
from tests.fuzz.draw import cases
from tests.fuzz.shrink import shrink

BATCH = 50  # cases a run of hypothesis, which draws those of one run unlike each other


def main(arguments: list[str] | None = None) -> int:
    """1 if there is any wrong answer, or an error that is not burnish's to raise, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=100_000, help="how many cases, at most")
    parser.add_argument("--seed", type=int, default=0, help="which cases are drawn")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="how long, at most")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run = _Run(time.monotonic() + 60 * options.minutes)
    number = 0
    while run.drawn < options.examples and run.on_time():
        run.batch(options.seed * 1_000_000 + number, min(BATCH, options.examples - run.drawn))
        number += 1
        print(f"{run.drawn} cases: {counted(run.outcomes).splitlines()[0]}, {run.failed} failed", flush=True)
    print(f"seed {options.seed}, {run.drawn} cases, {run.failed} failed in {len(run.failures)} ways")
    print(counted(run.outcomes))
    for text in run.failures.values():
        print(text)
    return int(run.failed > 0)


class _Run:
    def __init__(self, until: float) -> None:
        self.until = until
        self.drawn = 0
        self.failed = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.failures: dict[str, str] = {}  # by their way: the first of its kind, shrunk

    def on_time(self) -> bool:
        return time.monotonic() < self.until

    def batch(self, number: int, count: int) -> None:
        """Draw and examine `count` cases."""
        drawn: list[Case] = []

        @seed(number)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(cases())
        def draw(case: Case) -> None:
            drawn.append(case)

        draw()
        for case in drawn:
            if not self.on_time():
                return
            self.examine(case)

    def examine(self, case: Case) -> None:
        self.drawn += 1
        try:
            self.outcomes[examine(case)] += 1
            return
        except AssertionError as error:
            way, told = way_of(error), str(error)
        self.failed += 1
        if way in self.failures:
            return
        print(f"failed: {told.splitlines()[0]}\n  {case!r}", flush=True)
        small = shrink(case, lambda other: fails(other, way))
        self.failures[way] = f"failed: {told}\n  {small!r}"
        print(f"  shrunk: {small!r}", flush=True)


def way_of(error: AssertionError) -> str:
    """What failures are told apart by."""
    return plain(str(error))[:60]


def fails(case: Case, way: str) -> bool:
    """Whether a case fails in this way."""
    try:
        examine(case)
    except AssertionError as error:
        return way_of(error) == way
    except Exception:  # a description that makes no module
        return False
    return False


sys.exit(main())
