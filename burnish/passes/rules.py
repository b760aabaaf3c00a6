"""A pass that is a list of rules."""

from __future__ import annotations

from dataclasses import dataclass, field

from burnish.ir.program import Program
from burnish.passes.base import Effect, Log
from burnish.rewrite.engine import Rule, rewrite


@dataclass(frozen=True)
class Rules:
    """Applies `rules` in one walk. `fuel` is the number of rewrites after which it stops (None: no limit), for bisecting."""

    name: str
    rules: tuple[Rule, ...] = field(repr=False)
    effect: Effect = Effect.REASSOCIATES  # type: ignore[misc]  # the protocol has it on the class
    fuel: int | None = None

    def run(self, program: Program, log: Log) -> Program:
        """Rewrite `program`, in place."""
        rewrite(program, self.rules, log, self.fuel)
        return program
