"""Differences for people: counts first, then what is told once for the whole model, then the lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from burnish.inspect.diff import ArtifactDiff, Group, Measure, ProgramDiff
from burnish.inspect.text_diff import Hunk

_STYLES = {"-": "red", "+": "green", " ": ""}
_MOST_NAMES = 4  # of what differs in the same way


def program_diff_view(diff: ProgramDiff) -> RenderableType:
    """A head line of counts, ops that came and went, sizes that changed throughout, and a unified diff."""
    parts: list[RenderableType] = [
        Text.assemble((f"--- {diff.before}", "bold red")),
        Text.assemble((f"+++ {diff.after}", "bold green")),
        *_measures(diff.measures),
    ]
    if diff.ops:
        changed = sorted(diff.ops.items(), key=lambda item: (item[1][1] - item[1][0], item[0]))
        parts.append(Text("ops: " + ", ".join(f"{new - old:+d} {op}" for op, (old, new) in changed)))
    if diff.text.sizes:
        sizes = ", ".join(f"{old} → {new} in {count} lines" for (old, new), count in diff.text.sizes.items())
        parts.append(Text(f"numbers that changed throughout, and are not shown below: {sizes}"))
    if diff.text.same:
        parts.append(Text("the programs are the same"))
    for hunk in diff.text.hunks:
        parts += _hunk(hunk)
    return Lines(*parts)


def artifact_diff_view(diff: ArtifactDiff, before: str, after: str) -> RenderableType:
    """All that differs between two artifacts, which are called so."""
    if diff.same:
        return Text(f"{before} and {after} are equal: same program, weights, states, passes and settings")
    parts: list[RenderableType] = []
    if diff.settings:
        parts += _section("Settings", [f"{name}: {old} → {new}" for name, (old, new) in diff.settings.items()])
    if diff.passes:
        parts += _section("Passes", diff.passes)
    for title, groups in (("States", diff.states), ("Weights", diff.weights)):
        if groups:
            parts += _section(title, [_group(group) for group in groups])
    unchanged = [title for title, found in (("weights", diff.weights), ("states", diff.states)) if not found]
    if unchanged:
        parts.append(Text(f"The {' and the '.join(unchanged)} are the same."))
    return Lines(*parts, Text(), Text("Program", style="bold"), program_diff_view(diff.program))


def _measures(measures: Sequence[Measure]) -> list[RenderableType]:
    """`nodes 312 → 280 · launches 214 → 182`; what is as it was is not said."""
    told = []
    for each in measures:
        before, after = _number(each.before), _number(each.after)
        if before != after:
            told.append(f"{each.name} {before} → {after} {each.unit}".rstrip())
    return [Text(" · ".join(told))] if told else []


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount == int(amount) or amount >= 100 else f"{amount:.2f}"


def _group(group: Group) -> str:
    names = [f"{name} ({count} ×)" if count > 1 else name for name, count in group.names.items()]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    amount = f" (by at most {group.largest:.2g})" if group.largest else ""
    return f"{group.count} × {group.what}{amount}: {', '.join(names[:_MOST_NAMES])}{more}"


def _hunk(hunk: Hunk) -> list[RenderableType]:
    lines = [Text(line, style=_STYLES[line[0]]) for line in hunk.lines]
    return [Text(hunk.heading, style="cyan"), *lines]


def _section(title: str, lines: Iterable[str]) -> list[RenderableType]:
    return [Text(title, style="bold"), *(Text(f"  {line}") for line in lines)]
