"""A trace and a compiled model as HTML, for notebooks: tables, without scripts, and without colours of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from burnish.inspect.html.quality import quality_html
from burnish.inspect.summary import state_lines
from burnish.inspect.table import EFFECTS, INSTALLED, check_lines, headings, pass_cells, reasons
from burnish.ir.sizes import size_text
from burnish.ir.trace import Entry, Trace, counted
from burnish.runtime.artifact import Artifact

# Lines are the text's own colour, thinned out, so that they are seen on light and on dark.
_LINE = "1px solid color-mix(in srgb, currentColor 25%, transparent)"
# Documents without a doctype keep fonts and colours out of tables.
_TABLE = "border-collapse:collapse;margin:.3em 0;font:inherit;color:inherit"
_CELL = "padding:.15em .6em;background:none;border:0;white-space:nowrap;font-variant-numeric:tabular-nums;text-align:"
_FACT = "padding:.1em .8em .1em 0;background:none;border:0;text-align:left;vertical-align:top"


def trace_html(trace: Trace) -> str:
    """The pass table, the phases, notes, and what each pass left alone."""
    head = _row([escape(heading).replace("-\n", "").replace("\n", ", ") for heading in headings(trace)], "th")
    rows = "".join(_row(_cells(cells), "td", f"border-top:{_LINE}") for cells in pass_cells(trace))
    parts = [f'<table style="{_TABLE}"><thead>{head}</thead><tbody>{rows}</tbody></table>']
    if stages := trace.stages():
        parts.append(f'<div style="opacity:.7">stages: {escape(stages)}</div>')
    if trace.phases:
        phases = " · ".join(f"{escape(name)} {seconds:.1f}" for name, seconds in trace.phases.items())
        parts.append(f'<div style="opacity:.7">seconds: {phases}</div>')
    parts.append(quality_html(trace))
    parts.append(_details("compared with the model", check_lines(trace.checks)))
    notes = [f"{record.name}: {note}" for record in trace.passes for note in record.notes]
    parts.append(_details(counted(len(notes), "note"), notes))
    left = [line for record in trace.passes for line in _grouped(record.name, record.refusals)]
    refused = sum(len(record.refusals) for record in trace.passes)
    parts.append(_details(f"left as it was: {counted(refused, 'place')}", left))
    made = [line for record in trace.passes for line in _grouped(record.name, record.rewrites)]
    rewrites = sum(len(record.rewrites) for record in trace.passes)
    parts.append(_details(counted(rewrites, "rewrite"), made))
    return f"<div>{''.join(parts)}</div>"


def _cells(cells: Sequence[str]) -> list[str]:
    """A row with what the sign of the effect means as its title."""
    number, name, sign, *rest = map(escape, cells)
    meaning = next((meaning for each, meaning in EFFECTS.values() if each == cells[2]), "")
    return [number, name, f'<span title="{escape(meaning)}">{sign}</span>' if meaning else sign, *rest]


def _row(cells: Sequence[str], tag: str, style: str = "") -> str:
    sides = ["right", "left", "left", *["right"] * (len(cells) - 3)]
    told = (f'<{tag} style="{_CELL}{side};{style}">{cell}</{tag}>' for cell, side in zip(cells, sides, strict=True))
    return f"<tr>{''.join(told)}</tr>"


def _grouped(name: str, entries: Iterable[Entry]) -> list[str]:
    """What the entries say, once for all that differ in numbers alone, with the first place of each."""
    told = (f"{name}, {each.count} ×: {each.text}; first: {each.first.where}" for each in reasons(entries))
    return [INSTALLED.sub("", line) for line in told]


def _details(title: str, lines: Iterable[str]) -> str:
    """Folded away; nothing without lines."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    folded = f'<details><summary style="cursor:pointer">{escape(title)}</summary><ul>{items}</ul></details>'
    return folded if items else ""


def model_html(artifact: Artifact, backend: str, trace: Trace | str) -> str:
    """Name, target, sizes and states, and the trace, folded away; or in its place what keeps it from being shown."""
    manifest, signature = artifact.manifest, artifact.signature
    rows = {
        "runs on": f"{backend}, compiled for {manifest.target} by burnish {manifest.burnish}",
        "tokens": f"vocabulary of {signature.vocabulary:,}; at most {signature.max_length:,} in a conversation",
        "weights": f"{len(manifest.weights)}, {size_text(artifact.manifest.weight_bytes)}",
        "states": ", ".join(state_lines(artifact)) or "none",
        "tokenizer": "none: it reads and writes token ids" if manifest.tokenizer is None else "included",
    }
    cells = "".join(
        f'<tr><th style="{_FACT};opacity:.7;font-weight:normal">{escape(name)}</th>'
        f'<td style="{_FACT}">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    if isinstance(trace, Trace):
        rewrites = sum(len(record.rewrites) for record in trace.passes)
        shown = (
            f'<details><summary style="cursor:pointer">{counted(max(len(trace.passes) - 1, 0), "pass")}, '
            f"{counted(rewrites, 'rewrite')}</summary>{trace_html(trace)}</details>"
        )
    else:
        shown = f"<div>{escape(trace)}</div>"
    return (
        f'<div><div style="border-bottom:{_LINE};padding-bottom:.2em"><b>{escape(manifest.name)}</b> '
        f'<span style="opacity:.7">burnish CompiledModel</span></div>'
        f'<table style="{_TABLE}"><tbody>{cells}</tbody></table>{shown}</div>'
    )
