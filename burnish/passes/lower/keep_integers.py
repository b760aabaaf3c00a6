"""Weights that a file has integers for stand for these from here on: only those of one kind are joined."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.program import Program
from burnish.ir.quantization import kept, why_not_kept
from burnish.ir.weights import Reshape
from burnish.passes.base import Effect, Log


@dataclass(frozen=True)
class KeepIntegers:
    """weight of floats, which a file has integers for -> the integers and their scales."""

    name: ClassVar[str] = "keep-integers"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Replace each such weight, in place. It is floats to all that reads it, still."""
        editor = Editor(program)
        for leaf in [node for node in program.graph.nodes if node.op == "get_attr"]:
            name = program.weight_of(leaf)
            weight = program.weights[name]
            integers = kept(weight)
            if integers is None:
                if why := why_not_kept(weight):
                    log.refuse(leaf, f"{why}: floats")
                continue
            form = integers if integers.shape == weight.shape else Reshape(integers, weight.shape)
            new = editor.weight(f"{name}.{integers.numbers}", form)
            editor.replace(leaf, new)
            log.rewrite(new, f"{integers.numbers}, scales for each {integers.group}, as the file has them")
        remove_dead(program)
        return program
