"""Kernels compiled for GPUs that are not here: two cases of each test for every architecture, the others for one.

Which one goes round. `pytest tests/codegen --all-architectures` compiles every case for all.
"""

from __future__ import annotations

from collections import defaultdict

import pytest

EVERYWHERE = 2  # cases


def pytest_addoption(parser: pytest.Parser) -> None:
    """The switch that compiles every case for all architectures."""
    parser.addoption("--all-architectures", action="store_true", help="compile every kernel for all architectures")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what another case of the same kernel shows."""
    if config.getoption("--all-architectures", default=False):
        return
    cases: dict[str, dict[str, list[pytest.Function]]] = defaultdict(lambda: defaultdict(list))
    for item in items:
        if isinstance(item, pytest.Function) and "architecture" in _parameters(item):
            others = {name: value for name, value in _parameters(item).items() if name != "architecture"}
            cases[item.nodeid.split("[")[0]][repr(others)].append(item)
    left_out: set[pytest.Item] = set()
    for by_case in cases.values():
        for number, architectures in enumerate(by_case.values()):
            if number >= EVERYWHERE:
                left_out.update(
                    each for place, each in enumerate(architectures) if place != number % len(architectures)
                )
    if left_out:
        config.hook.pytest_deselected(items=[item for item in items if item in left_out])
        items[:] = [item for item in items if item not in left_out]


def _parameters(item: pytest.Function) -> dict[str, object]:
    callspec = getattr(item, "callspec", None)
    return {} if callspec is None else callspec.params
