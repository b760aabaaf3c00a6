"""Contenders in turns: one process each, kept alive and told when to run, so that only one runs at a time.

Single timings on a shared machine mean little: rounds are interleaved, repetitions during which other processes took
more than a small share of the machine are dropped and counted, and what is reported is medians.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from burnish.benchmark import worker
from burnish.benchmark.machine import Watch, cores
from burnish.benchmark.worker import Prompts
from burnish.ir.errors import BurnishError, UsageError

DISTURBED = 0.08  # of the machine, used by others: the repetition does not count
_SETTLE = 0.3  # seconds between two contenders: threads that spin while they wait stop spinning
_WARM_UP = 2  # generations that do not count; torch.compile still compiles in the second
Progress = Callable[[str, int, int], None]


class BenchmarkError(BurnishError):
    """A contender could not be started, or stopped before it was done."""


@dataclass(frozen=True)
class Reads:
    """Bytes that a step of decoding reads: all weights once, and of each row what is remembered of its tokens."""

    weights: int
    a_token: int

    def step(self, settings: Settings) -> int:
        """In the middle of what is written."""
        context = settings.prompt_length + settings.new_tokens // 2
        return self.weights + settings.batch * context * self.a_token


@dataclass(frozen=True)
class Entrant:
    """A contender, where its model is, and the Python that has its libraries."""

    name: str
    python: Path
    model: Path
    kind: str = ""  # of worker.CONTENDERS; the name, if it says nothing else
    accuracy: str | None = None  # of burnish's native kernels
    reads: Reads | None = None  # what a step of it reads; None if nobody counted
    trust: str | None = None  # in the native kernels that burnish's artifact brings


@dataclass(frozen=True)
class Settings:
    """What is measured: `batch` prompts of `prompt_length` tokens, then `new_tokens` greedy ones, `repeats` times."""

    prompt_length: int = 512
    new_tokens: int = 64
    repeats: int = 9
    threads: int = field(default_factory=cores)
    vocabulary: int = 1000  # prompts are ids below this
    batch: int = 1  # rows, of different prompts; they are read and written together


@dataclass
class Repetition:
    """One generation of one contender, of all rows."""

    prefill: float  # seconds to the first token
    decode: float  # seconds for the tokens after it
    others: float  # share of the machine that other processes used
    tokens: list[list[int]]

    @property
    def disturbed(self) -> bool:
        return self.others > DISTURBED


@dataclass
class Result:
    """What one contender did."""

    name: str
    versions: dict[str, str]
    repetitions: list[Repetition]
    settings: Settings
    reads: Reads | None = None

    @property
    def kept(self) -> list[Repetition]:
        """The repetitions that count; all of them, if each was disturbed."""
        return [each for each in self.repetitions if not each.disturbed] or self.repetitions

    @property
    def dropped(self) -> int:
        return len(self.repetitions) - len(self.kept)

    @property
    def reliable(self) -> bool:
        """Whether at least three repetitions were undisturbed."""
        return sum(not each.disturbed for each in self.repetitions) >= 3

    @property
    def prefill_tokens_per_second(self) -> float:
        """Of all rows together."""
        read = self.settings.batch * self.settings.prompt_length
        return statistics.median(read / each.prefill for each in self.kept)

    @property
    def decode_tokens_per_second(self) -> float:
        """Of all rows together."""
        written = self.settings.batch * (self.settings.new_tokens - 1)
        return statistics.median(written / each.decode for each in self.kept)

    @property
    def bytes_per_second(self) -> float | None:
        """That decoding reads; None if nobody counted what a step reads."""
        steps = self.decode_tokens_per_second / self.settings.batch
        return None if self.reads is None else self.reads.step(self.settings) * steps


class _Process:
    """A worker."""

    def __init__(self, entrant: Entrant, settings: Settings) -> None:
        self.entrant = entrant
        options: dict[str, Any] = {
            "folder": str(entrant.model),
            "threads": settings.threads,
            "length": settings.prompt_length + settings.new_tokens,
            "batch": settings.batch,
            **({} if entrant.accuracy is None else {"accuracy": entrant.accuracy}),
            **({} if entrant.trust is None else {"trust": entrant.trust}),
        }
        self.complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed in __exit__); a pipe that nobody reads would fill up
        self.process = subprocess.Popen(
            [str(entrant.python), "-P", worker.__file__, entrant.kind or entrant.name, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.complaints,
            text=True,
        )
        self.versions: dict[str, str] = self._answer()["versions"]

    def generate(self, prompts: Prompts, new_tokens: int) -> dict[str, Any]:
        assert self.process.stdin is not None
        request = {"prompts": [list(row) for row in prompts], "new_tokens": new_tokens}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.complaints.seek(0)
            last = "\n".join(self.complaints.read().strip().splitlines()[-8:])
            raise BenchmarkError(f"the contender {self.entrant.name} stopped. The last that it said:\n{last}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> _Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.kill()
        self.process.wait()
        self.complaints.close()


def measure(
    entrants: Sequence[Entrant], settings: Settings, progress: Progress, prompts: Prompts | None = None
) -> list[Result]:
    """Run the contenders in turns, each after a few generations that do not count.

    `prompts` are `batch` rows of `prompt_length` ids; random ones if None. Each contender gets `repeats` undisturbed
    repetitions, or twice as many rounds if the machine is not that quiet.
    Raises BenchmarkError if a contender fails, UsageError if the settings make no sense.
    """
    if settings.new_tokens < 2 or min(settings.prompt_length, settings.repeats, settings.batch) < 1:
        raise UsageError("a benchmark needs a prompt of at least 1 token, 2 new tokens, 1 repetition and 1 row")
    if prompts is None:
        chosen = random.Random(0)
        prompts = [chosen.choices(range(settings.vocabulary), k=settings.prompt_length) for _ in range(settings.batch)]
    elif [len(row) for row in prompts] != [settings.prompt_length] * settings.batch:
        raise UsageError(
            f"the prompts have {' and '.join(str(len(row)) for row in prompts)} tokens, and the settings say "
            f"{settings.batch} of {settings.prompt_length}"
        )
    with ExitStack() as stack:
        processes = []
        results = []
        for entrant in entrants:
            progress(f"starting {entrant.name}", 0, settings.repeats)
            process = stack.enter_context(_Process(entrant, settings))
            progress(f"warming up {entrant.name}", 0, settings.repeats)
            for _ in range(_WARM_UP):
                process.generate(prompts, settings.new_tokens)
            processes.append(process)
            results.append(Result(entrant.name, process.versions, [], settings, entrant.reads))
        for number in range(2 * settings.repeats):
            turns = list(zip(processes, results, strict=True))
            shift = number % len(turns)
            for process, result in turns[shift:] + turns[:shift]:
                if sum(not each.disturbed for each in result.repetitions) >= settings.repeats:
                    continue
                progress(f"{result.name}", min(number, settings.repeats), settings.repeats)
                time.sleep(_SETTLE)
                watch = Watch()
                answer = process.generate(prompts, settings.new_tokens)
                others = watch.others(answer["cpu"])
                repetition = Repetition(answer["prefill"], answer["decode"], others, answer["tokens"])
                result.repetitions.append(repetition)
    return results


def same_tokens(result: Result, other: Result) -> int:
    """How many of the first tokens that both generated are the same in every row."""
    rows = zip(result.repetitions[0].tokens, other.repetitions[0].tokens, strict=True)
    return min(_same(one, two) for one, two in rows)


def _same(one: Sequence[int], two: Sequence[int]) -> int:
    pairs = zip(one, two, strict=True)
    return next((count for count, (first, second) in enumerate(pairs) if first != second), len(one))


def append(file: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Add `lines` to a file of JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as opened:
        opened.writelines(json.dumps(line) + "\n" for line in lines)
