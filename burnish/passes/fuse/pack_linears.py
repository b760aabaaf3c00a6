"""Projections of the same input become one: Q, K and V; gate and up. Fewer, larger products, the weights read once."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.infer import infer
from burnish.ir.program import Program, operands, origin
from burnish.ir.quantization import kind_of
from burnish.ir.weights import Concat
from burnish.passes.base import Effect, Log

aten = torch.ops.aten


@dataclass(frozen=True)
class PackLinears:
    """linear(x, a), linear(x, b) -> split(linear(x, concat(a, b)))."""

    name: ClassVar[str] = "pack-linears"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Pack each group of linears that read one value, in place."""
        editor = Editor(program)
        groups: dict[tuple[fx.Node, object], list[fx.Node]] = {}
        for node in program.graph.nodes:
            if node.target is aten.linear.default and isinstance(node.args[0], fx.Node):
                groups.setdefault((node.args[0], _kind(program, node)), []).append(node)
        for group in groups.values():
            if len(group) > 1 and _can_pack(group, log):
                _pack(program, editor, group)
                names = ", ".join(origin(node).module.rsplit(".", 1)[-1] or node.name for node in group)
                log.rewrite(group[0], f"packed {names}")
        remove_dead(program)
        return program


def _kind(program: Program, node: fx.Node) -> object:
    """What the weights of products have to share that become one: integers joined with floats would be floats."""
    weight = node.args[1]
    assert isinstance(weight, fx.Node)
    return kind_of(program.weights[program.weight_of(weight)]) if weight.op == "get_attr" else None


def _bias(node: fx.Node) -> fx.Node | None:
    bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
    return bias if isinstance(bias, fx.Node) else None


def _can_pack(group: list[fx.Node], log: Log) -> bool:
    weights = [node.args[1] for node in group]
    for node, weight in zip(group, weights, strict=True):
        assert isinstance(weight, fx.Node)
        bias = _bias(node)
        if weight.op != "get_attr" or (bias is not None and bias.op != "get_attr"):
            log.refuse(node, "its weight is computed in the graph")
            return False
        if len(weight.users) > 1:
            log.refuse(node, "its weight is used elsewhere too, and would be stored twice")
            return False
        if (bias is None) != (_bias(group[0]) is None):
            log.refuse(node, "some of the projections of this input have a bias and some have none")
            return False
        if weight.meta["val"].dtype != group[0].meta["val"].dtype:
            log.refuse(node, "its weight has another dtype than its value")
            return False
    return True


def _pack(program: Program, editor: Editor, group: list[fx.Node]) -> None:
    first = group[0]
    parts = [str(operands(node)[1].target) for node in group]
    weight = editor.weight(packed_name(parts), Concat(tuple(program.weights[part] for part in parts)))
    biases = [bias for node in group if (bias := _bias(node)) is not None]
    bias = None
    if biases:
        names = [str(each.target) for each in biases]
        bias = editor.weight(packed_name(names), Concat(tuple(program.weights[name] for name in names)))
    sizes = [int(node.meta["val"].shape[-1]) for node in group]
    with editor.before(first):
        packed = editor.call(aten.linear.default, first.args[0], weight, bias, like=first)
        pieces = editor.call(aten.split_with_sizes.default, packed, sizes, -1, like=first)
        taken = [editor.call(operator.getitem, pieces, index, like=node) for index, node in enumerate(group)]
    for node, piece in zip(group, taken, strict=True):
        editor.replace(node, piece)
        infer(piece, editor.mode)


def packed_name(names: list[str], joint: str = "+") -> str:
    """`model.layers.0.self_attn.q_proj+k_proj+v_proj.weight` from the names of the parts."""
    split = [name.split(".") for name in names]
    differing = [i for i in range(min(map(len, split))) if len({part[i] for part in split}) > 1]
    if len({len(part) for part in split}) != 1 or len(differing) != 1:
        return joint.join(names)
    at = differing[0]
    return ".".join([*split[0][:at], joint.join(part[at] for part in split), *split[0][at + 1 :]])
