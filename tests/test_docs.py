"""The documentation says what the code does: generated pages are up to date, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def load(name: str) -> ModuleType:
    """A module of docs/."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


shows_torch_2_13 = pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="the pages show what torch 2.13 exports, which `make` installs"
)


@shows_torch_2_13
def test_pages_of_passes_show_what_the_passes_do() -> None:
    pages = load("generate").pages()
    written = {str(file.relative_to(DOCS)) for file in (DOCS / "passes").glob("*.md")}
    assert set(pages) == written, "run: make docs"
    for name, text in pages.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"docs/{name} is not up to date; run: make docs"


def test_the_api_is_what_docstrings_say() -> None:
    assert (DOCS / "api.md").read_text(encoding="utf-8") == load("api").page(), "not up to date; run: make docs"


@pytest.mark.slow("each command of the page is run")
@shows_torch_2_13
def test_the_walkthrough_shows_what_its_commands_print() -> None:
    walkthrough = load("walkthrough")
    written = (DOCS / "finding-a-bug.md").read_text(encoding="utf-8")
    found, shown = (walkthrough.without_numbers(text) for text in (walkthrough.page(), written))
    assert found == shown, "docs/finding-a-bug.md is not up to date; run: make docs"


@pytest.mark.parametrize("file", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (file.parent / target.split("#")[0]).exists(), f"{file.name} links to {target}"
