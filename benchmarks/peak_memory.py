"""The most memory that compiling a model with all transforms takes, resident, phase by phase: JSON of megabytes.

python benchmarks/peak_memory.py MODEL TEXT; a process of its own, on Linux.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import burnish

PROCESS = Path("/proc/self")


def peak() -> float:
    """The most since it was asked last, in MB."""
    lines = (PROCESS / "status").read_text().splitlines()
    kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    (PROCESS / "clear_refs").write_text("5")  # begins anew
    return kilobytes * 1024 / 1e6


def main() -> None:
    """Compile, and print the peak of each phase."""
    model, text = sys.argv[1:]
    peaks: dict[str, float] = {}
    phases = ["import"]

    def began(name: str) -> None:
        peaks[phases[-1]] = max(peaks.get(phases[-1], 0.0), peak())
        phases.append(name)

    transforms = [burnish.DropLayers(count=3), burnish.ConvertToGQA(kv_heads=1), burnish.Quantize("int4", group=64)]
    with burnish.compile(model, transforms=transforms, calibration=text, progress=began):
        began("end")
    print(json.dumps(peaks))


if __name__ == "__main__":
    main()
