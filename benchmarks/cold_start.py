"""How long `burnish run` takes from its start to the first word of its answer, and the memory that it has by then.

python benchmarks/cold_start.py model.burnish [options of burnish run]

Processes of their own, one after the other, files in the system's cache. Python's own cache of compiled modules
(__pycache__) is written by the first, which is not counted.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

RUNS = 15


def run(artifact: str, options: list[str]) -> tuple[float, float, dict[str, float]]:
    """Seconds to the first word, seconds of processors in all, megabytes by kind at the first word."""
    words = ["run", artifact, "Why is the sky blue?", "-n", "32", "--temperature", "0", *options]
    started = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-m", "burnish.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert child.stdout is not None
    child.stdout.read(1)
    seconds = time.perf_counter() - started
    process = Path(f"/proc/{child.pid}")
    status = dict(line.split(":") for line in (process / "status").read_text().splitlines() if line.startswith("Rss"))
    memory = {name: int(size.split()[0]) / 1000 for name, size in status.items()}
    ticks = process.joinpath("stat").read_text().rpartition(")")[2].split()[11:13]
    child.stdout.read()
    assert child.wait() == 0
    return seconds, sum(map(int, ticks)) / 100, memory


def main() -> None:
    """Print the figures."""
    artifact, *options = sys.argv[1:]
    run(artifact, options)
    found = [run(artifact, options) for _ in range(RUNS)]
    seconds, processors, memory = zip(*found, strict=True)
    print(f"first word after {min(seconds):.2f} s (least), {statistics.median(seconds):.2f} s (median of {RUNS})")
    print(f"processors' time by then: {min(processors):.2f} s (least)")
    print(f"memory: {memory[0]['RssAnon']:.0f} MB of its own, {memory[0]['RssFile']:.0f} MB mapped from files")


if __name__ == "__main__":
    main()
