"""The processors that this process may run on."""

from __future__ import annotations

import os


def processors() -> int:
    """How many there are.

    ONNX Runtime's own default is the number of physical cores; on a cloud machine with two processors that are said to
    share a core that is one, and half the speed.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
