"""Translations of the other `burnish::` ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, fx

from burnish.codegen.onnx.aten_compute import activation
from burnish.codegen.onnx.attention import plain_attention
from burnish.codegen.onnx.builder import same_size
from burnish.codegen.onnx.codes import code_scales, from_codes, to_codes
from burnish.codegen.onnx.context import (
    Arguments,
    Context,
    Result,
    Translate,
    arguments,
    dtype_of,
    same_shape,
    shape_of,
)
from burnish.codegen.onnx.mixture import moe_linear
from burnish.codegen.onnx.quantized import quantized_embedding, quantized_linear
from burnish.ir.code_ops import code_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.quantized_ops import quantized_ops

_VIEWS = {
    torch.ops.aten.permute.default,
    torch.ops.aten.reshape.default,
    torch.ops.aten.squeeze.dim,
    torch.ops.aten.unsqueeze.default,
    torch.ops.aten.view.default,
}


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


# ---------------------------------------------------------------- rotary embedding


def _rotary(c: Context, node: fx.Node, a: Arguments) -> Result:
    return _rotary_in_one(c, node, a) or _rotary_in_pieces(c, node, a)


def _rotary_in_one(c: Context, node: fx.Node, a: Arguments) -> ir.Value | None:
    """ONNX's RotaryEmbedding, which takes half a cosine table: the other half must be the same."""
    x = a["x"]
    heads = c.heads(c.value(x))
    if heads is None or dtype_of(node) != dtype_of(x):
        return None
    if not all(_one_row_a_token(x, a[name], heads.first) for name in ("cos", "sin")):
        return None
    tables = [_half_table(c, a[name], a["interleaved"]) for name in ("cos", "sin")]
    if any(table is None for table in tables):
        return None
    rotary_size = int(shape_of(a["cos"])[-1])
    turned = c.builder.op(
        "RotaryEmbedding",
        heads.joined,
        *tables,
        interleaved=int(a["interleaved"]),
        num_heads=heads.count,
        rotary_embedding_dim=rotary_size if rotary_size != heads.size else None,
    )
    return c.split_heads(turned, heads.count, heads.size, heads.first)


def _one_row_a_token(x: fx.Node, table: fx.Node, heads_first: bool) -> bool:
    """Whether a cosine is [B, 1, S, R] for x[B, H, S, D], or [B, S, 1, R] for x[B, S, H, D]."""
    shape, wide = shape_of(table), shape_of(x)
    one, tokens = (1, 2) if heads_first else (2, 1)
    if len(shape) != 4 or not same_size(shape[one], 1):
        return False
    return same_size(shape[0], wide[0]) and same_size(shape[tokens], wide[tokens])


def _half_table(c: Context, node: fx.Node, interleaved: bool) -> ir.Value | None:
    """The distinct half of cosines looked up in a table, [B, S, R / 2]; None where they are something else."""
    source = node
    while _moves_only_ones(source):
        source = source.args[0]  # type: ignore[assignment]
    if source.target is not burnish_ops.lookup.default:
        return None
    table: fx.Node = arguments(source)["table"]
    size = shape_of(source)[-1]
    if table.op != "get_attr" or not isinstance(size, int):
        return None
    if size % 2 or not c.builder.once(
        ("halves", table, interleaved),
        lambda: _halves_are_equal(c.program.weights[str(table.target)].materialize(), interleaved),
    ):
        return None

    def make() -> ir.Value:
        constant, step = c.builder.constant, 2 if interleaved else 1
        end = size if interleaved else size // 2
        rows = c.reshape(c.value(source), shape_of(source), (*shape_of(source)[:2], size))
        return c.builder.op("Slice", rows, constant([0]), constant([end]), constant([2]), constant([step]))

    return c.builder.once(("half", source, interleaved), make)


def _moves_only_ones(node: fx.Node) -> bool:
    """Whether a node is a view that adds, drops or moves axes of size 1 and leaves the others in their order."""
    if node.target not in _VIEWS:
        return False
    source: fx.Node = node.args[0]  # type: ignore[assignment]
    before, after = shape_of(source), shape_of(node)
    if node.target is torch.ops.aten.permute.default:
        dims = [axis % len(before) for axis in arguments(node)["dims"]]
        wide = [axis for axis in dims if not same_size(before[axis], 1)]
        return wide == sorted(wide)
    return same_shape(*([size for size in shape if not same_size(size, 1)] for shape in (before, after)))


def _halves_are_equal(table: Tensor, interleaved: bool) -> bool:
    if interleaved:
        return bool(torch.equal(table[..., ::2], table[..., 1::2]))
    return bool(torch.equal(*table.chunk(2, dim=-1)))


def _rotary_in_pieces(c: Context, node: fx.Node, a: Arguments) -> ir.Value:
    """x * cos + rotated(x) * sin."""
    op, constant = c.builder.op, c.builder.constant
    x, dtype = a["x"], dtype_of(node)
    shape = shape_of(x)
    last = len(shape) - 1
    size, rotary_size = int(shape[-1]), int(shape_of(a["cos"])[-1])
    value = c.tensor(x, dtype)

    def part(start: int, end: int, of: ir.Value) -> ir.Value:
        return op("Slice", of, constant([start]), constant([end]), constant([last]))

    turned = value if rotary_size == size else part(0, rotary_size, value)
    half = rotary_size // 2
    if a["interleaved"]:
        pairs = op("Reshape", turned, constant([0] * last + [half, 2]))
        axis = constant([last + 1])
        odd = op("Slice", pairs, constant([1]), constant([2]), axis)
        even = op("Slice", pairs, constant([0]), constant([1]), axis)
        rotated = op("Concat", op("Neg", odd), even, axis=last + 1)
        rotated = op("Reshape", rotated, constant([0] * last + [rotary_size]))
    else:
        rotated = op("Concat", op("Neg", part(half, rotary_size, turned)), part(0, half, turned), axis=last)
    result = op(
        "Add",
        op("Mul", turned, c.tensor(a["cos"], dtype)),
        op("Mul", rotated, c.tensor(a["sin"], dtype)),
    )
    return result if rotary_size == size else op("Concat", result, part(rotary_size, size, value), axis=last)


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
    return c.builder.op("Gather", c.value(a["table"]), c.value(a["positions"]), axis=0)


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
    burnish_ops.rotary.default: _rotary,
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
