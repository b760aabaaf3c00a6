"""The record of a compilation in the files of an artifact."""

from __future__ import annotations

from dataclasses import dataclass, replace

from burnish.ir.errors import ArtifactError
from burnish.ir.trace import NodeRecord, Trace
from burnish.runtime.artifact import NODES_FILE, TRACE_FILE, Artifact


@dataclass(frozen=True)
class StoredNodes:
    """The nodes of all programs of a trace, each once; for each pass which ones, in order, and its declarations."""

    nodes: list[NodeRecord]
    passes: list[list[int]]
    declarations: list[str]


def text_file(number: int, name: str) -> str:
    """Where the program after a pass is, as text."""
    return f"trace/{number:02d}-{name}.txt"


def read_trace(artifact: Artifact) -> Trace:
    """The record, with its programs. Raises ArtifactError where the files do not fit."""
    trace = artifact.decoded(TRACE_FILE, Trace)
    stored = artifact.decoded(NODES_FILE, StoredNodes)
    known = range(len(stored.nodes))
    sizes = {len(trace.passes), len(stored.passes), len(stored.declarations)}
    if len(sizes) != 1 or not all(index in known for indices in stored.passes for index in indices):
        raise ArtifactError(f"{NODES_FILE} in {artifact.path} does not fit {TRACE_FILE}: compile or copy it again")
    for place, record in enumerate(trace.passes):
        text = artifact.text(text_file(record.number, record.name))
        nodes = tuple(stored.nodes[index] for index in stored.passes[place])
        trace.passes[place] = replace(record, text=text, nodes=nodes, declarations=stored.declarations[place])
    return trace
