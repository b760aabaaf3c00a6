"""How much of what this machine can read the decoding of each contender reads, both measured in one run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from burnish.benchmark.runner import Result
from burnish.runtime.native.speed import Peak, peak, read_bandwidth


@dataclass(frozen=True)
class Bandwidth:
    """Bytes a second that all threads read of a memory as large as what a step reads, by its size; and the peak."""

    of_size: dict[int, float]
    one_thread: float  # of the least of these sizes
    peak: Peak

    def share(self, result: Result) -> float | None:
        """Of what the machine can read, what decoding read; 1 is all of it. None if nobody counted what it reads."""
        read = result.bytes_per_second
        if read is None or result.reads is None:
            return None
        return read / self.of_size[result.reads.step(result.settings)]

    def lines(self) -> list[str]:
        """The machine in words."""
        threads, sizes = self.peak.threads, sorted(self.of_size)
        read = [f"{self.of_size[size] / 1e9:.1f} GB/s of {size / 1e6:.0f} MB" for size in (sizes[0], sizes[-1])]
        return [
            f"{threads} threads read {', and '.join(dict.fromkeys(read))}, over and over; one thread, "
            f"{self.one_thread / 1e9:.1f} of {sizes[0] / 1e6:.0f} MB",
            f"in registers {threads} threads compute {self.peak.together / 1e9:.0f} GFLOP/s, and one "
            f"{self.peak.alone / 1e9:.0f}"
            + (": they share a core, or others use the machine" if self.peak.shares_cores else ""),
        ]


def measure_bandwidth(results: Sequence[Result]) -> Bandwidth | None:
    """Measured now, by the native library, for what each of them reads a step; None if nobody counted that.

    Raises NativeBuildError where the library is not there and cannot be built, UsageError where it does not run.
    """
    sizes = sorted({each.reads.step(each.settings) for each in results if each.reads is not None})
    if not sizes:
        return None
    threads = results[0].settings.threads
    return Bandwidth(
        {size: read_bandwidth(threads, size) for size in sizes}, read_bandwidth(1, sizes[0]), peak(threads)
    )
