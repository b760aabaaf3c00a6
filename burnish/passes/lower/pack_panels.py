"""Weights of products in panels, in the order in which CPUs stream them: what they stand for stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from burnish.ir.arguments import argument
from burnish.ir.edit import Editor, remove_dead
from burnish.ir.fused_ops import fused_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.panels import Panels, RowOrder, format_of, panel_ops
from burnish.ir.program import Program, value
from burnish.ir.weights import Reshape
from burnish.passes.base import Effect, Log

aten = torch.ops.aten


def _in_order(user: fx.Node) -> RowOrder:
    return RowOrder()


def _of_product(user: fx.Node) -> RowOrder:
    return RowOrder(pairs=bool(user.kwargs.get("gated", False)))


def _of_heads(user: fx.Node) -> RowOrder:
    return RowOrder(head=int(value(argument(user, "key_state")).shape[-1]))


def _of_experts(user: fx.Node) -> RowOrder:
    return RowOrder(head=int(value(argument(user, "weight")).shape[1]))


READERS: dict[Any, tuple[int, Callable[[fx.Node], RowOrder]]] = {
    fused_ops.fused_linear.default: (1, _of_product),
    fused_ops.attention_projection.default: (1, _of_heads),
    aten.embedding.default: (0, _in_order),
    burnish_ops.moe_linear.default: (1, _of_experts),
}
"""What reads panels: which operand they are of, and the order of rows that it wants."""


@dataclass(frozen=True)
class PackPanels:
    """linear(x, weight) -> linear(x, from_panels(panels)).

    dtype: what floats are stored in: None for what the model's file has them in, which loses nothing.
    """

    dtype: torch.dtype | None = None
    name: ClassVar[str] = "pack-panels"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Pack what products and lookups read, in place."""
        editor = Editor(program)
        for leaf in [node for node in program.graph.nodes if node.op == "get_attr"]:
            name = program.weight_of(leaf)
            weight = program.weights[name]
            if len(weight.shape) not in (2, 3) or weight.dtype != torch.float32:
                continue
            experts = weight.shape[0] if len(weight.shape) == 3 else 0
            rows = Reshape(weight, (experts * weight.shape[1], weight.shape[2])) if experts else weight
            made: dict[RowOrder, fx.Node] = {}
            for user in sorted(leaf.users):  # in the order of the graph: the first has the panels made in front of it
                known = READERS.get(user.target)
                if known is None or [at for at, each in enumerate(user.args) if each is leaf] != [known[0]]:
                    continue
                order = known[1](user)
                if order not in made:
                    form, why = format_of(rows, self.dtype)
                    if why:
                        log.refuse(user, f"{why}: the weight stays in floats")
                    made[order] = _unpacked(editor, user, name, Panels(rows, form, order), experts)
                with editor.before(user):
                    args = tuple(made[order] if each is leaf else each for each in user.args)
                    new = editor.call(user.target, *args, like=user, **user.kwargs)
                editor.replace(user, new)
                log.rewrite(user, f"reads {name} in panels of {made[order].args[1]}")
        remove_dead(program)
        return program


def _unpacked(editor: Editor, user: fx.Node, name: str, panels: Panels, experts: int) -> fx.Node:
    """The floats that a weight in panels stands for, in front of `user`."""
    leaf = editor.weight(f"{name}.{panels.form}", panels)
    (rows, size), order = panels.source.shape, panels.order
    with editor.before(user):
        arguments = (leaf, panels.form, rows, size, order.head, order.pairs, *([experts] if experts else []))
        return editor.call(panel_ops.from_panels.default, *arguments, like=user)
