"""ATen's attention over whole sequences, by ONNX Runtime's MultiHeadAttention, which takes heads joined [B, S, H * D].

So the transposes around heads, which models write in front of ATen's attention and behind it, are not carried out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.aten_attention import ATTENTION
from burnish.codegen.onnx.builder import CONTRIB
from burnish.codegen.onnx.context import Arguments, Context, Result, Translate, dtype_of, shape_of
from burnish.ir.shapes import same_shape, same_size

aten = torch.ops.aten


def _attention(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """By plain operators, or torch's own table, where heads cannot be joined."""
    found = _joined(c, a)
    return ATTENTION[node.target](c, node, a) if found is None else found


def _joined(c: Context, a: Arguments) -> Result | None:
    """None for what MultiHeadAttention cannot say: grouped heads, other numbers, causal over unequal lengths."""
    query, key, value = a["query"], a["key"], a["value"]
    shapes = [shape_of(each) for each in (query, key, value)]
    if any(
        len(shape) != 4 or dtype_of(each) != torch.float32
        for each, shape in zip((query, key, value), shapes, strict=True)
    ):
        return None
    heads, size, value_size = shapes[0][1], shapes[0][3], shapes[2][3]
    if not all(isinstance(each, int) for each in (heads, size, value_size)):
        return None
    alike = same_size(shapes[1][1], heads) and same_size(shapes[2][1], heads) and same_size(shapes[1][3], size)
    causal = bool(a["is_causal"])
    if not alike or a["dropout_p"] != 0.0 or not same_size(shapes[0][0], shapes[1][0]):
        return None
    if causal and (a["attn_mask"] is not None or not same_size(shapes[0][2], shapes[1][2])):
        return None
    mask = a["attn_mask"]
    if mask is not None and len(shape_of(mask)) > 2 and not same_size(shape_of(mask)[-3], 1):
        return None  # one for each head: which rows see nothing is told for all heads at once
    joined = [
        c.join_heads(c.value(each), int(heads), int(shape[3]))
        for each, shape in zip((query, key, value), shapes, strict=True)
    ]
    found = c.builder.op(
        "MultiHeadAttention",
        *joined,
        None,
        None,
        None if mask is None else _bias(c, mask, shapes),
        domain=CONTRIB,
        num_heads=int(heads),
        scale=None if a["scale"] is None else float(a["scale"]),
        unidirectional=int(causal),
    )
    if mask is not None:
        found = c.builder.op("Where", _sees(c, mask), found, c.builder.constant(0.0, torch.float32))
    return c.split_heads(found, int(heads), int(value_size))


def _full(c: Context, mask: fx.Node) -> ir.Value:
    """A mask with all four axes."""
    shape = shape_of(mask)
    return c.reshape(c.value(mask), shape, (1,) * (4 - len(shape)) + shape)


def _bias(c: Context, mask: fx.Node, shapes: list[Any]) -> ir.Value:
    """What is added to the scores, [B|1, H|1, S, T]."""
    bias = _full(c, mask)
    if dtype_of(mask) == torch.bool:
        opened, shut = (c.builder.constant(number, torch.float32) for number in (0.0, -np.inf))
        bias = c.builder.op("Where", bias, opened, shut)
    bias = c.cast(bias, torch.float32 if dtype_of(mask) == torch.bool else dtype_of(mask), torch.float32)
    wanted = (shapes[0][2], shapes[1][2])
    same = same_shape(shape_of(mask)[-2:], wanted)
    return bias if same else c.builder.op("Expand", bias, c.builder.shape((1, 1, *wanted)))


def _sees(c: Context, mask: fx.Node) -> ir.Value:
    """Which rows see anything, [B|1, S|1, 1]: PyTorch gives zeros for the others, ONNX Runtime no numbers."""

    def make() -> ir.Value:
        seen = _full(c, mask)
        if dtype_of(mask) != torch.bool:
            seen = c.builder.op("Greater", seen, c.builder.constant(-np.inf, dtype_of(mask)))
        most = c.builder.op("ReduceMax", c.cast(seen, torch.bool, torch.int32), c.builder.constant([-1]), keepdims=1)
        return c.builder.op("Squeeze", c.cast(most, torch.int32, torch.bool), c.builder.constant([1]))

    return c.builder.once(("rows that see", mask), make)


WHOLE_ATTENTION: dict[Any, Translate] = {aten.scaled_dot_product_attention.default: _attention}
