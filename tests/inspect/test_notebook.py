"""How a trace and a compiled model show themselves: in a notebook as HTML, in a terminal in a line."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

import burnish
from burnish.ir.trace import Entry, Trace, Verification
from tests.runtime.tiny import record, save_tiny

EVIL = '<img src=x onerror="alert(1)"> & "quoted"'
VOID = {"br", "img", "hr"}


class Page(HTMLParser):
    """Parses a page, checks that each tag is closed, and keeps the tags, attributes, table rows and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def trace() -> Trace:
    norms = tuple(Entry(f"mul_{i}", f"mul_{i} in layers.{i}", f"RMS norm {i}") for i in range(30))
    refusals = (Entry("add_1", EVIL, f"refused for {EVIL}"),)
    return Trace(
        [
            record(0, "captured"),
            replace(record(1, "raise-norms"), rewrites=norms, refusals=refusals, notes=(EVIL,), options={"a": EVIL}),
        ],
        {"capture": 1.25, EVIL: 0.5},
    )


def test_a_trace_is_a_table_with_what_was_refused_folded_away() -> None:
    page = Page(trace()._repr_html_())
    assert [len(row) for row in page.rows] == [11, 11, 11]
    assert page.rows[0][:4] == ["#", "pass", "", "rewrites"]
    assert page.rows[0][7:] == ["moved, kB", "weights, B", "cache, B/token", "ms"]
    assert page.rows[1][:4] == ["0", "captured", "", ""]
    assert page.rows[2] == ["1", f"raise-norms{{a={EVIL}}}", "=", "30", "1", "9", "4", "1", "100", "10", "100"]
    assert page.tags.count("details") == 3
    assert "raise-norms, 30 ×: RMS norm 0; first: mul_0 in layers.0" in page.text
    assert "capture 1.2" in page.text


def test_what_others_wrote_is_text_and_nothing_comes_from_a_network() -> None:
    html = trace()._repr_html_()
    page = Page(html)
    assert page.text.count(EVIL) == 5
    assert not {"img", "script", "style", "link", "iframe"} & set(page.tags)
    assert {name for name, _ in page.attributes} <= {"style", "title"}
    assert "http" not in html


def test_colours_are_those_of_the_page_around_it(tmp_path: Path) -> None:
    with burnish.load(save_tiny(tmp_path)[0]) as model:
        styles = [value for name, value in Page(model._repr_html_()).attributes if name == "style"]
    assert styles
    for style in styles:
        assert not re.search(
            r"#[0-9a-fA-F]{3}|\brgb|\bhsl|(?<!-)\b(?:white(?!-)|black|gr[ae]y|red|green|blue)\b", style
        )
        assert set(re.findall(r"color:\s*(\w+)", style)) <= {"inherit"}


def test_checked_passes_have_a_column_for_the_error() -> None:
    found = Trace([record(0, "captured"), replace(record(1, "clean"), verification=Verification(2e-6, 1e-4, ""))])
    page = Page(found._repr_html_())
    assert page.rows[0][-1] == "error"
    assert [row[-1] for row in page.rows[1:]] == ["", "2e-06"]


def test_an_empty_trace() -> None:
    assert Page(Trace()._repr_html_()).rows[0][0] == "#"
    assert repr(Trace()) == "Trace(0 passes, 0 rewrites, no nodes)"


def test_lines_for_the_terminal() -> None:
    assert repr(trace()) == "Trace(1 pass, 30 rewrites, 9 nodes, 1.8 s)"
    assert repr(trace().passes[1]) == "PassRecord(01 raise-norms: 30 rewrites, 1 refused, 9 → 9 nodes, 100 ms)"


def test_a_compiled_model_shows_its_sizes_states_and_passes(tmp_path: Path) -> None:
    with burnish.load(save_tiny(tmp_path)[0]) as model:
        page = Page(model._repr_html_())
        rows = {row[0]: row[1] for row in page.rows[:5]}
        assert rows["runs on"].startswith("onnxruntime, compiled for onnxruntime by burnish ")
        assert rows["tokens"] == "vocabulary of 300; at most 200 in a conversation"
        assert rows["states"] == "1 × cache f32[batch, 1, capacity, 8], 32 B a token"
        assert "1 pass, 0 rewrites" in page.text
        assert ["1", "clean"] in [row[:2] for row in page.rows]
        assert "CompiledModel('tiny', backend='onnxruntime'" in repr(model)


def test_a_model_whose_files_are_gone_says_so(tmp_path: Path) -> None:
    path = save_tiny(tmp_path)[0]
    with burnish.load(path) as model:
        (path / "trace" / "trace.json").unlink()
        page = Page(model._repr_html_())
    assert "its trace cannot be read: " in page.text
    assert "vocabulary of 300" in page.text


@pytest.mark.parametrize("name", ["clean", "captured"])
def test_a_record_is_short_however_large_its_program(name: str) -> None:
    assert len(repr(replace(record(1, name), text="x" * 10_000))) < 120
