"""How much of what this machine can read a model's decoding reads, both measured in one run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from burnish.benchmark.runner import Result, Settings
from burnish.ir.states import CONTEXT
from burnish.runtime.artifact import Artifact
from burnish.runtime.native.speed import Peak, peak, read_bandwidth


@dataclass(frozen=True)
class Bandwidth:
    """Bytes that one more token has to read, how many a second the machine reads, and what it computes."""

    bytes_a_token: int
    one_thread: float
    all_threads: float
    peak: Peak

    def share(self, result: Result) -> float:
        """Of what all threads can read, what decoding read; 1 is all of it."""
        return self.bytes_a_token * result.decode_tokens_per_second / self.all_threads

    def lines(self) -> list[str]:
        """The machine in words."""
        threads = self.peak.threads
        return [
            f"a token reads {self.bytes_a_token / 1e6:.0f} MB; of as many, over and over, {threads} threads read "
            f"{self.all_threads / 1e9:.1f} GB/s, and one {self.one_thread / 1e9:.1f}",
            f"in registers {threads} threads compute {self.peak.together / 1e9:.0f} GFLOP/s, and one "
            f"{self.peak.alone / 1e9:.0f}"
            + (": they share a core, or others use the machine" if self.peak.shares_cores else ""),
        ]


def native_bandwidth(path: Path, settings: Settings) -> Bandwidth | None:
    """Measured now, by the native library: None for artifacts that are not for it."""
    artifact = Artifact.open(path)
    if artifact.manifest.target != "native":
        return None
    size = bytes_a_token(artifact, settings)
    threads = settings.threads
    return Bandwidth(size, read_bandwidth(1, size), read_bandwidth(threads, size), peak(threads))


def bytes_a_token(artifact: Artifact, settings: Settings) -> int:
    """In the middle of what is written: the weights, once each, and the caches up to there."""
    last = artifact.trace().passes[-1]
    context = settings.prompt_length + settings.new_tokens // 2
    return last.floor_bytes + (context - CONTEXT) * last.bytes_a_token
