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
import torch._dynamo.config

from tests.fuzz.cases import Outcome, counted, examine, smallest, way_of
from tests.fuzz.draw import drawn

BATCH = 50


def main(arguments: list[str] | None = None) -> int:
    """1 if there is any wrong answer, or an error that is not burnish's to raise, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--examples", type=int, default=100_000, help="how many cases, at most")
    parser.add_argument("--seed", type=int, default=0, help="which cases are drawn")
    parser.add_argument("--minutes", type=float, default=24 * 60.0, help="how long, at most")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch._dynamo.config.fake_tensor_cache_enabled = False  # as in tests/conftest.py
    until = time.monotonic() + 60 * options.minutes
    outcomes: Counter[Outcome] = Counter()
    failures: dict[str, str] = {}  # by their way: the first of its kind, shrunk
    done = failed = 0
    while done < options.examples and time.monotonic() < until:
        for case in drawn(options.seed * 10_000 + done // BATCH, min(BATCH, options.examples - done)):
            if time.monotonic() > until:
                break
            done += 1
            try:
                outcomes[examine(case)] += 1
            except AssertionError as error:
                failed += 1
                if way_of(error) not in failures:
                    print(f"failed: {error}\n  {case!r}", flush=True)
                    failures[way_of(error)] = f"failed: {error}\n  {smallest(case, error)!r}"
        print(f"{done} cases: {counted(outcomes).splitlines()[0]}, {failed} failed", flush=True)
    print(f"seed {options.seed}, {done} cases, {failed} failed in {len(failures)} ways")
    print(counted(outcomes))
    for text in failures.values():
        print(text)
    return int(failed > 0)


sys.exit(main())
