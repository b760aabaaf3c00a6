"""Reports in a real browser, for the tests that need playwright and a chromium: without, they are skipped."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from burnish.inspect.html import comparison, report
from burnish.ir.trace import Trace

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in BROWSERS if (found := shutil.which(name))), None)


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    """One browser for all tests here."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)} on the PATH")
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's sandbox does not run as root
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=CHROMIUM, args=alone)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens the report of a trace, or of a first and a second, at the last pass or at an address.

    The test fails if the page logs an error or asks for anything but itself.
    """
    complaints: list[str] = []
    pages: list[Any] = []

    def open_report(
        trace: Trace,
        width: int = 1280,
        height: int = 800,
        scheme: str = "light",
        address: str | None = None,
        second: Trace | None = None,
    ) -> Any:
        file = tmp_path / "report.html"
        made = comparison(("a", trace), ("b", second)) if second else report(trace, "model")
        file.write_text(made, encoding="utf-8")
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        pages.append(page)
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        own = file.as_uri()
        asked = (own, "data:image/svg+xml,")  # itself, and pictures that it made
        page.on("request", lambda asks: None if asks.url.startswith(asked) else complaints.append(asks.url))
        page.goto(own + (f"#pass={trace.passes[-1].number}" if address is None else address))
        return page

    yield open_report
    for page in pages:
        page.close()
    assert not complaints
