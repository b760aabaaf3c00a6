"""Weights of products in 8 or 4 bits, with a scale for each group: a step of few tokens reads that much less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.program import Program
from burnish.ir.quantization import as_quantized, rounded
from burnish.ir.weights import Weight
from burnish.passes.base import Effect, Log
from burnish.passes.read_integers import PRODUCTS, obstacle, use_integers


@dataclass(frozen=True)
class QuantizeWeights:
    """fused_linear(x, w), attention_projection(x, w) -> the same of integers, rounded to the nearest, and scales."""

    bits: int  # 8 or 4
    group: int = 32  # weights along the last axis that share a scale: 32, 64 or 128
    name: ClassVar[str] = "quantize-weights"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Quantize the weight of every product, in place."""
        editor = Editor(program)
        for node in list(program.graph.nodes):
            if node.target not in PRODUCTS:
                continue
            reason = obstacle(node) or self._obstacle(_weight(program, node))
            if reason:
                log.refuse(node, reason)
                continue
            use_integers(program, editor, node, rounded(_weight(program, node), self.bits, self.group))
            log.rewrite(node, f"{self.bits} bits, a scale for each {self.group}")
        remove_dead(program)
        return program

    def _obstacle(self, weight: Weight) -> str:
        """Why a weight cannot be rounded; nothing if it can."""
        if as_quantized(weight) is not None:
            return "its weight stands for other integers already"
        size = weight.shape[1]
        return f"its rows of {size} are no whole groups of {self.group}" if size % self.group else ""


def _weight(program: Program, node: fx.Node) -> Weight:
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    return program.weights[program.weight_of(weight)]
