"""What a pass is, and the log in which it says what it did and what it left alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import ClassVar, Protocol

from torch import fx

from burnish.ir.program import Program, describe
from burnish.ir.trace import Entry


class Effect(Enum):
    """What a pass does to the numbers."""

    EXACT = "exact"  # the same values, bit for bit
    REASSOCIATES = "reassociates"  # the same values up to the order of floating-point operations
    LOSSY = "lossy"  # another function; never runs unless asked for by name


@dataclass
class Log:
    """What one run of one pass reports."""

    rewrites: list[Entry] = field(default_factory=list)
    refusals: list[Entry] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def rewrite(self, node: fx.Node, text: str) -> None:
        """`node` was rewritten; `text` says into what."""
        self.rewrites.append(Entry(node.name, describe(node), text))

    def refuse(self, node: fx.Node, reason: str) -> None:
        """`node` looked like a place for this pass and was left as it is, for `reason`."""
        self.refusals.append(Entry(node.name, describe(node), reason))

    def note(self, text: str) -> None:
        """Something the user should know that is about no single node."""
        self.notes.append(text)


class Pass(Protocol):
    """A frozen dataclass whose fields are its options. `run` may change its program: it is the pipeline's copy."""

    effect: ClassVar[Effect]

    @property
    def name(self) -> str: ...
    def run(self, program: Program, log: Log) -> Program: ...
