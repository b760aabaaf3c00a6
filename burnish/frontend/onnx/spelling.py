"""What exporters write out, in the words that torch has for it: so that the passes find it.

torch's newer exporter writes an attention as its formula: a softmax whose rows that are no numbers become zeros, and
keys that are turned by way of three axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from burnish.frontend.onnx import numbers as n
from burnish.frontend.onnx.call import Call, Step, Table, Value
from burnish.frontend.onnx.numbers import Numbers

DOMAIN = "burnish.spelling"


def safe_softmaxes(steps: tuple[Step, ...], constants: Mapping[str, Value]) -> tuple[Step, ...]:
    """Where(IsNaN(s), 0, s) of a softmax s as one step."""
    makers = {name: step for step in steps for name in step.outputs}

    def rewritten(step: Step) -> Step:
        if step.operator != "Where" or step.domain or len(step.inputs) != 3:
            return step
        test, zero, source = step.inputs
        number, asked, softmax = constants.get(zero), makers.get(test), makers.get(source)
        if not isinstance(number, Numbers) or number.array.size != 1 or number.is_symbolic or number.list[0] != 0:
            return step
        if asked is None or asked.operator != "IsNaN" or asked.domain or asked.inputs != (source,):
            return step
        if softmax is None or softmax.operator != "Softmax" or softmax.domain or softmax.version < 13:
            return step
        return replace(softmax, name=step.name, domain=DOMAIN, outputs=step.outputs)

    return tuple(map(rewritten, steps))


def _safe_softmax(c: Call) -> Tensor:
    found: Tensor = torch.ops.aten._safe_softmax(c.tensor(0), c.integer("axis", -1))
    return found


def turned(step: Step, makers: Mapping[str, Step], values: Mapping[str, Value]) -> Tensor | None:
    """A tensor [A, B, S, D] that was turned as [A * B, S, D] and is given its axes again: its last two axes swapped."""
    if step.operator != "Reshape" or step.domain:
        return None
    transpose = makers.get(step.inputs[0])
    if transpose is None or transpose.operator != "Transpose" or transpose.attributes.get("perm") != [0, 2, 1]:
        return None
    flat = makers.get(transpose.inputs[0])
    if flat is None or flat.operator != "Reshape" or flat.domain:
        return None
    source, joined, shape = (values.get(name) for name in (flat.inputs[0], flat.outputs[0], step.inputs[1]))
    if not isinstance(source, Tensor) or not isinstance(joined, Tensor) or not isinstance(shape, Numbers):
        return None
    a, b, tokens, size = source.shape if source.dim() == 4 else (0, 0, 0, 0)
    if source.dim() != 4 or not _equal(joined.shape, (a * b, tokens, size)):
        return None
    return source.transpose(2, 3) if _equal(shape.list, (a, b, size, tokens)) else None


def _equal(shape: torch.Size | list[object], wanted: tuple[object, ...]) -> bool:
    return len(shape) == len(wanted) and all(n.equal(*pair) is True for pair in zip(shape, wanted, strict=True))


TABLE: Table = {"Softmax": _safe_softmax}
