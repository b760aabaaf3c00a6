"""A pass that is a list of rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from burnish.ir.program import Program
from burnish.passes.base import Effect, Log
from burnish.rewrite.engine import Rule, rewrite


@dataclass(frozen=True)
class Rules:
    """Applies `rules` in one walk."""

    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    name: str
    rules: tuple[Rule, ...] = field(repr=False)

    def run(self, program: Program, log: Log) -> Program:
        """Rewrite `program`, in place."""
        rewrite(program, self.rules, log)
        return program
