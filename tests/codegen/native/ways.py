"""The ways in which kernels are tested: the best instruction set of this machine and plain C++, alone and in a team."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from burnish.codegen.native.spec import LEVEL, THREADS
from burnish.runtime.native.library import levels

Way = tuple[str | None, int]

PLAIN = levels()[-1]
ways: st.SearchStrategy[Way] = st.tuples(st.sampled_from([None, PLAIN]), st.sampled_from([1, 3]))
ALL: list[Way] = [(None, 1), (None, 3), (PLAIN, 1), (PLAIN, 3)]

cases = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@contextmanager
def by(way: Way) -> Iterator[None]:
    """Within it kernels run by that instruction set, on that many threads."""
    level, threads = LEVEL.set(way[0]), THREADS.set(way[1])
    try:
        yield
    finally:
        LEVEL.reset(level)
        THREADS.reset(threads)
