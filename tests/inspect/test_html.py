"""The HTML report: its data, and that nothing of a model can be markup or code in it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tomllib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import burnish.inspect.html as package
from burnish.cli.commands import app
from burnish.inspect.html import comparison, report, write_report
from burnish.ir.errors import UsageError
from burnish.ir.trace import NodeRecord, Trace
from tests.inspect.traces import HOSTILE, layered
from tests.runtime.tiny import save_tiny
from tests.test_cli import COUNTING

PAGE = Path(package.__file__).with_name("page")
ROOT = Path(__file__).parents[2]


class Parts(HTMLParser):
    """The elements of a page with their attributes and the text before the next tag."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        self._open = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), ""))
        self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            tag, attributes, text = self.elements[-1]
            self.elements[-1] = (tag, attributes, text + data)

    def all(self, tag: str) -> list[tuple[dict[str, str | None], str]]:
        return [(attributes, text) for found, attributes, text in self.elements if found == tag]


def data_of(page: str) -> dict[str, Any]:
    ((_, text),) = [(each, text) for each, text in Parts(page).all("script") if each.get("id") == "data"]
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


def decoded(data: dict[str, Any], place: int) -> tuple[NodeRecord, ...]:
    """The records of a pass, read as the page's script reads them."""
    columns = ("name", "op", "target", "type", "call", "module", "module_type", "source", "code")
    nodes = []
    for index in data["passes"][place]["nodes"]:
        *texts, launches, moved, history, reads, layout, _ = data["nodes"][index]
        values = {column: data["strings"][text] for column, text in zip(columns, texts, strict=True)}
        steps = tuple((number, which) for number, which in history)
        names = tuple(data["strings"][read] for read in reads)
        values |= {"layout": data["strings"][layout]}
        nodes.append(NodeRecord(**values, launches=launches, bytes_moved=moved, history=steps, reads=names))
    return tuple(nodes)


def test_the_page_holds_every_program_of_the_trace() -> None:
    trace = layered()
    data = data_of(report(trace, "model"))
    assert [each["name"] for each in data["passes"]] == ["captured", "raise-norms", "raise-gates"]
    for place, made in enumerate(trace.passes):
        assert decoded(data, place) == made.nodes


def test_nodes_of_the_last_program_have_their_kernels() -> None:
    trace = layered()
    last = trace.passes[-1].nodes
    name = next(node.name for node in last if node.op == "call_function")
    data = data_of(report(trace, "model", {name: [("a_kernel", "def a_kernel(): ..."), ("other", "# </script>")]}))
    strings = data["strings"]
    found = {
        strings[row[0]]: [[strings[index] for index in pair] for pair in row[-1]] for row in data["nodes"] if row[-1]
    }
    assert found == {name: [["a_kernel", "def a_kernel(): ..."], ["other", "# </script>"]]}


def test_a_page_of_two_traces_has_their_passes_side_by_side() -> None:
    first, second = layered(3), layered(3)
    second.passes.insert(1, replace(second.passes[0], number=1, name="clean"))
    page = comparison((f"one {HOSTILE}", first), ("two", second))
    assert not Parts(page).all("img")
    data = data_of(page)
    for key, absent in (("others", [1]), ("passes", [])):
        assert [each["name"] for each in data[key]] == ["captured", "clean", "raise-norms", "raise-gates"]
        assert [place for place, each in enumerate(data[key]) if each.get("absent")] == absent
    assert data["others"][1]["nodes"] == data["others"][0]["nodes"]
    assert len(data["nodes"]) == len(data_of(report(first, "model"))["nodes"])
    with pytest.raises(UsageError, match="no passes"):
        comparison(("one", first), ("two", Trace()))


def test_what_passes_share_is_written_once() -> None:
    trace = layered()
    data = data_of(report(trace, "model"))
    assert len(data["nodes"]) == len({node for made in trace.passes for node in made.nodes})
    assert len(data["strings"]) == len(set(data["strings"]))


def test_the_columns_of_the_script_are_those_of_the_data() -> None:
    (line,) = re.findall(r"^const \[(NAME, .*?)\] =\s+Array\((\d+)\)", (PAGE / "data.js").read_text(), re.MULTILINE)
    assert line[0].split(", ") == [
        *("NAME", "OP", "TARGET", "TYPE", "CALL", "MODULE", "CLASS", "SOURCE", "CODE"),
        *("LAUNCHES", "BYTES", "HISTORY", "READS", "LAYOUT", "KERNELS"),
    ]
    assert int(line[1]) == len(data_of(report(layered(), "model"))["nodes"][0]) == 15


def test_rewrites_and_refusals_are_grouped_by_what_they_say() -> None:
    passes = data_of(report(layered(4), "model"))["passes"]
    assert passes[1]["rewrite_groups"] == [[0, 1, 2, 3]]
    assert passes[2]["refusal_groups"] == [[0]]
    assert passes[1]["verification"]["difference"] == 2e-7
    assert passes[2]["verification"] is None


def test_text_of_the_model_is_neither_markup_nor_code() -> None:
    page = report(layered(), f"{HOSTILE} & co")
    parts = Parts(page)
    assert [attributes.get("type") for attributes, _ in parts.all("script")] == ["application/json", None]
    assert not parts.all("img")
    data = data_of(page)
    assert HOSTILE in data["strings"]
    assert data["title"] == f"{HOSTILE} & co"
    ((_, title),) = parts.all("title")
    assert title == f"{HOSTILE} & co · burnish"


def test_the_policy_allows_this_script_and_this_style_and_nothing_else() -> None:
    parts = Parts(report(layered(), "model"))
    (policy,) = [
        each["content"] for each, _ in parts.all("meta") if each.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    ((_, style),) = parts.all("style")
    script = parts.all("script")[1][1]
    for name, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules.pop(name) == f"'sha256-{digest}'"
    assert rules.pop("img-src") == "data:"  # a picture that the page itself made
    assert set(rules.values()) == {"'none'"}
    assert "default-src" in rules


def test_the_page_refers_to_nothing_outside_of_itself() -> None:
    page = report(layered(), "model")
    assert not re.search(r"\b(?:src|href|action)\s*=|@import|url\(", page.replace("src=x onerror", ""))
    assert set(re.findall(r"https?://[^\"'\s]+", page)) == {"http://www.w3.org/2000/svg"}


def test_the_scripts_make_no_markup_of_text() -> None:
    for file in PAGE.glob("*.js"):
        found = re.findall(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", file.read_text()
        )
        assert not found, file.name


def test_what_the_page_is_made_of_is_packaged() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["burnish"]
    packaged = {file for pattern in declared for file in (ROOT / "burnish").glob(pattern)}
    assert set(PAGE.iterdir()) <= packaged


def test_an_empty_trace_and_a_place_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no passes"):
        report(Trace(), "model")
    with pytest.raises(UsageError, match="cannot write the report"):
        write_report(layered(2), "model", tmp_path / "missing" / "report.html")


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    path, _ = save_tiny(tmp_path)
    file = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["inspect", str(path), "--html", str(file)])
    assert done.exit_code == 0, done.stderr
    assert "report.html" in done.stdout
    assert data_of(file.read_text(encoding="utf-8"))["title"] == "tiny"


def test_the_command_writes_a_page_of_two_artifacts(tmp_path: Path) -> None:
    path, _ = save_tiny(tmp_path)
    other = path.rename(tmp_path / "other.burnish")
    path, _ = save_tiny(tmp_path)
    file = tmp_path / "report.html"
    done = CliRunner().invoke(app, ["inspect", str(path), str(other), "--html", str(file)])
    assert done.exit_code == 0, done.stderr
    assert "are equal" in done.stdout
    assert data_of(file.read_text(encoding="utf-8"))["titles"] == ["tiny.burnish", "other.burnish"]
    done = CliRunner().invoke(app, ["inspect", str(path), "--diff", "clean", "--html", str(file)])
    assert done.exit_code == 2
    assert "leave out --diff clean" in done.stderr.replace("\n", " ")


def test_compile_writes_the_page_with_its_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counting_up.py").write_text(COUNTING)
    monkeypatch.chdir(tmp_path)
    command = ["compile", "counting_up:Counting", "-o", "counting.burnish", "--max-length", "20", "--html"]
    refused = CliRunner().invoke(app, [*command, "missing/report.html"])
    assert refused.exit_code == 2
    assert "mkdir -p missing" in refused.stderr
    done = CliRunner().invoke(app, [*command, "report.html"])
    assert done.exit_code == 0, done.stderr
    data = data_of(Path("report.html").read_text(encoding="utf-8"))
    assert data["title"] == "Counting"
    assert {"capture", "passes"} <= {name for name, _ in data["phases"]}
    assert all(seconds > 0 for _, seconds in data["phases"])
    assert data["checks"]
    assert data["passes"][1]["seconds"] is not None
