"""A pass that is a list of rules."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from burnish.ir.program import Program
from burnish.passes.base import Effect, Log
from burnish.rewrite.engine import Rule, rewrite


@dataclass(frozen=True)
class Rules:
    """Applies `rules` in one walk; stops after `fuel` rewrites (None: no limit), which is for bisecting."""

    effect: ClassVar[Effect] = Effect.REASSOCIATES

    name: str
    rules: tuple[Rule, ...] = field(repr=False)
    fuel: int | None = None

    def run(self, program: Program, log: Log) -> Program:
        """Rewrite `program`, in place."""
        rewrite(program, self.rules, log, self.fuel)
        return program
