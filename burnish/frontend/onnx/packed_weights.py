"""Weights that a file has as integers of a few bits in blocks with scales, kept so: see MatMulNBits of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from burnish.frontend.onnx.call import Graph, Step, Value
from burnish.frontend.onnx.numbers import Numbers
from burnish.frontend.onnx.operators.contrib import low_bits
from burnish.frontend.quantized.parts import Computed, integers
from burnish.ir.quantization import Widened
from burnish.ir.weights import Stored, Weight


def packed_weights(graph: Graph) -> dict[str, Widened]:
    """The weights of the products in `graph`, [N, K] each, by the names of their packed integers.

    Products whose weights are computed, or of other forms than those that are kept, are left out.
    """
    found: dict[str, Widened] = {}
    others = {name for step in graph.steps for name in (step.inputs if not _is_product(step) else step.inputs[2:])}
    for step in graph.steps:
        if _is_product(step) and step.inputs[1] not in others:
            weight = _weight(step, graph.constants)
            if weight is not None:
                found[step.inputs[1]] = weight
    return found


def _is_product(step: Step) -> bool:
    return step.domain == "com.microsoft" and step.operator == "MatMulNBits"


def _weight(step: Step, constants: Mapping[str, Value]) -> Widened | None:
    bits, block = step.attributes.get("bits", 4), step.attributes.get("block_size", 0)
    rows, columns = step.attributes.get("N", 0), step.attributes.get("K", 0)
    packed, scales, zeros, order = (_constant(step, index, constants) for index in range(1, 5))
    if (
        packed is None
        or scales is None
        or order is not None
        or (len(step.inputs) > 3 and step.inputs[3] and zeros is None)
    ):
        return None
    whole = bits in (2, 4, 8) and block >= 16 and rows > 0 and columns > 0 and columns % block == 0
    if not whole or (zeros is not None and zeros.is_floating_point()):
        return None
    shape, blocks = (rows, columns), columns // block
    values = Computed(shape, torch.uint8, (Stored(packed),), lambda p: _unpacked(p, rows, bits, columns))
    scale: Weight = Stored(scales.reshape(rows, blocks))
    zero: Weight | None = None
    if zeros is not None:
        zero = Computed((rows, blocks), torch.uint8, (Stored(zeros),), lambda z: _unpacked(z, rows, bits, blocks))
    return integers(values, shape, scale, zero, bits, block, f"ONNX int{bits}")


def _unpacked(packed: Tensor, rows: int, bits: int, count: int) -> Tensor:
    return low_bits(packed.reshape(rows, -1), bits)[:, :count].to(torch.uint8).contiguous()


def _constant(step: Step, index: int, constants: Mapping[str, Value]) -> Tensor | None:
    value = constants.get(step.inputs[index]) if index < len(step.inputs) and step.inputs[index] else None
    return value.tensor() if isinstance(value, Numbers) else value
