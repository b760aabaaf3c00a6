"""Permutes that need not be carried out: what reads them works in the order that there is.

A permute is moved through what computes the same in any order of axes (pointwise ops, norms, softmax, joins, slices,
reductions, reshapes that keep axes apart), forwards or backwards, as far as where it meets its inverse or merges with
another, or where less is to be moved. Which go where is one minimum cut over the bytes that are moved, for each way in
which permutes could go, so that none is moved in vain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.ir.edit import remove_dead
from burnish.ir.program import Program
from burnish.passes.base import Effect, Log
from burnish.passes.layout.moving import assign
from burnish.passes.layout.tables import AS_WRITTEN


@dataclass(frozen=True)
class CancelTransposes:
    """Permutes merged, moved and cancelled, so that fewer bytes are moved."""

    name: ClassVar[str] = "cancel-transposes"
    effect: ClassVar[Effect] = Effect.REASSOCIATES  # sums may go along memory in another order
    atomic: ClassVar[bool] = True

    def run(self, program: Program, log: Log) -> Program:
        """Rewrite `program`, in place."""
        assign(program, AS_WRITTEN, log)
        remove_dead(program)
        return program
