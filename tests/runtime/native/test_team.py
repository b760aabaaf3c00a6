"""The team of threads: on one processor, for very many steps, and where others use the processors."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import torch

from burnish.ir.errors import UsageError
from burnish.runtime.native.build import SOURCES, compiler
from burnish.runtime.native.launcher import MODULE, NativeLauncher
from burnish.runtime.native.library import best_level, library
from burnish.runtime.native.speed import peak, read_bandwidth
from burnish.runtime.plan import Kernel
from burnish.runtime.plan_runner import BoundLaunch
from burnish.runtime.torch_memory import view_of

HERE = Path(__file__).parent


def program(threads: int, rows: int = 64, size: int = 32) -> tuple[Callable[[], None], torch.Tensor, torch.Tensor]:
    """A program of one kernel, which finds the largest number of each row; what it reads, and writes."""
    x, out = torch.randn(rows, size), torch.zeros(rows, dtype=torch.int64)
    takes = {"x": "*float32", "out": "*int64", "rows": "i64"}
    kernel = Kernel(MODULE, "argmax", takes, {"size": size}, [], 0, 0)  # type: ignore[arg-type]
    launcher = NativeLauncher({"argmax": kernel}, library(best_level()), threads)
    prepared = launcher.prepare([BoundLaunch("argmax", (1, 1, 1), [view_of(x), view_of(out), rows])])

    def run(launcher: NativeLauncher = launcher) -> None:  # which has to stay
        prepared()

    return run, x, out


def test_when_a_team_gives_way_to_one_thread(tmp_path: Path) -> None:
    found, built = compiler(), tmp_path / "pace"
    assert found is not None
    source = str(HERE / "pace.cpp")
    command = [found, "-std=c++17", "-O1", "-pthread", "-Wno-psabi", "-I", str(SOURCES), source, "-o", str(built)]
    subprocess.run(command, check=True)
    done = subprocess.run([built], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_hundred_thousand_steps_leave_nothing_behind() -> None:
    run, x, out = program(threads=2)
    process = psutil.Process()
    before = 0
    for step in range(100_000):
        run()
        if step == 10_000:
            before = process.memory_info().rss
    assert process.memory_info().rss - before < 3_000_000  # 33 bytes a step: less than any object of Python's
    assert torch.equal(out, x.argmax(1))


def _on_one_processor(results: multiprocessing.SimpleQueue[bool]) -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    run, x, out = program(threads=3)
    for _ in range(20):
        x.normal_()
        run()
        results.put(torch.equal(out, x.argmax(1)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_three_threads_on_one_processor() -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.SimpleQueue[bool] = context.SimpleQueue()
    child = context.Process(target=_on_one_processor, args=(results,))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert all(results.get() for _ in range(20))


def test_teams_in_turns_and_side_by_side() -> None:
    """Each by a thread of its own; what they compute does not depend on it."""
    programs = [program(threads, rows) for threads, rows in ((1, 5), (2, 300), (3, 1000), (2, 64))]

    def often(run: Callable[[], None]) -> None:
        for _ in range(100):
            run()

    for _ in range(2):
        threads = [threading.Thread(target=often, args=(run,)) for run, _, _ in programs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        for _, x, out in programs:
            assert torch.equal(out, x.argmax(1))
            x.normal_()


def test_one_team_runs_for_one_thread_at_a_time() -> None:
    run, x, out = program(threads=2, rows=20000, size=512)
    said: list[str] = []

    def often() -> None:
        for _ in range(30):
            try:
                run()
            except UsageError as error:
                said.append(str(error))

    threads = [threading.Thread(target=often) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert said, "they ran one behind the other"
    assert all("another thread runs this model" in each for each in said)
    run()
    assert torch.equal(out, x.argmax(1))


def test_what_the_machine_does() -> None:
    found = peak(1)
    assert 0 < found.alone == found.together
    assert not found.shares_cores
    assert read_bandwidth(1, 1 << 20) > 0
