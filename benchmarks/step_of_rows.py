"""How long a step of several new tokens of one sequence takes, over one: what checking drafts of them costs.

`benchmarks/cpu.py rows` measures it, by the runtime, in one process.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.table import Table

import burnish
from burnish.benchmark.machine import Watch, device
from burnish.benchmark.runner import DISTURBED, Entrant, Settings

COUNTS = (1, 2, 4, 8)
_STEPS = 16  # of each in a round, so that what others use of the machine meanwhile can be told


@dataclass
class Round:
    """Seconds of a step, by the number of tokens, and the share of the machine that others used meanwhile."""

    seconds: dict[int, float]
    others: float


@dataclass
class Timing:
    """Of one contender."""

    name: str
    rounds: list[Round] = field(default_factory=list)

    @property
    def undisturbed(self) -> list[Round]:
        return [each for each in self.rounds if each.others <= DISTURBED]

    @property
    def kept(self) -> list[Round]:
        """The rounds that count; all of them, if each was disturbed."""
        return self.undisturbed or self.rounds

    @property
    def reliable(self) -> bool:
        """Whether at least three rounds were undisturbed."""
        return len(self.undisturbed) >= 3

    def seconds(self, count: int) -> float:
        """The median."""
        return statistics.median(each.seconds[count] for each in self.kept)


def measure_steps(entrants: Sequence[Entrant], settings: Settings) -> list[Timing]:
    """Behind `prompt_length` tokens, in turns, after a round that does not count: `repeats` undisturbed rounds of each,
    or twice as many if the machine is not that quiet.
    """
    chosen = random.Random(0)
    prompt = chosen.choices(range(settings.vocabulary), k=settings.prompt_length)
    new = chosen.choices(range(settings.vocabulary), k=max(COUNTS))
    timings = [Timing(entrant.name) for entrant in entrants]
    with ExitStack() as stack:
        sessions = []
        for entrant in entrants:
            model = stack.enter_context(
                burnish.load(entrant.model, threads=settings.threads, accuracy=entrant.accuracy)  # type: ignore[arg-type]
            )
            session = model.session(capacity=len(prompt) + max(COUNTS))
            session.feed([prompt])
            sessions.append(session)
            _round(session, new)
        for _ in range(2 * settings.repeats):
            for session, timing in zip(sessions, timings, strict=True):
                if len(timing.undisturbed) < settings.repeats:
                    watch = Watch()
                    found = _round(session, new)
                    timing.rounds.append(Round(found, watch.others(measured=0.0)))
    return timings


def _round(session: Any, new: list[int]) -> dict[int, float]:
    length, found = session.lengths[0], {}
    for count in COUNTS:
        times = []
        for _ in range(_STEPS):
            started = time.perf_counter()
            session.feed([new[:count]], every=True, wanted="ids")
            times.append(time.perf_counter() - started)
            session.rewind(length)
        found[count] = statistics.median(times)
    return found


def view(timings: Sequence[Timing], settings: Settings) -> Table:
    """A row for each contender."""
    table = Table("", "1 token, ms", *(f"{count} tokens" for count in COUNTS[1:]), "kept", "dropped")
    for timing in timings:
        one = timing.seconds(1)
        table.add_row(
            timing.name if timing.reliable else f"{timing.name} (disturbed)",
            f"{1e3 * one:.2f}",
            *(f"{timing.seconds(count) / one:.2f} ×" for count in COUNTS[1:]),
            str(len(timing.kept)),
            str(len(timing.rounds) - len(timing.kept)),
        )
    table.caption = f"behind {settings.prompt_length} tokens, {settings.threads} threads; {device()}"
    return table


def records(timings: Sequence[Timing], settings: Settings, model: str) -> list[dict[str, Any]]:
    """A run as lines of a results file, of one date."""
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return [
        {
            "date": date,
            "device": device(),
            "scenario": "rows",
            "model": model,
            "contender": timing.name,
            "versions": {"burnish": burnish.__version__},
            "settings": asdict(settings),
            "milliseconds": {str(count): round(1e3 * timing.seconds(count), 3) for count in COUNTS},
            "dropped": len(timing.rounds) - len(timing.kept),
            "reliable": timing.reliable,
            "repetitions": [
                {
                    **{str(count): round(1e3 * time, 3) for count, time in each.seconds.items()},
                    "others": round(each.others, 3),
                }
                for each in timing.rounds
            ],
        }
        for timing in timings
    ]
