"""What transforms cost on text, as HTML: a table, and quality against the bytes that a token moves. No scripts."""

from __future__ import annotations

import math
from html import escape

from burnish.inspect.table import QUALITY_HEADINGS, quality_cells
from burnish.ir.sizes import unit_of
from burnish.ir.trace import Trace

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 640, 240, 60, 36, 20


def quality_html(trace: Trace) -> str:
    """The table and the chart; nothing without records. It has no styles of its own, which pages may forbid."""
    records = trace.quality
    if not records:
        return ""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in QUALITY_HEADINGS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in quality_cells(record)) + "</tr>" for record in records
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>{quality_svg(trace)}"


def quality_svg(trace: Trace) -> str:
    """Perplexity (logarithmic) against the bytes of weights and cache that a token after `trace.context` reads."""
    records = trace.quality
    counts = [record.weight_bytes + trace.context * record.cache_bytes_a_token for record in records]
    unit, size_of_unit = unit_of([max(counts)])
    sizes = [count / size_of_unit for count in counts]
    losses = [math.log(record.perplexity) for record in records]
    most, low, high = max(sizes), min(losses), max(losses)
    room = max(0.1 * (high - low), 0.01)
    low, high = low - room, high + room

    def across(size: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - 20) * size / (most or 1.0)

    def down(loss: float) -> float:
        return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - loss) / (high - low)

    places = [(across(size), down(loss)) for size, loss in zip(sizes, losses, strict=True)]
    foot, right = _HEIGHT - _BOTTOM, _WIDTH - 20
    parts = [
        f'<path d="M{_LEFT} {_TOP}V{foot}H{right}" fill="none" stroke="currentColor" stroke-opacity=".4"/>',
        '<path d="M' + "L".join(f"{x:.1f} {y:.1f}" for x, y in places) + '" fill="none" stroke="currentColor" '
        'stroke-opacity=".4" stroke-dasharray="3 3"/>',
        *(_text(_LEFT - 6, down(loss) + 4, f"{math.exp(loss):,.2f}", "end") for loss in {min(losses), max(losses)}),
        *(_text(across(size), foot + 14, f"{size:,.1f}", "middle") for size in sorted({min(sizes), most})),
        _text((_LEFT + right) / 2, _HEIGHT - 6, f"{unit} read for a token after {trace.context}", "middle"),
        _text(_LEFT, _TOP - 8, "perplexity", "start"),
    ]
    for number, ((x, y), record) in enumerate(zip(places, records, strict=True)):
        told = ", ".join(
            f"{heading} {cell}" for heading, cell in zip(QUALITY_HEADINGS, quality_cells(record), strict=True)
        )
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="currentColor"><title>{escape(told)}</title></circle>'
        )
        parts.append(_text(x - 8, y - 6, str(number), "end"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" '
        f'role="img" aria-label="Perplexity against bytes a token">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="11" fill="currentColor" text-anchor="{anchor}">{escape(text)}</text>'
    )
