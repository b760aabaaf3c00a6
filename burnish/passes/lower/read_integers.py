"""Products whose weights stand for integers read these and their scales.

For kernels of `fused_linear` and `attention_projection`. Where they cannot read the integers, the weight stays in
floats, and the log says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.fused_ops import fused_ops
from burnish.ir.program import Program
from burnish.ir.quantization import Quantized, as_quantized, regrouped
from burnish.passes.base import Effect, Log

PRODUCTS = (fused_ops.fused_linear.default, fused_ops.attention_projection.default)
_GROUPS = (128, 64, 32)  # that the kernels know


@dataclass(frozen=True)
class ReadIntegers:
    """fused_linear(x, w), attention_projection(x, w) of a w that stands for integers -> the same of these, and scales.

    What else reads such a weight keeps it in floats.
    """

    name: ClassVar[str] = "read-integers"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Let every product read the integers that its weight has, in place."""
        editor = Editor(program)
        for leaf in [node for node in program.graph.nodes if node.op == "get_attr"]:
            given = as_quantized(program.weights[program.weight_of(leaf)])
            if given is None:
                continue
            quantized, reason = _for_kernels(given)
            for user in list(leaf.users):
                reason = obstacle(user) or reason
                if reason:
                    log.refuse(user, f"{reason}: the weight stays in floats")
                    continue
                use_integers(program, editor, user, quantized)
                log.rewrite(user, f"{given.bits} bits, a scale for each {given.group}")
        remove_dead(program)
        return program


def _for_kernels(weight: Quantized) -> tuple[Quantized, str]:
    """The weight in groups that the kernels know, or why there are none."""
    if weight.zeros is not None:
        return weight, "the kernels know no zero points"
    if weight.group in _GROUPS:
        return weight, ""
    smaller = next((group for group in _GROUPS if weight.group % group == 0), None)
    if smaller is None or weight.bits != 8:
        return weight, f"the kernels know groups of 32, 64 and 128, and these are of {weight.group}"
    return regrouped(weight, smaller), ""


def obstacle(node: fx.Node) -> str:
    """Why a node cannot read integers in place of its weight, whatever they are; nothing if it can."""
    if node.target not in PRODUCTS:
        return f"{node.target} has no kernel that reads integers"
    weight = node.args[1]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return "its weight is computed in the graph"
    if not weight.meta["val"].dtype.is_floating_point:
        return "its weight is of integers already"
    others = [user for user in weight.users if user is not node]
    return f"its weight is read by {others[0].name} too, and would be stored twice" if others else ""


def use_integers(program: Program, editor: Editor, node: fx.Node, quantized: Quantized) -> None:
    """Let one of `PRODUCTS` read integers and scales in place of its weight."""
    name = program.weight_of(node.args[1])  # type: ignore[arg-type]
    values = editor.weight(f"{name}.int{quantized.bits}", quantized.values)
    scales = editor.weight(f"{name}.scales", quantized.scales)
    options: dict[str, Any] = {**node.kwargs, "scales": scales}
    with editor.before(node):
        new = editor.call(node.target, node.args[0], values, *node.args[2:], like=node, **options)
    editor.replace(node, new)
