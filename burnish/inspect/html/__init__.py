"""The record of a compilation, or of two, as one HTML page that needs nothing else: no network, no server, no library.

What comes from the model (names, lines of source) is data that the page's script inserts as text. The page's policy
lets no script and no style run but the two that are written here, by their hashes, and lets nothing be fetched: what it
shows as an image, to save a graph, is text that it made itself.
"""

from __future__ import annotations

import base64
import hashlib
import html
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from burnish.inspect.html.data import Kernels, Named, comparison_data, report_data
from burnish.inspect.html.quality import quality_html
from burnish.ir.errors import UsageError
from burnish.ir.trace import Trace

# In the order in which they build on each other.
_SCRIPTS = (
    "data.js",
    "compare.js",
    "colors.js",
    "graph.js",
    "layout.js",
    "minimap.js",
    "pane.js",
    "panels.js",
    "overview.js",
    "search.js",
    "save.js",
    "rewrites.js",
    "address.js",
    "bar.js",
    "app.js",
)

_STYLES = ("page.css", "colors.css")


def report(trace: Trace, title: str, kernels: Kernels | None = None) -> str:
    """The page; nodes of the last program show their `kernels`. Raises UsageError if the trace has no passes."""
    _check(trace)
    return _page(report_data(trace, title, kernels), _quality(trace))


def comparison(first: Named, second: Named) -> str:
    """A page that shows two traces, each with its title, beside each other. Raises UsageError as `report`."""
    for _, trace in (first, second):
        _check(trace)
    return _page(comparison_data(first, second), _quality(first[1], first[0]) + _quality(second[1], second[0]))


def _check(trace: Trace) -> None:
    if not trace.passes:
        raise UsageError("the trace has no passes: there is nothing to draw")


def _page(data: dict[str, Any], quality: str) -> str:
    style = "".join(_read(name) for name in _STYLES)
    script = "(() => {\n'use strict';\n" + "\n".join(_read(name) for name in _SCRIPTS) + "})();\n"
    parts = {
        "POLICY": f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'",
        "TITLE": html.escape(data["title"]),
        "QUALITY": quality,
        "STYLE": style,
        "SCRIPT": script,
        # JSON has `<` in strings only, and there it may be written so: no `</script>` or `<!--` is left in it.
        "DATA": msgspec.json.encode(data).decode().replace("<", "\\u003c"),
    }
    first, *rest = _read("page.html").split("{{")
    # One walk over the page itself, so that nothing that is put in is looked at again.
    pieces = [piece.split("}}", 1) for piece in rest]
    return first + "".join(parts[name] + text for name, text in pieces)


def _quality(trace: Trace, owner: str = "") -> str:
    if not trace.quality:
        return ""
    of = f" ({html.escape(owner)})" if owner else ""
    title = f"<summary>What the transforms cost, on text held out from calibration{of}</summary>"
    return f'<details class="quality" open>{title}{quality_html(trace)}</details>'


def write_report(trace: Trace, title: str, file: Path, kernels: Kernels | None = None) -> None:
    """Write the page to `file`. Raises UsageError if it cannot be written, or there is nothing to draw."""
    _write(report(trace, title, kernels), file)


def write_comparison(first: Named, second: Named, file: Path) -> None:
    """Write the page of two traces to `file`. Raises UsageError as `write_report`."""
    _write(comparison(first, second), file)


def _write(page: str, file: Path) -> None:
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write the report to {file}: {error.strerror or error}") from error


def _read(name: str) -> str:
    return resources.files(__name__).joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
