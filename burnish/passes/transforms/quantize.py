"""Weights of products in 8 or 4 bits, with a scale for each group of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.program import Program
from burnish.ir.quantization import as_quantized, rounded
from burnish.passes.base import Effect, Log
from burnish.passes.transforms.calibration import Calibration

aten = torch.ops.aten

BITS = {"int8": 8, "int4": 4}


@dataclass(frozen=True)
class Quantize:
    """Weights of linears in `numbers`, rounded to the nearest, with a scale for each `group` along a row."""

    numbers: Literal["int8", "int4"] = "int4"
    group: int = 32  # weights of a row that share a scale: 32, 64 or 128
    calibration: Calibration | None = field(default=None, repr=False, compare=False)
    name: ClassVar[str] = "quantize"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = False
    place: ClassVar[int] = 2

    def run(self, program: Program, log: Log) -> Program:
        """Quantize the weight of every linear, in place."""
        editor = Editor(program)
        for node in list(program.graph.nodes):
            if node.op != "get_attr":
                continue
            readers = [user for user in node.users if user.target is aten.linear.default and user.args[1] is node]
            if not readers:
                continue
            reason = self._obstacle(program, node)
            if reason:
                log.refuse(readers[0], reason)
                continue
            name = program.weight_of(node)
            quantized = rounded(program.weights[name], BITS[self.numbers], self.group)
            editor.replace(node, editor.weight(f"{name}.{self.numbers}", quantized))
            log.rewrite(readers[0], f"{self.numbers}, a scale for each {self.group}")
        remove_dead(program)
        return program

    def _obstacle(self, program: Program, node: fx.Node) -> str:
        """Why a weight stays as it is; nothing if it need not."""
        if as_quantized(program.weights[program.weight_of(node)]) is not None:
            return "its weight is of integers already"
        size = int(node.meta["val"].shape[1])
        return f"its rows of {size} are no whole groups of {self.group}" if size % self.group else ""
