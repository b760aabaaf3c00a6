"""A pytest plugin: kernels are built with what finds reads and writes outside of memory, and overflows.

They are built for AVX2 and as plain C++. See memory_sanitizer.py, which runs the tests of this folder with it.
"""

from __future__ import annotations

import pytest
from hypothesis import settings

from burnish.runtime.native import build
from burnish.runtime.native.levels import LEVELS

build._FLAGS = (*build._FLAGS, "-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
for level in set(LEVELS) - {"x86-64-v3", "x86-64"}:
    del LEVELS[level]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Few examples of each test: each takes many times as long."""
    for item in items:
        drawn = getattr(item, "obj", None)
        if hasattr(drawn, "_hypothesis_internal_use_settings"):
            drawn._hypothesis_internal_use_settings = settings(max_examples=20, deadline=None, database=None)
