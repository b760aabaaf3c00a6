"""The bridge to torch.onnx's own ATen table, for the ops that we have no translation of.

torch has no public way to ask its table for one op. What is used here is the same in torch 2.11 to 2.13, and is used
nowhere else: `ONNXRegistry.from_torchlib`, `dispatch`, `OpRecorder` and `SymbolicTensor`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import onnx_ir as ir
import onnxscript
import torch
from onnxscript import evaluator
from torch import fx
from torch.onnx._internal.exporter import _building, _dispatching, _registration, _tensors

from burnish.ir.arguments import arguments

aten = torch.ops.aten
_OF_FOUR_AXES = {aten.scaled_dot_product_attention.default}
"""Ops that torch's table has, but not for tensors of other than four axes."""
_NOT_THESE = {
    aten.embedding_bag.default: "ONNX Runtime crashes while it loads what torch's table has for it",
    aten.embedding_bag.padding_idx: "ONNX Runtime crashes while it loads what torch's table has for it",
    aten.cross_entropy_loss.default: "torch's table forgets ignored classes where labels are smoothed",
}
"""Ops for which torch's table has what is wrong, and why."""
_MODES_OF_GRIDS = {"bilinear": "linear", "bicubic": "cubic"}  # since opset 20
_TABLE_OPSET = (
    18  # what torch's functions are written in; what they use means the same up to opset 24, but for _MODES_OF_GRIDS
)


def new_value(name: str | None) -> ir.Value:
    """A value of the class that torch's functions compute with."""
    return _tensors.SymbolicTensor(onnxscript.values.Opset("", _TABLE_OPSET), name=name)


@cache
def _registry() -> Any:
    """torch's table, without a warning for each op of torchvision where that is not installed."""
    logger = logging.getLogger(_registration.__name__)
    logger.addFilter(_not_of_torchvision)
    try:
        return _registration.ONNXRegistry.from_torchlib()
    finally:
        logger.removeFilter(_not_of_torchvision)


def _not_of_torchvision(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("torchvision is not installed")


@dataclass(frozen=True)
class Translation:
    """What torch's table makes of one node."""

    result: ir.Value | Sequence[ir.Value]
    nodes: list[ir.Node]
    functions: dict[Any, ir.Function]


class TableError(Exception):
    """Why torch's table has no translation of a node."""


def missing(node: fx.Node) -> str:
    """Why torch's table has no translation of a node's op; empty if it has one."""
    if node.target in _OF_FOUR_AXES and node.args[0].meta["val"].ndim != 4:  # type: ignore[union-attr]
        return "its tensors have four axes there"
    if node.target in _NOT_THESE:
        return _NOT_THESE[node.target]
    if arguments(node).get("divisor_override") is not None:
        return "torch's table forgets its divisor"
    function, reason = _dispatching.dispatch(node, _registry())
    return reason if function is None else ""


def translate(
    node: fx.Node, args: Sequence[Any], kwargs: dict[str, Any], constants: dict[Any, ir.Value]
) -> Translation:
    """Translate `node`, whose arguments as ONNX values are `args` and `kwargs`; TableError where the table cannot."""
    function, reason = _dispatching.dispatch(node, _registry())
    if function is None:
        raise TableError(reason)
    recorder = _building.OpRecorder(onnxscript.values.Opset("", _TABLE_OPSET), constants)
    try:
        with evaluator.default_as(recorder):
            result = function(*args, **kwargs)
    except Exception as error:
        raise TableError(f"{type(error).__name__}: {_innermost(error)}") from error
    for made in recorder.nodes:
        _rename_modes(made)
    functions = {
        key: each if isinstance(each, ir.Function) else ir.serde.deserialize_function(each.to_function_proto())
        for key, each in recorder.functions.items()
    }
    return Translation(result, recorder.nodes, functions)


def _rename_modes(node: ir.Node) -> None:
    """Give what an operator was called by when torch's functions were written the name that it has now."""
    mode = node.attributes.get("mode")
    if node.op_type == "GridSample" and mode is not None and mode.value in _MODES_OF_GRIDS:
        node.attributes["mode"] = ir.AttrString("mode", _MODES_OF_GRIDS[mode.value])


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
