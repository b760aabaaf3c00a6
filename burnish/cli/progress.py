"""How far a compilation is: a bar at a terminal, and elsewhere a line a phase with its seconds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from burnish.cli.console import err

# Of the time of a compilation, in the order in which phases come: of SmolLM2-135M for native kernels, on two processors
# that others used, too. Other models and machines have others: what is left is said roughly.
_SHARES = {"capture": 0.2, "passes": 0.27, "transform": 0.0, "lower": 0.04, "write": 0.15, "load": 0.01, "verify": 0.33}

_PASS = re.compile(r"pass (.+) \((\d+) of (\d+)\)")


class Estimate:
    """From what is done, and the time that it took, what is left."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._before = 0.0  # the share of the phases that ended
        self._phase = ""
        self._within = 0.0  # of the phase

    def begin(self, what: str) -> None:
        """What `burnish.compile` says that begins: a phase, or a pass in one."""
        found = _PASS.fullmatch(what)
        if found is not None:
            self._within = (int(found[2]) - 1) / int(found[3])
        elif what in _SHARES:
            names = list(_SHARES)
            self._before = max(self._before, sum(_SHARES[name] for name in names[: names.index(what)]))
            self._phase, self._within = what, 0.0

    @property
    def done(self) -> float:
        """From 0 to 1."""
        return min(1.0, self._before + _SHARES.get(self._phase, 0.0) * self._within)

    def left(self) -> str:
        """In words; nothing while there is little to go by."""
        if self.done < 0.2:
            return ""
        seconds = (self._clock() - self._started) * (1 - self.done) / self.done
        return f"about {seconds:.0f} s left" if seconds < 90 else f"about {seconds / 60:.0f} min left"


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """What `burnish.compile` takes as `progress`, shown while this lasts."""
    if err.is_terminal:
        with _bar() as begin:
            yield begin
    else:
        lines = _Lines()
        yield lines.begin
        lines.end()


@contextmanager
def _bar() -> Iterator[Callable[[str], None]]:
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", style="dim"),
    )
    estimate = Estimate()
    with Progress(*columns, console=err, transient=True) as shown:
        task = shown.add_task("starting", total=1.0, left="")

        def begin(what: str) -> None:
            estimate.begin(what)
            shown.update(task, description=what, completed=estimate.done, left=estimate.left())

        yield begin


class _Lines:
    """A phase is told when it ends."""

    def __init__(self) -> None:
        self._phase, self._started = "", time.perf_counter()

    def begin(self, what: str) -> None:
        if _PASS.fullmatch(what) is None:
            self.end()
            self._phase, self._started = what, time.perf_counter()

    def end(self) -> None:
        if self._phase:
            err.print(f"{self._phase}: {time.perf_counter() - self._started:.1f} s", markup=False)
        self._phase = ""
