"""A trace as the data of the page: every string once, every node record once for all passes that share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        "context": trace.context,
        "phases": list(trace.phases.items()),
        "checks": [[check.fed, check.by] for check in trace.checks],
        "passes": passes,
        "nodes": tables.rows,
        "strings": list(tables.strings),
    }


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
