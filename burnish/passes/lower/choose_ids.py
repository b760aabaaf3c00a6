"""What generation asks for in place of logits, chosen where these are made: the ids of the greatest, and the top.

Of a step on a GPU these alone go to the CPU: of 49,152 logits one id, or 128 scores. A step gives one of the results;
what only the others need is not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from burnish.ir.edit import Editor
from burnish.ir.errors import UsageError
from burnish.ir.fused_ops import fused_ops
from burnish.ir.program import Program, Stage, value
from burnish.passes.base import Effect, Log
from burnish.runtime.executor import TOP

aten = torch.ops.aten


@dataclass(frozen=True)
class ChooseIds:
    """The results `ids` and `top` ahead of the logits, which stay as they are."""

    name: ClassVar[str] = "choose-ids"
    effect: ClassVar[Effect] = Effect.EXACT
    atomic: ClassVar[bool] = True

    def run(self, program: Program, log: Log) -> Program:
        """Add both results, in place. Raises UsageError for a program that is no step yet."""
        if program.stage is not Stage.INCREMENTAL:
            raise UsageError(f"{self.name} is for step programs: insert-states has to be among the passes before it")
        results, states = program.results, program.new_states
        logits = results["logits"]
        if "ids" in results:
            log.refuse(logits, "the program gives ids already")
            return program
        editor = Editor(program)
        with editor.before(program.output):
            ids = editor.call(aten.argmax.default, logits, -1, like=logits)
            count = min(TOP, int(value(logits).shape[-1]))
            top = editor.call(fused_ops.top_scores.default, logits, count, like=logits)
        program.give({"ids": ids, "top": top, **results}, states)
        log.rewrite(logits, f"gives the id of the greatest, and the {count} greatest, too")
        return program
