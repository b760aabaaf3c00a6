"""What runs on an NVIDIA GPU only: `python -m pytest tests/gpu`."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.ir.errors import UsageError
from burnish.runtime.executor_cuda import this_architecture

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip these tests where there is no GPU, and say why."""
    try:
        this_architecture()
    except UsageError as reason:
        for item in items:
            if HERE in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=str(reason)))
