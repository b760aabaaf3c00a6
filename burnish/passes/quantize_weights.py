"""Weights of products in 8 or 4 bits, with a scale for each group: a step of few tokens reads that much less."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.fused_ops import fused_ops
from burnish.ir.program import Program
from burnish.ir.quantization import QuantizedWeight
from burnish.passes.base import Effect, Log

_PRODUCTS = (fused_ops.fused_linear.default, fused_ops.attention_projection.default)


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
            if node.target not in _PRODUCTS:
                continue
            reason = self._obstacle(node)
            if reason:
                log.refuse(node, reason)
                continue
            weight = node.args[1]
            name = program.weight_of(weight)
            quantized = QuantizedWeight(program.weights[name], self.bits, self.group)
            values = editor.weight(f"{name}.int{self.bits}", quantized)
            scales = editor.weight(f"{name}.scales", quantized.scales)
            options = {**node.kwargs, "scales": scales}
            with editor.before(node):
                new = editor.call(node.target, node.args[0], values, *node.args[2:], like=node, **options)
            editor.replace(node, new)
            log.rewrite(node, f"{self.bits} bits, a scale for each {self.group}")
        remove_dead(program)
        return program

    def _obstacle(self, node: fx.Node) -> str:
        """Why the node's weight stays as it is; nothing if it need not."""
        weight = node.args[1]
        if not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return "its weight is computed in the graph"
        if not weight.meta["val"].dtype.is_floating_point:
            return "its weight is of integers already"
        others = [user for user in weight.users if user is not node]
        if others:
            return f"its weight is read by {others[0].name} too, and would be stored twice"
        size = int(weight.meta["val"].shape[1])
        return f"its rows of {size} are no whole groups of {self.group}" if size % self.group else ""
