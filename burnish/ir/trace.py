"""The record of a compilation: what each pass did. Made by the pipeline, kept in the artifact, shown by inspect."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Entry:
    """One rewrite made, or one refused, and why."""

    node: str  # name of the node in the graph before the pass
    where: str  # op, module and line of the user's source
    text: str


@dataclass(frozen=True)
class PassRecord:
    """What one pass did."""

    number: int  # 1 for the first pass; 0 is the graph as captured
    name: str
    options: dict[str, str]
    effect: str  # "exact", "reassociates", "lossy"
    rewrites: tuple[Entry, ...]
    refusals: tuple[Entry, ...]
    notes: tuple[str, ...]
    nodes_before: int
    nodes_after: int
    seconds: float
    weight_bytes: int  # bytes of all weights after the pass
    bytes_a_token: int  # bytes that each token adds to the states of one row; 0 before there are states
    text: str  # the program after the pass, repeated layers folded


@dataclass
class Trace:
    """All passes of one compilation, in order, and the phases around them (capture, lowering, writing) in seconds."""

    passes: list[PassRecord] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
