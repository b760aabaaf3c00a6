"""Native kernels at once, for each instruction set that this machine has."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from burnish.codegen.native.spec import LEVEL, THREADS
from burnish.runtime.native.library import levels


@pytest.fixture(params=levels(), autouse=True, scope="module")
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set, on three threads."""
    found, threads = LEVEL.set(request.param), THREADS.set(3)
    yield request.param
    LEVEL.reset(found)
    THREADS.reset(threads)
