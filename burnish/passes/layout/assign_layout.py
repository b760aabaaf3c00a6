"""In which order the axes of each tensor lie, decided for the whole graph by what the backend says that it costs.

Each op has a cost in each layout, from a table that the backend brings, and converting a tensor costs its bytes. Which
op works in which is a labelling of the graph by minimum cuts: with more than two layouts by alpha-expansion, and never
worse than any one layout everywhere.

ONNX Runtime's convolutions are blocked (NCHWc), and what it blocks by itself on the way from one to the next is left as
it is written; what stands between them goes channels last where that saves permutes, which its reorders absorb.
PyTorch's run channels last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.ir.edit import remove_dead
from burnish.ir.program import Program
from burnish.passes.base import Effect, Log
from burnish.passes.layout.moving import assign
from burnish.passes.layout.tables import table_of


@dataclass(frozen=True)
class AssignLayout:
    """`backend`: whose table of costs, "onnxruntime" or "pytorch"."""

    backend: str = "onnxruntime"

    name: ClassVar[str] = "assign-layout"
    effect: ClassVar[Effect] = Effect.REASSOCIATES  # sums may go along memory in another order
    atomic: ClassVar[bool] = True

    def run(self, program: Program, log: Log) -> Program:
        """Rewrite `program`, in place. Raises UsageError for a backend without a table."""
        assign(program, table_of(self.backend), log)
        remove_dead(program)
        return program
