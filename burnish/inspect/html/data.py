"""Traces as the data of the page: every string once, every node record once for all passes that share it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from burnish.inspect.table import INSTALLED, reasons
from burnish.ir.trace import Entry, NodeRecord, PassRecord, Trace

Kernels = Mapping[str, Sequence[tuple[str, str]]]
"""For nodes of the last program, by name: the functions and sources of the kernels that run it."""


def report_data(trace: Trace, title: str, kernels: Kernels | None = None) -> dict[str, Any]:
    """What the page's script reads. Strings are indices into `strings`, nodes are rows of `nodes`."""
    tables = _Tables()
    passes = [_pass(record, tables) for record in trace.passes]
    for record in trace.passes[-1].nodes if kernels else ():
        tables.add_kernels(record, (kernels or {}).get(record.name, ()))
    return {
        "title": title,
        "counted": trace.counted_for,
        "phases": list(trace.phases.items()),
        "checks": [[check.fed, check.by] for check in trace.checks],
        "passes": passes,
        "nodes": tables.rows,
        "strings": list(tables.strings),
    }


Named = tuple[str, Trace]
"""What an artifact is called, and its trace."""


def comparison_data(first: Named, second: Named) -> dict[str, Any]:
    """The same for two traces: `passes` are those of the second, and `others`, as many, those of the first beside them.

    A pass that one of the two lacks is, for that one, the pass before once more, as `absent`.
    """
    tables = _Tables()
    sides: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    for pair in _aligned(first[1].passes, second[1].passes):
        for side, record, twin in zip(sides, pair, reversed(pair), strict=True):
            if record is None and twin is not None:
                side.append({**side[-1], "name": twin.name, "absent": True})
            elif record is not None:
                side.append(_pass(record, tables))
    return {
        "title": f"{first[0]} and {second[0]}",
        "titles": [first[0], second[0]],
        "counted": second[1].counted_for,
        "phases": list(second[1].phases.items()),
        "checks": [[check.fed, check.by] for check in second[1].checks],
        "otherChecks": [[check.fed, check.by] for check in first[1].checks],
        "passes": sides[1],
        "others": sides[0],
        "nodes": tables.rows,
        "strings": list(tables.strings),
    }


def _aligned(
    first: Sequence[PassRecord], second: Sequence[PassRecord]
) -> Iterator[tuple[PassRecord | None, PassRecord | None]]:
    """The passes of both in one order, those of the same name together. The programs as captured are a pair."""
    yield first[0], second[0]
    one, two = first[1:], second[1:]
    names = [[record.name for record in records] for records in (one, two)]
    for kind, low, high, from_, to in SequenceMatcher(a=names[0], b=names[1], autojunk=False).get_opcodes():
        if kind == "equal":
            yield from zip(one[low:high], two[from_:to], strict=True)
        else:
            yield from ((record, None) for record in one[low:high])
            yield from ((None, record) for record in two[from_:to])


class _Tables:
    """Strings and node records, each once."""

    def __init__(self) -> None:
        self.strings: dict[str, int] = {}
        self.rows: list[list[Any]] = []
        self._places: dict[NodeRecord, int] = {}

    def string(self, text: str) -> int:
        return self.strings.setdefault(text, len(self.strings))

    def node(self, record: NodeRecord) -> int:
        """The row of a record. `data.js` names the columns."""
        place = self._places.setdefault(record, len(self.rows))
        if place == len(self.rows):
            texts = (record.name, record.op, record.target, record.type, record.call)
            origin = (record.module, record.module_type, record.source, record.code)
            self.rows.append(
                [
                    *(self.string(text) for text in (*texts, *origin)),
                    record.launches,
                    record.bytes_moved,
                    record.history,
                    [self.string(read) for read in record.reads],
                    [],
                ]
            )
        return place

    def add_kernels(self, record: NodeRecord, kernels: Sequence[tuple[str, str]]) -> None:
        self.rows[self.node(record)][-1] = [[self.string(name), self.string(source)] for name, source in kernels]

    def entries(self, entries: Sequence[Entry]) -> list[list[int]]:
        return [
            [self.string(entry.node), self.string(INSTALLED.sub("", entry.where)), self.string(entry.text)]
            for entry in entries
        ]


def _pass(record: PassRecord, tables: _Tables) -> dict[str, Any]:
    check = record.verification
    return {
        "number": record.number,
        "name": record.name,
        "options": record.options,
        "effect": record.effect,
        "stage": record.stage,
        "seconds": record.seconds,
        "launches": record.launches,
        "bytes_moved": record.bytes_moved,
        "floor_bytes": record.floor_bytes,
        "bytes_a_token": record.bytes_a_token,
        "weight_bytes": record.weight_bytes,
        "notes": record.notes,
        "rewrites": tables.entries(record.rewrites),
        "refusals": tables.entries(record.refusals),
        "rewrite_groups": _groups(record.rewrites),
        "refusal_groups": _groups(record.refusals),
        "verification": check and {"difference": check.difference, "tolerance": check.tolerance, "runs": check.runs},
        "nodes": [tables.node(node) for node in record.nodes],
    }


def _groups(entries: Sequence[Entry]) -> list[list[int]]:
    """The places of the entries that say the same but for numbers, the most frequent first."""
    places = {id(entry): place for place, entry in enumerate(entries)}
    return [[places[id(entry)] for entry in reason.entries] for reason in reasons(entries)]
