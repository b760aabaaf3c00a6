"""Keys and values remembered in 8 bits, with a scale for each channel, or for each token and head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from burnish.ir.code_ops import CODES, code_ops, scales_for
from burnish.ir.edit import Editor
from burnish.ir.errors import UsageError
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, operands, value
from burnish.ir.weights import Stored
from burnish.passes.analyses.axis_labels import AxisLabels
from burnish.passes.analyses.remember import values_to_remember
from burnish.passes.base import Effect, Log
from burnish.passes.states.fold_positions import FoldPositions
from burnish.passes.transforms.calibration import Calibration
from burnish.passes.transforms.stream import Stream

_WINDOWS = 16  # of text to calibrate by: greatest elements grow little in more


@dataclass(frozen=True)
class QuantizeCache:
    """What attention remembers of each token, in `numbers` of 8 bits: "int8", or "fp8" (float8_e4m3fn).

    Keys are rounded behind their rotary embedding and a latent before it is projected: whatever would be remembered.
    Each token and head has a scale, its greatest element over the greatest number, which is remembered beside it. With
    text to calibrate by, int8 has a fixed one for each channel instead, from the greatest element that it has in that
    text: what is greater later is cut off, and ONNX Runtime's attention keeps such codes by itself. States are inserted
    later, and then the codes are the fewest bytes to remember.
    """

    numbers: Literal["int8", "fp8"] = "int8"
    calibration: Calibration | None = field(default=None, repr=False, compare=False)
    name: ClassVar[str] = "quantize-cache"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = False
    place: ClassVar[int] = 3

    def check(self, calibrated: bool) -> None:
        """See `Transform.check`."""
        if self.numbers not in CODES:
            raise UsageError(f"there are no caches of {self.numbers!r}: there are {' and '.join(CODES)}")

    def run(self, program: Program, log: Log) -> Program:
        """Round, in place, each value that a step of a whole program will remember for its attentions.

        Raises UsageError for numbers that there are not, and for a program without attention or with states.
        """
        self.check(self.calibration is not None)
        if program.stage.is_step:
            raise UsageError("the program has its states already: quantize its cache before they are inserted")
        attentions = [node for node in program.graph.nodes if node.target is burnish_ops.attention.default]
        if not attentions:
            raise UsageError("the model has no attention that remembers keys and values: there is no cache to quantize")
        editor = Editor(program)
        remembered = _remembered(program)
        greatest: dict[str, Tensor] = {}
        if self.calibration is not None and self.numbers == "int8":  # floats in 8 bits lose more by fixed scales
            greatest = _greatest(program, remembered, self.calibration.tokens)
        for node in [node for node in program.graph.nodes if node.name in remembered]:
            reason = _obstacle(node, remembered[node.name])
            if reason:
                log.refuse(node, reason)
                continue
            readers = _readers(node, attentions)
            with editor.after(node):
                if node.name in greatest:
                    found = scales_for(greatest[node.name], self.numbers, value(node).dtype)
                    scales = editor.weight(f"{node.name}.scales", Stored(found))
                else:
                    scales = editor.call(code_ops.code_scales.default, node, self.numbers, like=node)
                codes = editor.call(code_ops.to_codes.default, node, scales, self.numbers, like=node)
                rounded = editor.call(code_ops.from_codes.default, codes, scales, like=node)
            for reader in readers:
                if reader.target is burnish_ops.attention.default:
                    query, *operands = reader.args
                    reader.args = (query, *(rounded if each is node else each for each in operands))
                else:
                    reader.replace_input_with(node, rounded)
            each = "channel" if node.name in greatest else "token and head"
            log.rewrite(node, f"{self.numbers}, and a scale for each {each}")
        return program


def _remembered(program: Program) -> dict[str, int]:
    """The names of the values that states would be inserted for, and the axis of their tokens."""
    folded = FoldPositions().run(program.copy(), Log())  # what is read by position is no value of a token
    labels = AxisLabels(folded)
    found = {}
    for node in values_to_remember(folded, labels):
        label = labels.of(node)
        assert label is not None
        found[node.name] = label.axis
    return found


def _greatest(program: Program, remembered: dict[str, int], tokens: Tensor) -> dict[str, Tensor]:
    """Of values that will be remembered, by name, the greatest sizes of their channels in a text.

    They have the shapes of the values, with 1 for rows and tokens.
    """
    stream = Stream(program, tokens[:_WINDOWS])
    found = {}
    for node in [node for node in program.graph.nodes if node.name in remembered]:
        if not _obstacle(node, remembered[node.name]):
            sizes = [part.abs().amax((0, remembered[node.name]), keepdim=True) for part in stream.each(node)]
            found[node.name] = torch.stack(sizes).amax(0)
    return found


def _obstacle(node: fx.Node, axis: int) -> str:
    """Why a value cannot be rounded token by token; nothing if it can."""
    found = value(node)
    if node.target in (code_ops.to_codes.default, code_ops.code_scales.default):
        return "it is in 8 bits already"
    if found.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"it is of {found.dtype}"
    if axis == found.dim() - 1:
        return "its last axis is that of the tokens, and no row that could have a scale"
    return ""


def _readers(node: fx.Node, attentions: list[fx.Node]) -> list[fx.Node]:
    """What reads a value on the way to the keys and values of attentions."""
    behind: set[fx.Node] = {node}
    stack = [node]
    while stack:
        for user in stack.pop().users:
            if user.target is not burnish_ops.attention.default and user not in behind:
                behind.add(user)
                stack.append(user)
    wanted: set[fx.Node] = set()
    for attention in attentions:
        for operand in operands(attention)[1:3]:
            if operand is node:
                wanted.add(attention)
            elif operand in behind:
                stack.append(operand)
    while stack:
        reader = stack.pop()
        if reader in wanted or reader is node:
            continue
        wanted.add(reader)
        stack += [each for each in reader.all_input_nodes if each in behind]
    return [user for user in node.users if user in wanted]


def coded(operand: fx.Node) -> list[fx.Node]:
    """The codes, and the scales of tokens, that keys or values are made from; none where these are not in 8 bits."""
    found: list[fx.Node] = []
    seen, stack = {operand}, [operand]
    while stack:
        node = stack.pop()
        if node.target is code_ops.from_codes.default:
            found += [each for each in node.all_input_nodes if each.op != "get_attr"]
            continue
        for each in node.all_input_nodes:
            if each not in seen and each.target is not burnish_ops.attention.default:
                seen.add(each)
                stack.append(each)
    return found
