"""`Why` for people: what was rewritten, and what was not, the nearest first, what layers repeat once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.text import Text

from burnish.inspect.why import Candidate, Obstacle, Why

_NUMBER = re.compile(r"_?[0-9]+")
_MOST_GROUPS = 12  # of candidates, where the whole program was asked about
_MOST_OPS = 12


def why_view(why: Why) -> RenderableType:
    """All that `why` found, grouped; every rule at every candidate where a place was asked about."""
    parts: list[RenderableType] = [Text(f"{why.pass_name}, pass {why.number}", style="bold"), Text(why.does)]
    place = f" at {why.where}" if why.where else ""
    if why.error:
        ended = "It" if why.ended_by == why.pass_name else f"It did not run: {why.ended_by}"
        parts += [Text(), Text(f"{ended} ended with an error", style="bold red"), _indented(why.error)]
    elsewhere = f" ({why.rewrites_elsewhere} elsewhere)" if why.rewrites_elsewhere else ""
    if not why.error or why.candidates:
        parts += [Text(), Text(f"Rewritten{place}: {len(why.rewritten) or 'nothing'}{elsewhere}", style="bold")]
        parts += _rewritten(why)
    parts += _left(why, place)
    if not why.candidates and not why.error:
        parts += [Text(), *_nothing(why, place)]
    if why.notes:
        parts += [Text(), Text("Notes", style="bold"), *(_indented(note) for note in why.notes)]
    return Group(*parts)


def _rewritten(why: Why) -> list[RenderableType]:
    parts: list[RenderableType] = []
    for group in _groups(why.rewritten, lambda each: _NUMBER.sub("", each.rewritten)):
        parts.append(_indented(f"{len(group)} × {group[0].rewritten}"))
        places = _groups(group, lambda each: (each.site.source, each.site.op)) if why.where else [group]
        parts += [_indented(_first(each), 6, "dim") for each in places]
    return parts


def _left(why: Why, place: str) -> list[RenderableType]:
    groups = _groups(why.missed, _alike)
    if not groups:
        return []
    near = [group for group in groups if group[0].nearness > 0]
    if not why.where:
        near = near[:_MOST_GROUPS]
    elif not near and not why.rewritten:  # somebody asks about just these
        near = groups
    where = place if why.candidates else f" beside {why.where}"
    parts: list[RenderableType] = [
        Text(),
        Text(f"Left as they were{where}, the nearest first: {len(why.missed)}", style="bold"),
    ]
    for group in near:
        first = group[0]
        parts.append(_indented(_first(group)))
        for obstacle in first.obstacles:
            if why.where or obstacle.nearness > 0:
                parts += _obstacle(obstacle, first)
    rest = sum(len(group) for group in groups) - sum(len(group) for group in near)
    if rest:
        more = "more that are further from it" if near else "of which no more than the first op matched"
        how = "a narrower WHERE" if why.where else "WHERE"
        parts.append(_indented(f"{rest} {more}; {how} shows those of one place", style="dim"))
    return parts


def _first(group: Sequence[Candidate]) -> str:
    return f"{len(group)} ×, first: {group[0].site}" if len(group) > 1 else str(group[0].site)


def _obstacle(obstacle: Obstacle, candidate: Candidate) -> list[RenderableType]:
    text = obstacle.text if obstacle.refused else f"{obstacle.matched} of {obstacle.total} ops: {obstacle.text}"
    parts: list[RenderableType] = [_indented(f"{obstacle.rule}: {text}" if obstacle.rule else text, 6)]
    culprit, site = obstacle.culprit, candidate.site
    if culprit != site:  # what is as at the candidate is not said again
        module = culprit.module if culprit.module != site.module else ""
        line = culprit.source if culprit.source != site.source or module else ""
        short = replace(culprit, module=module, module_type="", source=line, code=culprit.code if line else "")
        parts.append(_indented(f"at {short}", 8, "dim"))
    return parts


def _nothing(why: Why, place: str) -> list[RenderableType]:
    """What the pass looks for and what there is, where it looked at nothing."""
    ops = [f"{name} ({count} ×)" if count > 1 else name for name, count in why.ops.items()]
    more = f" and {len(ops) - _MOST_OPS} more" if len(ops) > _MOST_OPS else ""
    if not why.begins_with:  # a pass that is no list of rules: what it looks for is not known here
        parts: list[RenderableType] = [Text(f"The pass found nothing to do{place}.")]
    else:
        parts = [Text(f"No op{place or ' of the program'} is one that the pass begins with.")]
        parts.append(_indented(f"it begins with: {', '.join(why.begins_with)}"))
        short = {name.split(".")[:2][-1]: name for name in why.ops}
        near = [short[found] for name in why.begins_with for found in _like(name.split(".")[:2][-1], short)]
        if near:
            parts.append(_indented(f"nearest in name: {', '.join(dict.fromkeys(near))}"))
    parts.append(_indented(f"there are: {', '.join(ops[:_MOST_OPS])}{more}"))
    return parts


def _like(name: str, names: Iterable[str]) -> list[str]:
    return difflib.get_close_matches(name, list(names), n=1, cutoff=0.7)


def _alike(candidate: Candidate) -> Hashable:
    """Equal for candidates that differ in their layer alone."""
    obstacles = tuple(
        (each.rule, each.matched, each.total, _NUMBER.sub("", each.text), each.culprit.op, each.culprit.source)
        for each in candidate.obstacles
    )
    return candidate.site.op, candidate.site.source, obstacles


def _groups(candidates: Iterable[Candidate], key: Callable[[Candidate], Hashable]) -> list[Sequence[Candidate]]:
    groups: dict[Hashable, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(key(candidate), []).append(candidate)
    return list(groups.values())


def _indented(text: str, indent: int = 2, style: str = "") -> Padding:
    return Padding(Text(text, style=style), (0, 0, 0, indent))
