"""The record of a compilation as a table: a row a pass, then its notes and what it left alone, and why."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from burnish.ir.states import CONTEXT
from burnish.ir.trace import Check, Entry, PassRecord, QualityRecord, Trace

WIDTH = 100
_NUMBER = re.compile(r"_?[0-9]+")
INSTALLED = re.compile(r"/\S*/site-packages/")  # where a library is installed says nothing about the model
EFFECTS = {
    "exact": ("=", "exact"),
    "reassociates": ("≈", "the same but for the order of additions"),
    "lossy": ("≠", "another function"),
}
_STYLES = {"=": "green", "≈": "cyan", "≠": "yellow"}
_HEADINGS = ("#", "pass", "", "rewrites", "refused", "nodes", "launches", "moved\nMB", "weights\nMB", "cache\nB/token")
QUALITY_HEADINGS = (
    "model",
    "parameters, M",
    "weights, MB",
    "cache, B/token",
    "perplexity",
    "KL, nats",
    "same top token",
)


@dataclass(frozen=True)
class Reason:
    """Entries that say the same but for numbers."""

    entries: tuple[Entry, ...]

    @property
    def text(self) -> str:
        return self.first.text

    @property
    def count(self) -> int:
        return len(self.entries)

    @property
    def first(self) -> Entry:
        return self.entries[0]


def reasons(entries: Iterable[Entry]) -> list[Reason]:
    """The entries grouped by what they say, the most frequent first."""
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(_NUMBER.sub("", entry.text), []).append(entry)
    found = [Reason(tuple(group)) for group in groups.values()]
    return sorted(found, key=lambda reason: -reason.count)


def pass_table(trace: Trace) -> Table:
    """A row for each pass; at most WIDTH columns wide."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        collapse_padding=True,
        pad_edge=False,
        header_style="bold",
        caption="numbers: = exact, ≈ but for the order of additions, ≠ lossy; launches and MB moved: of one more token "
        f"after {CONTEXT}, (≥) the least there can be: weights, cache, in and out, each once",
        caption_justify="left",
    )
    for place, heading in enumerate(headings(trace)):
        named = place in (1, 2)
        table.add_column(heading, justify="left" if named else "right", no_wrap=not named, overflow="fold")
    for number, name, sign, *rest in pass_cells(trace):
        table.add_row(number, Text(name), Text(sign, style=_STYLES.get(sign, "")), *rest)
    if len(trace.passes) > 1:
        table.add_section()
        floor = trace.passes[-1].floor_bytes
        least = f"(≥ {floor / 1e6:,.0f})" if floor else ""
        times = [record.seconds for record in trace.passes if record.seconds is not None]
        total = [f"{sum(times) * 1e3:.0f}"] if times else []
        table.add_row("", "all", "", "", "", "", "", least, "", "", *total, style="bold")
    return table


def headings(trace: Trace) -> list[str]:
    """Of the columns of `pass_cells`: times and errors where some pass has them."""
    timed, verified = _measured(trace)
    return [*_HEADINGS, *(["ms"] if timed else []), *(["error"] if verified else [])]


def pass_cells(trace: Trace) -> list[list[str]]:
    """A row for each pass, under `headings`."""
    return [_cells(record, *_measured(trace)) for record in trace.passes]


def _measured(trace: Trace) -> tuple[bool, bool]:
    """Whether some pass has a time, and whether some pass was checked."""
    timed = any(record.seconds is not None for record in trace.passes)
    return timed, any(record.verification for record in trace.passes)


def _cells(record: PassRecord, timed: bool, verified: bool) -> list[str]:
    first = record.number == 0
    return [
        str(record.number),
        record.spelling,
        "" if first else EFFECTS.get(record.effect, (record.effect, ""))[0],
        "" if first else str(len(record.rewrites)),
        str(len(record.refusals) or ""),
        str(record.nodes_after),
        str(record.launches),
        f"{record.bytes_moved / 1e6:,.0f}",
        f"{record.weight_bytes / 1e6:,.0f}",
        str(record.bytes_a_token or ""),
        *(["" if first or record.seconds is None else f"{record.seconds * 1e3:.0f}"] if timed else []),
        *([f"{record.verification.difference:.0e}" if record.verification else ""] if verified else []),
    ]


def trace_view(trace: Trace) -> RenderableType:
    """The pass table, the stages, the seconds of each phase where they are known, the notes, the refusals by reason."""
    parts: list[RenderableType] = [pass_table(trace)]
    if stages := trace.stages():
        parts.append(Text(f"stages: {stages}"))
    if trace.phases:
        phases = " · ".join(f"{name} {seconds:.1f}" for name, seconds in trace.phases.items())
        parts.append(Text(f"seconds: {phases}"))
    if trace.quality:
        parts += [Text(), Text("What the transforms cost, on text held out from calibration", style="bold")]
        parts.append(quality_table(trace.quality))
    if trace.checks:
        parts += [Text(), Text("Compared with the model before it was given", style="bold")]
        parts += [_item(line) for line in check_lines(trace.checks)]
    noted = [record for record in trace.passes if record.notes]
    if noted:
        parts += [Text(), Text("Notes", style="bold")]
        parts += [_item(f"{record.name}: {note}") for record in noted for note in record.notes]
    refused = [record for record in trace.passes if record.refusals]
    if refused:
        parts += [Text(), Text("Left as it was", style="bold")]
        for record in refused:
            for reason in reasons(record.refusals):
                parts += _reason(record, reason)
    return Group(*parts)


def check_lines(checks: Sequence[Check]) -> list[str]:
    """What was compared, by what ran, and what was not."""
    made: dict[str, list[str]] = {}
    for check in checks:
        made.setdefault(check.by or "not compared", []).append(check.fed)
    return [f"{by}: {'; '.join(fed)}" for by, fed in made.items()]


def quality_table(records: Sequence[QualityRecord]) -> Table:
    """A row for each model: before the transforms, and after each of them."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False, header_style="bold")
    for place, heading in enumerate(QUALITY_HEADINGS):
        table.add_column(heading.replace(", ", "\n"), justify="right" if place else "left", overflow="fold")
    for record in records:
        table.add_row(*map(Text, quality_cells(record)))
    return table


def quality_cells(record: QualityRecord) -> tuple[str, ...]:
    """A row under `QUALITY_HEADINGS`."""
    return (
        record.name,
        f"{record.parameters / 1e6:,.1f}",
        f"{record.weight_bytes / 1e6:,.1f}",
        f"{record.cache_bytes_a_token:,}",
        f"{record.perplexity:,.3f}",
        f"{record.divergence:.4f}",
        f"{100 * record.agreement:.1f}%",
    )


def rewrites_view(trace: Trace) -> RenderableType:
    """What each pass rewrote: the rewrites that say the same but for numbers, with the first place of each."""
    parts: list[RenderableType] = []
    for record in trace.passes:
        for reason in reasons(record.rewrites):
            parts += _reason(record, reason)
    return Group(Text("Rewritten", style="bold"), *parts)


def plain_text(view: RenderableType, width: int = WIDTH) -> str:
    """Anything that rich can show, as text without colours."""
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False, force_terminal=False)
    with console.capture() as capture:
        console.print(view)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def _reason(record: PassRecord, reason: Reason) -> list[RenderableType]:
    place = INSTALLED.sub("", reason.first.where)
    return [
        _item(f"{record.name}, {reason.count} ×: {reason.text}"),
        _item(f"first: {place}", indent=4, style="dim"),
    ]


def _item(text: str, indent: int = 2, style: str = "") -> Padding:
    return Padding(Text(text, style=style), (0, 0, 0, indent))
