"""What a pass is, and the log in which it says what it did and what it left alone."""

from __future__ import annotations

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


class OutOfFuel(Exception):
    """Ends a pass right after the last rewrite that it may make; for the pipeline, which takes the program as it is."""


class Log:
    """What one run of one pass reports.

    A pass reports each rewrite when the program is whole again: after `fuel` of them (None: no limit) it is stopped
    there. `program` is what it works on, `number` its own in the pipeline: new nodes remember which rewrite made them.
    """

    def __init__(self, program: Program | None = None, number: int = 0, fuel: int | None = None) -> None:
        self.rewrites: list[Entry] = []
        self.refusals: list[Entry] = []
        self.notes: list[str] = []
        self._program = program
        self._number = number
        self._fuel = fuel

    def rewrite(self, node: fx.Node, text: str) -> None:
        """`node` was rewritten; `text` says into what."""
        self.claim(len(self.rewrites))
        self.rewrites.append(Entry(node.name, describe(node), text))
        if self._fuel is not None and len(self.rewrites) >= self._fuel:
            raise OutOfFuel

    def refuse(self, node: fx.Node, reason: str) -> None:
        """`node` looked like a place for this pass and was left as it is, for `reason`."""
        self.refusals.append(Entry(node.name, describe(node), reason))

    def note(self, text: str) -> None:
        """Something the user should know that is about no single node."""
        self.notes.append(text)

    def claim(self, rewrite: int) -> None:
        """The nodes that were made since the last time come from this rewrite; -1: from the pass as a whole."""
        if self._program is not None:
            for node in self._program.made:
                node.meta["history"] = (*node.meta.get("history", ()), (self._number, rewrite))
            self._program.made.clear()


class Pass(Protocol):
    """A frozen dataclass whose fields are its options. `run` may change its program: it is the pipeline's copy.

    A pass whose program is not whole before its last rewrite is `atomic`: it runs to its end or not at all.
    """

    effect: ClassVar[Effect]
    atomic: ClassVar[bool]

    @property
    def name(self) -> str: ...
    def run(self, program: Program, log: Log) -> Program: ...
