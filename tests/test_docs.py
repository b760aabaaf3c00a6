"""The documentation says what the code does: generated pages are up to date, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="the pages show what torch 2.13 exports, which `make` installs"
)
def test_pages_of_passes_show_what_the_passes_do() -> None:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    pages = generate.pages()
    written = {str(file.relative_to(DOCS)) for file in (DOCS / "passes").glob("*.md")}
    assert set(pages) == written, "run: make docs"
    for name, text in pages.items():
        assert (DOCS / name).read_text(encoding="utf-8") == text, f"docs/{name} is not up to date; run: make docs"


@pytest.mark.parametrize("file", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda file: file.name)
def test_links_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", file.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (file.parent / target.split("#")[0]).exists(), f"{file.name} links to {target}"
