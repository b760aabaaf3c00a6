"""The fastest tiles of each kernel of a model: every candidate is planned, and timed by whoever can.

A model is planned as it is to be compiled. Each problem that comes up is tried once, with the sizes that are typical of
the variant that it comes up in first, 1,024 tokens into a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from burnish.codegen.plan.launches import RECORDER
from burnish.codegen.plan.recorder import Recorder
from burnish.codegen.triton.lower import plan
from burnish.codegen.triton.spec import KernelSpec, kernels_of
from burnish.codegen.triton.tile_file import Winner
from burnish.codegen.triton.tiles import TUNER, Problem, Target, Tiles
from burnish.ir.errors import UsageError
from burnish.ir.program import Program
from burnish.runtime.plan import Launch

CONTEXT = 1024  # tokens that are in the cache already
# A candidate has to be faster than the table's tiles by so much: less is within what two measurements differ.
LEAST_GAIN = 0.03


@dataclass(frozen=True)
class Trial:
    """A problem with one candidate: the launches, their kernels by key, and the sizes to launch them with."""

    problem: Problem
    tiles: Tiles
    launches: tuple[Launch, ...]
    kernels: Mapping[str, KernelSpec]
    sizes: Mapping[str, int]


Measure: TypeAlias = Callable[[Sequence[Trial]], list[float | None]]
"""Of trials of one problem, the seconds that each takes; None where it does not fit the GPU."""


@dataclass
class Collector:
    """A `Tuner` that notes the trials of each problem, the table's tiles first."""

    trials: dict[str, list[Trial]] = field(default_factory=dict)

    def offer(self, problem: Problem, candidates: tuple[Any, ...], launch: Callable[[Any], object]) -> None:
        """Record a launch with each candidate, and take it out of the plan again."""
        recorder = RECORDER.get()
        assert isinstance(recorder, Recorder), "tuning is of what is planned"
        if problem.key in self.trials:
            return
        sizes = {**recorder.typical, "capacity": CONTEXT + recorder.typical["sequence"]}
        found = self.trials[problem.key] = []
        for tiles in candidates:
            mark = recorder.mark()
            launch(tiles)
            launches = tuple(step for step in recorder.steps[mark[0] :] if isinstance(step, Launch))
            recorder.back_to(mark)
            kernels = kernels_of({each.kernel: recorder.specs[each.kernel] for each in launches})
            found.append(Trial(problem, tiles, launches, kernels, sizes))


def trials_of(program: Program, target: Target) -> list[list[Trial]]:
    """The trials of each problem of a step program."""
    collector = Collector()
    token = TUNER.set(collector)
    try:
        plan(program, target)
    finally:
        TUNER.reset(token)
    return list(collector.trials.values())


def fastest(trials: Sequence[Trial], measure: Measure) -> Winner:
    """The winner of the trials of one problem. Raises UsageError where the table's own tiles do not fit the GPU."""
    seconds = measure(trials)
    table = seconds[0]
    if table is None:
        raise UsageError(f"the kernel for {trials[0].problem.key} does not fit this GPU: it cannot be tuned there")
    best, least = 0, table * (1 - LEAST_GAIN)
    for number, each in enumerate(seconds):
        if each is not None and each < least:
            best, least = number, each
    found = seconds[best]
    assert found is not None
    return Winner(trials[best].tiles, found * 1e6, table * 1e6)
