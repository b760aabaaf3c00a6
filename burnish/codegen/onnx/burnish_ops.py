"""Translations of the other `burnish::` ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.aten_compute import activation
from burnish.codegen.onnx.attention import plain_attention
from burnish.codegen.onnx.codes import code_scales, from_codes, to_codes
from burnish.codegen.onnx.context import (
    Arguments,
    Context,
    Result,
    Translate,
    dtype_of,
    shape_of,
)
from burnish.codegen.onnx.mixture import moe_linear
from burnish.codegen.onnx.quantized import quantized_embedding, quantized_linear
from burnish.codegen.onnx.rotary import rotary
from burnish.ir.code_ops import code_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.quantized_ops import quantized_ops


def _rms_norm(c: Context, node: fx.Node, a: Arguments) -> Result:
    if node in c.results:  # made together with the sum that it normalises
        return c.results[node]
    x, weight = a["x"], a["weight"]
    dtype = dtype_of(x)
    value = c.value(x)
    heads = c.heads(value)
    if weight is not None and (len(shape_of(weight)) != 1 or dtype_of(weight) != dtype):
        return _scaled(c, a, _normalize(c, value, None, x, a["eps"]))
    scale = None if weight is None else c.value(weight)
    if heads is None:
        return _normalize(c, value, scale, x, a["eps"])
    # A norm of each head: on the joined form, so that attention finds it there.
    return c.regroup(_normalize(c, c.apart(heads), scale, x, a["eps"]), heads, heads.size)


def _normalize(c: Context, value: ir.Value, scale: ir.Value | None, x: fx.Node, epsilon: float) -> ir.Value:
    if scale is None:
        scale = c.builder.constant(np.ones(int(shape_of(x)[-1])), dtype_of(x))
    return c.builder.op("SimplifiedLayerNormalization", value, scale, axis=-1, epsilon=float(epsilon), stash_type=1)


def _scaled(c: Context, a: Arguments, normed: ir.Value) -> ir.Value:
    weight: fx.Node = a["weight"]
    dtype = torch.promote_types(dtype_of(weight), dtype_of(a["x"]))
    return c.builder.op("Mul", c.tensor(weight, dtype), c.cast(normed, dtype_of(a["x"]), dtype))


# ---------------------------------------------------------------- pointwise, positions, states


def _gated_activation(c: Context, node: fx.Node, a: Arguments) -> Result:
    dtype = dtype_of(node)
    gate = activation(c, a["activation"], c.value(a["gate"]), dtype_of(a["gate"]))
    return c.builder.op("Mul", c.cast(gate, dtype_of(a["gate"]), dtype), c.tensor(a["up"], dtype))


def _positions(c: Context, node: fx.Node, a: Arguments) -> Result:
    tokens, position = a["tokens"], a["position"]
    batch, count = shape_of(tokens)[:2]
    constant, op = c.builder.constant, c.builder.op
    steps = op("Range", constant(0), c.builder.scalar(count), constant(1))
    if position is None:
        return op("Expand", steps, c.builder.shape((batch, count)))
    return op("Add", c.unsqueeze(c.value(position), 1), steps)


def _lookup(c: Context, node: fx.Node, a: Arguments) -> Result:
    formula = c.formula(a["table"])
    table = c.value(a["table"]) if formula is None else c.builder.table(str(a["table"].target), formula)
    return c.builder.op("Gather", table, c.value(a["positions"]), axis=0)


def _attention_bias(c: Context, node: fx.Node, a: Arguments) -> Result:
    op, constant = c.builder.op, c.builder.constant
    new_tokens, slots = shape_of(a["query"])[2], shape_of(a["key"])[2]
    steps = op("Range", constant(0), c.builder.scalar(new_tokens), constant(1))
    if a["position"] is None:
        rows = op("Expand", steps, c.builder.shape((shape_of(a["query"])[0], new_tokens)))
    else:
        rows = op("Add", c.unsqueeze(c.value(a["position"]), 1), steps)
    chosen = op("Gather", c.value(a["table"]), rows, axis=1)
    chosen = op("Slice", chosen, constant([0]), c.builder.size(slots), constant([3]))
    return op("Transpose", chosen, perm=[1, 0, 2, 3])


def _cache_write(c: Context, node: fx.Node, a: Arguments) -> Result:
    axis = a["axis"] % len(shape_of(node))
    return c.builder.op("TensorScatter", c.value(a["state"]), c.value(a["new"]), c.value(a["position"]), axis=axis)


def _ring_write(c: Context, node: fx.Node, a: Arguments) -> Result:
    op, constant = c.builder.op, c.builder.constant
    axis = a["axis"] % len(shape_of(node))
    size, count = int(shape_of(node)[axis]), shape_of(a["new"])[axis]
    newest = op("Slice", c.value(a["new"]), constant([-size]), constant([2**63 - 1]), constant([axis]))
    skipped = op("Max", op("Sub", c.builder.size(count), constant([size])), constant([0]))
    first = op("Add", c.value(a["position"]), skipped)
    return op("TensorScatter", c.value(a["state"]), newest, first, axis=axis, mode="circular")


def _ring_positions(c: Context, node: fx.Node, a: Arguments) -> Result:
    op, constant = c.builder.op, c.builder.constant
    position = c.unsqueeze(c.value(a["position"]), 1)
    slots = constant(np.arange(a["size"]))
    last = op("Sub", position, constant(1))
    held = op("Sub", last, op("Mod", op("Sub", last, slots), constant(a["size"])))
    steps = op("Range", constant(0), c.builder.scalar(shape_of(a["tokens"])[1]), constant(1))
    return op("Concat", held, op("Add", position, steps), axis=1)


def _causal_conv1d(c: Context, node: fx.Node, a: Arguments) -> Result:
    weight: fx.Node = a["weight"]
    before = (int(shape_of(weight)[-1]) - 1) * int(a["dilation"])
    return c.builder.op(
        "Conv",
        c.value(a["x"]),
        c.value(weight),
        None if a["bias"] is None else c.value(a["bias"]),
        pads=[before, 0],
        dilations=[int(a["dilation"])],
        group=int(a["groups"]),
    )


def _shift(c: Context, node: fx.Node, a: Arguments) -> Result:
    rank = len(shape_of(node))
    axis, amount = a["axis"] % rank, int(a["amount"])
    before = [amount if each == axis else 0 for each in range(rank)]
    zero = c.builder.constant(0, dtype_of(node))
    padded = c.builder.op("Pad", c.value(a["x"]), c.builder.constant(before + [0] * rank), zero)
    end = c.builder.size(shape_of(node)[axis])
    return c.builder.op("Slice", padded, c.builder.constant([0]), end, c.builder.constant([axis]))


BURNISH: dict[Any, Translate] = {
    burnish_ops.rms_norm.default: _rms_norm,
    burnish_ops.rotary.default: rotary,
    burnish_ops.gated_activation.default: _gated_activation,
    burnish_ops.attention.default: plain_attention,
    burnish_ops.attention_bias.default: _attention_bias,
    burnish_ops.positions.default: _positions,
    burnish_ops.lookup.default: _lookup,
    burnish_ops.cache_write.default: _cache_write,
    burnish_ops.ring_write.default: _ring_write,
    burnish_ops.ring_positions.default: _ring_positions,
    burnish_ops.causal_conv1d.default: _causal_conv1d,
    burnish_ops.shift.default: _shift,
    burnish_ops.moe_linear.default: moe_linear,
    code_ops.code_scales.default: code_scales,
    code_ops.to_codes.default: to_codes,
    code_ops.from_codes.default: from_codes,
    quantized_ops.quantized_linear.default: quantized_linear,
    quantized_ops.quantized_embedding.default: quantized_embedding,
}
