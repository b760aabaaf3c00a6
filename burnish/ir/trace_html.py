"""A trace as HTML, for notebooks: one table, without scripts, and without colours of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from burnish.ir.quality_html import quality_html

if TYPE_CHECKING:
    from burnish.ir.trace import Check, Entry, PassRecord, Trace

_NUMBER = re.compile(r"_?[0-9]+")
# Lines are the text's own colour, thinned out, so that they are seen on light and on dark.
LINE = "1px solid color-mix(in srgb, currentColor 25%, transparent)"
# Documents without a doctype keep fonts and colours out of tables.
TABLE = "border-collapse:collapse;margin:.3em 0;font:inherit;color:inherit"
_INSTALLED = re.compile(r"/\S*/site-packages/")  # where a library is installed says nothing about the model
_CELL = "padding:.15em .6em;background:none;border:0;white-space:nowrap;font-variant-numeric:tabular-nums;text-align:"
_EFFECTS = {
    "exact": ("=", "exact"),
    "reassociates": ("≈", "the same but for the order of additions"),
    "lossy": ("≠", "another function"),
}
_HEADINGS = (
    ("#", "right"),
    ("pass", "left"),
    ("", "left"),
    ("rewrites", "right"),
    ("refused", "right"),
    ("nodes", "right"),
    ("launches", "right"),
    ("moved, MB", "right"),
    ("weights, MB", "right"),
    ("cache, B/token", "right"),
)


def _check(check: Check) -> str:
    return f"{check.by or 'not compared'}: {check.fed}"


def trace_html(trace: Trace) -> str:
    """The pass table, the phases, notes, and what each pass left alone."""
    headings, sides = [name for name, _ in _HEADINGS], [side for _, side in _HEADINGS]
    timed = any(record.seconds is not None for record in trace.passes)
    verified = any(record.verification for record in trace.passes)
    for heading in [*(["ms"] if timed else []), *(["error"] if verified else [])]:
        headings, sides = [*headings, heading], [*sides, "right"]
    rows = "".join(_row(_cells(record, timed, verified), sides, "td", f"border-top:{LINE}") for record in trace.passes)
    parts = [f'<table style="{TABLE}"><thead>{_row(headings, sides, "th")}</thead><tbody>{rows}</tbody></table>']
    if stages := trace.stages():
        parts.append(f'<div style="opacity:.7">stages: {escape(stages)}</div>')
    if trace.phases:
        phases = " · ".join(f"{escape(name)} {seconds:.1f}" for name, seconds in trace.phases.items())
        parts.append(f'<div style="opacity:.7">seconds: {phases}</div>')
    parts.append(quality_html(trace.quality))
    parts.append(_details("compared with the model", [_check(check) for check in trace.checks]) if trace.checks else "")
    notes = [f"{record.name}: {note}" for record in trace.passes for note in record.notes]
    parts.append(_details(counted(len(notes), "note"), notes) if notes else "")
    left = [line for record in trace.passes for line in _grouped(record.name, record.refusals)]
    refused = sum(len(record.refusals) for record in trace.passes)
    parts.append(_details(f"left as it was: {counted(refused, 'place')}", left) if left else "")
    made = [line for record in trace.passes for line in _grouped(record.name, record.rewrites)]
    rewrites = sum(len(record.rewrites) for record in trace.passes)
    parts.append(_details(counted(rewrites, "rewrite"), made) if made else "")
    return f"<div>{''.join(parts)}</div>"


def _cells(record: PassRecord, timed: bool, verified: bool) -> list[str]:
    options = ", ".join(f"{key}={value}" for key, value in record.options.items() if value != record.name)
    sign, meaning = _EFFECTS.get(record.effect, (record.effect, record.effect))
    first = record.number == 0
    error = record.verification
    cells = [
        str(record.number),
        escape(f"{record.name}({options})" if options else record.name),
        "" if first else f'<span title="{escape(meaning)}">{escape(sign)}</span>',
        "" if first else f"{len(record.rewrites)}",
        f"{len(record.refusals) or ''}",
        f"{record.nodes_after}",
        f"{record.launches}",
        f"{record.bytes_moved / 1e6:,.1f}",
        f"{record.weight_bytes / 1e6:,.1f}",
        f"{record.bytes_a_token or ''}",
    ]
    if timed:
        cells.append("" if first or record.seconds is None else f"{record.seconds * 1e3:.0f}")
    return [*cells, f"{error.difference:.0e}" if error else ""] if verified else cells


def _row(cells: Sequence[str], sides: Sequence[str], tag: str, style: str = "") -> str:
    told = (f'<{tag} style="{_CELL}{side};{style}">{cell}</{tag}>' for cell, side in zip(cells, sides, strict=True))
    return f"<tr>{''.join(told)}</tr>"


def _grouped(name: str, entries: Iterable[Entry]) -> list[str]:
    """What the entries say, once for all that differ in numbers alone, with the first place of each."""
    entries = list(entries)
    first: dict[str, Entry] = {}
    for entry in entries:
        first.setdefault(_NUMBER.sub("", entry.text), entry)
    counts = Counter(_NUMBER.sub("", entry.text) for entry in entries)
    told = (f"{name}, {counts[key]} ×: {entry.text}; first: {entry.where}" for key, entry in first.items())
    return [_INSTALLED.sub("", line) for line in told]


def counted(count: int, thing: str) -> str:
    """`1 pass`, `2 passes`."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}{'es' if thing.endswith('s') else 's'}"


def _details(title: str, lines: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f'<details><summary style="cursor:pointer">{escape(title)}</summary><ul>{items}</ul></details>'
