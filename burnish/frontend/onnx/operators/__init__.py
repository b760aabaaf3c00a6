"""Operators of ONNX as calls of torch's, one table for each kind."""

from __future__ import annotations

from burnish.frontend.onnx import spelling
from burnish.frontend.onnx.call import Operator, Table
from burnish.frontend.onnx.operators import (
    activation,
    attention,
    cast,
    contrib,
    contrib_attention,
    control,
    convolution,
    elementwise,
    image,
    indexing,
    linear,
    loss,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    shape,
    signal,
)

_STANDARD = (
    activation,
    attention,
    cast,
    control,
    convolution,
    elementwise,
    image,
    indexing,
    linear,
    loss,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    shape,
    signal,
)


def _joined() -> dict[str, Table]:
    standard: Table = {}
    for module in _STANDARD:
        standard.update(module.TABLE)
    standard["SimplifiedLayerNormalization"] = contrib.simplified_layer_norm
    return {
        "": standard,
        "com.microsoft": {**contrib.TABLE, **contrib_attention.TABLE},
        spelling.DOMAIN: spelling.TABLE,
    }


TABLES = _joined()


def operator_of(domain: str, name: str) -> Operator | None:
    """What an operator does; None for one that is not supported."""
    return TABLES.get(domain, {}).get(name)
