"""The machine that measures: what it is, and how much of it others use meanwhile."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def device() -> str:
    """The processor's name and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name}, {cores()} cores"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _busy_seconds() -> float:
    """Seconds that all cores together were busy since the machine started, time taken by the hypervisor included."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = fields[:8]
    return (user + nice + system + interrupts + soft_interrupts + stolen) / _TICKS


@dataclass
class Watch:
    """Measures, from its making to `others`, the share of the machine that was not idle and not ours."""

    started: float = field(default_factory=time.perf_counter)
    busy: float = field(default_factory=_busy_seconds)
    own: float = field(default_factory=time.process_time)

    def others(self, measured: float) -> float:
        """The share of all cores (0 to 1) that neither this process nor the one measured used.

        `measured` is the CPU time, in seconds, that the measured process used since the watch was made.
        """
        wall = time.perf_counter() - self.started
        spent = _busy_seconds() - self.busy - (time.process_time() - self.own) - measured
        return max(0.0, spent / (wall * (os.cpu_count() or 1)))
