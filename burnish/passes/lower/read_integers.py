"""What reads a weight that stands for integers reads the integers and scales, packed as the target's kernels want.

All readers of a weight have to, or none does: it is stored once. Where they cannot, it stays in floats, and the log
says why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.errors import UsageError
from burnish.ir.fused_ops import fused_ops
from burnish.ir.program import Program, operands
from burnish.ir.quantization import SCALE_DTYPE, Quantized, as_quantized, kept, regrouped, why_not_kept
from burnish.ir.quantized_ops import in_blocks, quantized_ops, stored_bits
from burnish.ir.similar import did_you_mean
from burnish.ir.weights import Weight
from burnish.passes.base import Effect, Log

aten = torch.ops.aten

Parts = dict[str, Weight]  # of one weight, as they are stored: values, scales, and what else it has
Nodes = dict[str, fx.Node]  # that read them


@dataclass(frozen=True)
class Reader:
    """An op that can read integers: where it has its weight, and what computes the same from the parts of one."""

    at: int
    call: Callable[[Editor, fx.Node, Nodes, Quantized], fx.Node]
    float32_only: bool = False


@dataclass(frozen=True)
class Packing:
    """How the kernels of a target read such weights: the parts of one, or why it has none, and the ops that can."""

    parts: Callable[[Quantized], Parts | str]
    readers: Mapping[Any, Reader]


@dataclass(frozen=True)
class ReadIntegers:
    """packing: of `PACKINGS`, the target's choice.

    "blocks": linear(x, w) -> quantized_linear(x, values, scales, ...), and embedding likewise, for ONNX Runtime.
    "plain": fused_linear(x, w) -> fused_linear(x, values, scales=...), and attention_projection likewise, for Triton.
    """

    packing: str = "blocks"
    name: ClassVar[str] = "read-integers"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """UsageError for a packing that there is not."""
        if self.packing not in PACKINGS:
            meant = did_you_mean(self.packing, PACKINGS)
            raise UsageError(f"there is no packing {self.packing!r}{meant}: there are {' and '.join(PACKINGS)}")

    def run(self, program: Program, log: Log) -> Program:
        """Let the readers of each such weight read the integers, in place."""
        packing = PACKINGS[self.packing]
        editor = Editor(program)
        for leaf in [node for node in program.graph.nodes if node.op == "get_attr"]:
            name = program.weight_of(leaf)
            quantized = as_quantized(program.weights[name])
            if quantized is None:
                if why := _why_floats(program.weights[name]):
                    log.refuse(next(iter(leaf.users)), f"{why}: floats")
                continue
            parts = _obstacle(leaf, packing.readers, quantized) or packing.parts(quantized)
            if isinstance(parts, str):
                log.refuse(next(iter(leaf.users)), f"{parts}: the weight stays in floats")
                continue
            suffixes = {"values": f"int{quantized.bits}"}
            nodes = {part: editor.weight(f"{name}.{suffixes.get(part, part)}", each) for part, each in parts.items()}
            for user in list(leaf.users):
                with editor.before(user):
                    new = packing.readers[user.target].call(editor, user, nodes, quantized)
                editor.replace(user, new)
                log.rewrite(user, f"{quantized.bits} bits, a scale for each {quantized.group}")
        remove_dead(program)
        return program


def _why_floats(weight: Weight) -> str:
    """Why a weight that the model's file has narrower is floats; nothing where the file has floats for it."""
    has = kept(weight)
    if has is None:
        return why_not_kept(weight)
    if has.numbers == "fp8":
        return "only native kernels read the floats of 8 bits that the file has for it"
    return "the file has integers for it, which only Quantize('keep') keeps here"


def _obstacle(leaf: fx.Node, readers: Mapping[Any, Reader], quantized: Quantized) -> str:
    """Why what reads a weight cannot read its integers; nothing if all can."""
    if quantized.numbers == "fp8":
        return "only native kernels read floats of 8 bits"
    for user in leaf.users:
        reader = readers.get(user.target)
        if reader is None:
            return f"{user.name} ({user.target}) has no kernel that reads integers"
        if [place for place, each in enumerate(user.args) if each is leaf] != [reader.at]:
            return f"{user.name} ({user.target}) reads it as something else than its weight"
        if reader.float32_only and user.meta["val"].dtype != torch.float32:
            return f"{user.name} computes in {user.meta['val'].dtype}, and integers are multiplied with float32"
    return ""


# ---------------------------------------------------------------- blocks


def _blocks(weight: Quantized) -> Parts | str:
    blocks = in_blocks(weight)
    return f"there are no blocks of 16 or more in groups of {weight.group}" if blocks is None else blocks.parts


def _linear_of_blocks(editor: Editor, user: fx.Node, parts: Nodes, weight: Quantized) -> fx.Node:
    bias = operands(user)[2] if len(user.args) > 2 else user.kwargs.get("bias")
    target = quantized_ops.quantized_linear.default
    return editor.call(target, operands(user)[0], *_four(parts), bias, like=user, bits=stored_bits(weight))


def _embedding_of_blocks(editor: Editor, user: fx.Node, parts: Nodes, weight: Quantized) -> fx.Node:
    target = quantized_ops.quantized_embedding.default
    ids = operands(user)[1]
    return editor.call(target, *_four(parts), ids, like=user, bits=stored_bits(weight), size=weight.shape[1])


def _four(parts: Nodes) -> tuple[fx.Node | None, ...]:
    return tuple(parts.get(name) for name in ("values", "scales", "zeros", "offsets"))


# ---------------------------------------------------------------- plain

_GROUPS = (128, 64, 32)  # that the kernels know


def _plain(weight: Quantized) -> Parts | str:
    """Integers and scales as they are, but that long groups of 8 bits become shorter ones."""
    if weight.zeros is not None or weight.minima is not None:
        return "the kernels know no zero points"
    if weight.scales.dtype != SCALE_DTYPE:
        return f"the kernels know scales of {SCALE_DTYPE}, and these are of {weight.scales.dtype}"
    if weight.group not in _GROUPS:
        smaller = next((group for group in _GROUPS if weight.group % group == 0), None)
        if smaller is None or weight.bits != 8:
            return f"the kernels know groups of 32, 64 and 128, and these are of {weight.group}"
        weight = regrouped(weight, smaller)
    return {"values": weight.values, "scales": weight.scales}


def _product_of_plain(editor: Editor, user: fx.Node, parts: Nodes, weight: Quantized) -> fx.Node:
    x, _, *rest = operands(user)
    options: dict[str, Any] = {**user.kwargs, "scales": parts["scales"]}
    return editor.call(user.target, x, parts["values"], *rest, like=user, **options)


_PRODUCT = Reader(1, _product_of_plain)

PACKINGS: Mapping[str, Packing] = {
    "blocks": Packing(
        _blocks,
        {
            aten.linear.default: Reader(1, _linear_of_blocks, float32_only=True),
            aten.embedding.default: Reader(0, _embedding_of_blocks, float32_only=True),
        },
    ),
    "plain": Packing(
        _plain, {fused_ops.fused_linear.default: _PRODUCT, fused_ops.attention_projection.default: _PRODUCT}
    ),
}
