"""Every kind of bad input is refused with an error of its own kind that says what, where and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.ir.errors import BurnishError
from tests.bad_input import CASES, Case, message, row

DOCUMENTED = (Path(__file__).parents[1] / "docs" / "errors.md").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_bad_input_is_refused_and_leaves_nothing_behind(case: Case, tmp_path: Path) -> None:
    text = message(case, tmp_path)
    assert issubclass(case.error, BurnishError)
    assert case.error is not BurnishError
    assert len(text.split()) >= 5, text
    assert row(case, text) in DOCUMENTED, "docs/errors.md is not up to date; run: make docs"
    assert not [file for file in tmp_path.rglob("*") if ".partial" in file.name or ".replaced" in file.name]
