"""Operators of ONNX as calls of torch's, one table for each kind."""

from __future__ import annotations

from burnish.frontend.onnx.call import Operator, Table
from burnish.frontend.onnx.operators import (
    activation,
    cast,
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    shape,
)

_STANDARD = (
    activation,
    cast,
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    quantization,
    reduction,
    shape,
)


def _joined() -> dict[str, Table]:
    standard: Table = {}
    for module in _STANDARD:
        standard.update(module.TABLE)
    return {"": standard}


TABLES = _joined()


def operator_of(domain: str, name: str) -> Operator | None:
    """What an operator does; None for one that is not supported."""
    return TABLES.get(domain, {}).get(name)
