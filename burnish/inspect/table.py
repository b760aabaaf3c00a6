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

from burnish.ir.sizes import size_text, unit_of
from burnish.ir.trace import Check, Entry, PassRecord, QualityRecord, Trace

WIDTH = 80
_NUMBER = re.compile(r"_?[0-9]+")
INSTALLED = re.compile(r"/\S*/site-packages/")  # where a library is installed says nothing about the model
EFFECTS = {
    "exact": ("=", "exact"),
    "reassociates": ("≈", "the same but for the order of additions"),
    "lossy": ("≠", "another function"),
}
_STYLES = {"=": "green", "≈": "cyan", "≠": "yellow"}
QUALITY_HEADINGS = (
    "model",
    "parameters",
    "weights",
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
    """A row for each pass; at most WIDTH columns wide, unless a name alone takes more than there is."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=0,
        pad_edge=False,
        header_style="bold",
        caption="numbers: = exact, ≈ but for the order of additions, ≠ lossy; launches and bytes moved: of "
        f"{trace.counted_for}, ≥ the least there can be: weights, cache, in and out, each once",
        caption_justify="left",
    )
    longest = max((len(record.name) for record in trace.passes), default=0)
    for place, heading in enumerate(headings(trace)):
        named = place == _NAME
        table.add_column(
            heading,
            justify="left" if named or not heading else "right",
            no_wrap=not named,
            overflow="fold",
            min_width=min(longest, _LONGEST_NAME) if named else None,
        )
    for number, name, sign, *rest in pass_cells(trace):
        whole = name if len(name) <= longest else name.replace("{", "\n{", 1)  # options below the name
        table.add_row(number, Text(whole), Text(sign, style=_STYLES.get(sign, "")), *rest)
    if len(trace.passes) > 1:
        table.add_section()
        floor = trace.passes[-1].floor_bytes
        _, moved = unit_of(record.bytes_moved for record in trace.passes)
        least = f"≥{floor / moved:,.0f}" if floor else ""
        times = [record.seconds or 0.0 for record in trace.passes if _measured(trace)[0]]
        total = [f"{sum(times) * 1e3:.0f}"] if times else []
        table.add_row("", "all", "", "", "", "", "", least, "", "", *total, style="bold")
    return table


_NAME, _LONGEST_NAME = 1, 20  # the column of names, and the longest one that is kept whole


def headings(trace: Trace) -> list[str]:
    """Of the columns of `pass_cells`: errors or else times where some pass has them, bytes in the unit that suits."""
    timed, verified = _measured(trace)
    moved, _ = unit_of(record.bytes_moved for record in trace.passes)
    held, _ = unit_of(record.weight_bytes for record in trace.passes)
    sizes = [f"moved\n{moved}", f"weights\n{held}", "cache\nB/token"]
    counts = ["re-\nwrites", "re-\nfused", "nodes", "laun-\nches"]
    return ["#", "pass", "", *counts, *sizes, *(["ms"] if timed else []), *(["error"] if verified else [])]


def pass_cells(trace: Trace) -> list[list[str]]:
    """A row for each pass, under `headings`."""
    _, moved = unit_of(record.bytes_moved for record in trace.passes)
    _, held = unit_of(record.weight_bytes for record in trace.passes)
    return [_cells(record, moved, held, *_measured(trace)) for record in trace.passes]


def _measured(trace: Trace) -> tuple[bool, bool]:
    """Whether some pass has a time, and whether some pass was checked: then there is no room for times."""
    verified = any(record.verification for record in trace.passes)
    return not verified and any(record.seconds is not None for record in trace.passes), verified


def _cells(record: PassRecord, moved: float, held: float, timed: bool, verified: bool) -> list[str]:
    first = record.number == 0
    return [
        str(record.number),
        record.spelling,
        "" if first else EFFECTS.get(record.effect, (record.effect, ""))[0],
        "" if first else str(len(record.rewrites)),
        str(len(record.refusals) or ""),
        str(record.nodes_after),
        str(record.launches),
        f"{record.bytes_moved / moved:,.0f}",
        f"{record.weight_bytes / held:,.0f}",
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
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, header_style="bold")
    for place, heading in enumerate(QUALITY_HEADINGS):
        table.add_column(heading.replace(", ", "\n"), justify="right" if place else "left", overflow="fold")
    for record in records:
        table.add_row(*map(Text, quality_cells(record)))
    return table


def quality_cells(record: QualityRecord) -> tuple[str, ...]:
    """A row under `QUALITY_HEADINGS`."""
    return (
        record.name,
        f"{record.parameters / 1e6:,.1f} M" if record.parameters >= 1e5 else f"{record.parameters:,}",
        size_text(record.weight_bytes),
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
