"""Every test: tables are as wide as anywhere, processes that share the machine each compute with their share.

The files that take longest come first (durations.json, which `pytest --keep-durations` writes), so that no worker waits
for another at the end. What was skipped is summed up by its reason, and tests that take long without saying why are
listed.
"""

from __future__ import annotations

import json
import logging
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo.config

from tests import captures

os.environ["COLUMNS"] = "100"

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

if WORKERS > 1:
    cores = max(1, torch.get_num_threads() // WORKERS)
    torch.set_num_threads(cores)
    os.environ["OMP_NUM_THREADS"] = str(cores)  # for the processes that tests start

ROOT = Path(__file__).parents[1]
DURATIONS = Path(__file__).with_name("durations.json")  # seconds by file
LONG = 10.0  # seconds: what takes longer is marked slow, with the reason


captures.install()

# What types are kept by: small models have few equal operations, and it costs more than it saves.
torch._dynamo.config.fake_tensor_cache_enabled = False


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Equal modules are captured once, but for tests of that."""
    captures.enabled = ROOT / "tests" / "frontend" not in item.path.parents


@pytest.fixture(autouse=True)
def verbosity() -> Iterator[None]:
    """A command that runs within a test says how much burnish logs for that test alone."""
    logger = logging.getLogger("burnish")
    level, handlers = logger.level, logger.handlers[:]
    yield
    logger.setLevel(level)
    logger.handlers[:] = handlers


def pytest_addoption(parser: pytest.Parser) -> None:
    """The switch that writes `DURATIONS`."""
    parser.addoption("--keep-durations", action="store_true", help=f"write {DURATIONS.name}: run all tests with it")


def pytest_configure(config: pytest.Config) -> None:
    """The mark of tests that take long."""
    config.addinivalue_line("markers", f"slow(reason): takes over {LONG:.0f} seconds, and why it is worth them")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take longest first; within a file the order stays."""
    seconds: dict[str, float] = json.loads(DURATIONS.read_text()) if DURATIONS.exists() else {}
    items.sort(key=lambda item: -seconds.get(_file(item.nodeid), 0.0))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """A report says whether its test is marked as slow: to the process that sums up, too."""
    outcome: Any = yield
    outcome.get_result().user_properties.append(("slow", item.get_closest_marker("slow") is not None))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Skips by reason, and what takes long without a reason."""
    skipped = Counter(_reason(report) for report in terminalreporter.stats.get("skipped", ()))
    if skipped:
        terminalreporter.section("skipped")
        for reason, count in skipped.most_common():
            terminalreporter.write_line(f"{count:5} {reason}")
    files: dict[str, float] = defaultdict(float)
    tests: dict[str, float] = defaultdict(float)
    marked: set[str] = set()
    for report in (each for reports in terminalreporter.stats.values() for each in reports):
        if isinstance(report, pytest.TestReport):
            files[_file(report.nodeid)] += report.duration
            tests[report.nodeid] += report.duration if report.when == "call" else 0.0
            if ("slow", True) in report.user_properties:
                marked.add(report.nodeid)
    unmarked = [each for each in _longest_first(tests) if each[1] > LONG and each[0] not in marked]
    if unmarked:
        terminalreporter.section(f"over {LONG:.0f} seconds without @pytest.mark.slow(reason)")
        for test, seconds in unmarked:
            terminalreporter.write_line(f"{seconds:6.1f} s {test}")
    if config.getoption("--keep-durations"):
        known = {file: round(seconds, 1) for file, seconds in _longest_first(files) if seconds >= 1}
        DURATIONS.write_text(json.dumps(known, indent=0) + "\n")


def _longest_first(seconds: dict[str, float]) -> list[tuple[str, float]]:
    return sorted(seconds.items(), key=lambda item: -item[1])


def _file(test: str) -> str:
    return test.split("::", 1)[0]


def _reason(report: Any) -> str:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")
