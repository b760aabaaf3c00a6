"""Products and tables of weights that stand for integers become products and tables of the integers themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.program import Program, operands
from burnish.ir.quantization import Quantized, as_quantized
from burnish.ir.quantized_ops import Blocks, block_of, quantized_ops
from burnish.passes.base import Effect, Log

aten = torch.ops.aten

_WEIGHT_AT: dict[Any, int] = {aten.linear.default: 1, aten.embedding.default: 0}
_PARTS = ("scales", "zeros", "offsets")


@dataclass(frozen=True)
class LowerQuantized:
    """linear(x, w) -> quantized_linear(x, integers, scales); embedding(w, ids) likewise.

    What reads such a weight in another way keeps it in floats, and then the others do so too: it is stored once.
    """

    name: ClassVar[str] = "lower-quantized"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Lower each reader of a quantized weight, in place."""
        editor = Editor(program)
        for leaf in [node for node in program.graph.nodes if node.op == "get_attr"]:
            quantized = as_quantized(program.weights[program.weight_of(leaf)])
            if quantized is None:
                continue
            block = block_of(quantized.bits, quantized.group, quantized.shape[1])
            reason = _obstacle(leaf, quantized, block)
            if reason or block is None:
                log.refuse(next(iter(leaf.users)), f"{reason}: the weight stays in floats")
                continue
            parts = _store(program, editor, leaf, Blocks(quantized, block))
            for user in list(leaf.users):
                with editor.before(user):
                    new = _call(editor, user, quantized, parts)
                editor.replace(user, new)
                log.rewrite(user, f"{quantized.bits} bits, a scale for each {quantized.group}, in blocks of {block}")
        remove_dead(program)
        return program


def _obstacle(leaf: fx.Node, quantized: Quantized, block: int | None) -> str:
    """Why a weight's readers cannot read its integers; nothing if they can."""
    for user in leaf.users:
        at = _WEIGHT_AT.get(user.target)
        if at is None or [place for place, each in enumerate(user.args) if each is leaf] != [at]:
            return f"{user.name} ({user.target}) does not multiply by its rows, and looks none of them up"
        if user.meta["val"].dtype != torch.float32:
            return f"{user.name} computes in {user.meta['val'].dtype}, and integers are multiplied with float32"
    if block is None:
        return f"there are no blocks of 16 or more in groups of {quantized.group}"
    return ""


def _store(program: Program, editor: Editor, leaf: fx.Node, blocks: Blocks) -> dict[str, fx.Node | None]:
    """Nodes of the parts of a weight in blocks."""
    name = program.weight_of(leaf)
    parts: dict[str, fx.Node | None] = {"values": editor.weight(f"{name}.int{blocks.source.bits}", blocks)}
    for part in _PARTS:
        weight = getattr(blocks, part)
        parts[part] = None if weight is None else editor.weight(f"{name}.{part}", weight)
    return parts


def _call(editor: Editor, user: fx.Node, quantized: Quantized, parts: dict[str, fx.Node | None]) -> fx.Node:
    """What `user` computes, from the integers."""
    values = (parts["values"], *(parts[part] for part in _PARTS))
    if user.target is aten.embedding.default:
        size = quantized.shape[1]
        ids = operands(user)[1]
        target = quantized_ops.quantized_embedding.default
        return editor.call(target, *values, ids, like=user, bits=quantized.bits, size=size)
    bias = operands(user)[2] if len(user.args) > 2 else user.kwargs.get("bias")
    target = quantized_ops.quantized_linear.default
    return editor.call(target, operands(user)[0], *values, bias, like=user, bits=quantized.bits)
