"""All model types, each in a process of its own: `python -m tests.zoo.run [TYPE ...]`.

Results go to build/zoo/BACKEND.jsonl, a line for each type, and from there to docs/zoo.md. Types that already have a
line are not run again unless they are named or `--again` is given: an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

from burnish.runtime.backends import Backend
from tests.zoo.check import Result
from tests.zoo.configs import MODEL_TYPES
from tests.zoo.report import write_page

ROOT = Path(__file__).parents[2]
TIME_LIMIT = 240.0  # seconds a type


def main(arguments: list[str] | None = None) -> int:
    """1 if any type gives wrong answers or failed in a way that is a bug, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="model types; all of transformers' if none is named")
    parser.add_argument("--jobs", type=int, default=2, help="how many at once (2)")
    parser.add_argument("--backend", choices=get_args(Backend), default="native")
    parser.add_argument("--again", action="store_true", help="run types that have a result already, too")
    parser.add_argument("--limit", type=float, default=TIME_LIMIT, help=f"seconds a type ({TIME_LIMIT:.0f})")
    parser.add_argument("--results", type=Path, help="instead of build/zoo/BACKEND.jsonl")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "zoo.md", help="instead of docs/zoo.md")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.types) - set(MODEL_TYPES))
    if unknown:
        parser.error(f"transformers has no causal model types {', '.join(unknown)}")
    path = options.results or ROOT / "build" / "zoo" / f"{options.backend}.jsonl"
    known = read(path)
    todo = options.types or [each for each in MODEL_TYPES if options.again or each not in known]
    run(todo, path, options.backend, options.jobs, options.limit)
    results = [known[each] for each in MODEL_TYPES if each in (known := read(path))]
    if len(results) == len(MODEL_TYPES):
        write_page(options.page, results, options.backend)
    else:
        print(f"{len(results)} of {len(MODEL_TYPES)} types have results: {options.page.name} is written when all have")
    return any(result.outcome in ("MISMATCH", "failed") for result in results)


def read(path: Path) -> dict[str, Result]:
    """The last result of each type."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines() if line]
    return {line["type"]: Result(**line) for line in lines}


def run(types: Iterable[str], path: Path, backend: str, jobs: int, limit: float) -> None:
    """Check types, `jobs` at once, and append each result to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    types = list(types)
    lock = threading.Lock()
    done = 0

    def one(model_type: str) -> None:
        nonlocal done
        result = check_apart(model_type, backend, limit)
        with lock:
            done += 1
            with path.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(result)) + "\n")
            states = " ".join(f"{count} {kind}" for kind, count in result.states.items())
            told = f"{result.difference:.0e} {states}" if result.outcome == "match" else result.reason[:150]
            print(
                f"{done:3}/{len(types)} {model_type:24} {result.outcome:12} {result.seconds:5.1f} s  {told}", flush=True
            )

    with ThreadPoolExecutor(jobs) as pool:
        for future in [pool.submit(one, model_type) for model_type in types]:
            future.result()


def check_apart(model_type: str, backend: str, limit: float) -> Result:
    """`check` in a process of its own, which is ended at the time limit."""
    command = [sys.executable, "-m", "tests.zoo.check", model_type, "--backend", backend]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # so that what it started ends with it
    )
    try:
        output, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Result(model_type, "timed out", reason=f"after {limit:.0f} s", seconds=limit)
    lines = output.strip().splitlines()
    if process.returncode == 0 and lines and lines[-1].startswith("{"):
        return Result(**json.loads(lines[-1]))
    seconds = round(time.perf_counter() - started, 1)
    last = errors.strip().splitlines()[-1:] or [""]
    reason = f"the process ended with {process.returncode}: {last[0]}"
    return Result(model_type, "failed", "Crash", reason, seconds=seconds, detail=errors[-4000:])


if __name__ == "__main__":
    sys.exit(main())
