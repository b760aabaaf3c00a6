"""PyTorch's attention with a mask, whose queries that see nothing give zeros, where ONNX's softmax gives no numbers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import fx

from burnish.codegen.onnx.builder import CONTRIB
from burnish.codegen.onnx.context import Arguments, Context, Result, Translate, dtype_of, shape_of

aten = torch.ops.aten


def _attention(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """None, for torch's own table, where there is no mask, or heads share keys."""
    mask = a["attn_mask"]
    if mask is None or a["enable_gqa"] or a["is_causal"]:
        return None
    op, constant = c.builder.op, c.builder.constant
    query, key, value = a["query"], a["key"], a["value"]
    dtype = dtype_of(query)
    width = shape_of(query)[-1]
    scale = float(a["scale"]) if a["scale"] is not None else 1 / math.sqrt(int(width))
    if dtype == torch.float32:
        scores = op("FusedMatMul", c.value(query), c.value(key), domain=CONTRIB, transB=1, alpha=scale)
    else:
        axes = list(range(len(shape_of(key))))
        turned = op("Transpose", c.value(key), perm=[*axes[:-2], axes[-1], axes[-2]])
        scores = op("Mul", op("MatMul", c.value(query), turned), constant(scale, dtype))
    given = c.value(mask)
    nothing = constant(-np.inf, dtype)
    if dtype_of(mask) == torch.bool:
        seen, scores = given, op("Where", given, scores, nothing)
    else:
        seen, scores = op("Greater", given, constant(-np.inf, dtype_of(mask))), op("Add", scores, given)
    mixed = op("MatMul", op("Softmax", scores, axis=-1), c.value(value))
    counted = op("ReduceMax", c.cast(seen, torch.bool, torch.int32), constant([-1]), keepdims=1)
    return op("Where", c.cast(counted, torch.int32, torch.bool), mixed, constant(0.0, dtype))


ATTENTION: dict[Any, Translate] = {aten.scaled_dot_product_attention.default: _attention}
