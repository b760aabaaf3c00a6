"""Translations of ATen ops that multiply matrices, and of convolutions of texts."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.builder import CONTRIB
from burnish.codegen.onnx.context import Arguments, Context, Result, Translate, dtype_of, shape_of
from burnish.ir.arguments import arguments
from burnish.ir.program import Stage

aten = torch.ops.aten


def _linear(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    x, weight, bias = a["input"], a["weight"], a["bias"]
    if len(shape_of(x)) < 2 or len(shape_of(weight)) != 2:
        return None
    if c.program.stage is Stage.GRAPH and bias is not None and dtype_of(node) == torch.float32 and shape_of(x)[-1]:
        return _affine(c, node, a)
    if dtype_of(node) == torch.float32:
        # The weight stays [out, in], as torch has it: nothing is transposed, and a tied embedding is stored once.
        product = c.builder.op("FusedMatMul", c.value(x), c.value(weight), domain=CONTRIB, transB=1)
    else:
        turned = c.builder.op("Transpose", c.value(weight), perm=[1, 0])
        product = c.builder.op("MatMul", c.value(x), turned)
    return product if bias is None else c.builder.op("Add", product, c.value(bias))


def _affine(c: Context, node: fx.Node, a: Arguments) -> ir.Value:
    """By rows, with the bias inside: ONNX Runtime would add it in a slow kernel with the GELU behind it."""
    x, before, after = c.value(a["input"]), shape_of(a["input"]), shape_of(node)
    rows = x if len(before) == 2 else c.builder.op("Reshape", x, c.builder.constant([-1, int(before[-1])]))
    product = c.builder.op("Gemm", rows, c.value(a["weight"]), c.value(a["bias"]), transB=1)
    return product if len(before) == 2 else c.builder.op("Reshape", product, c.builder.shape(after))


def _turned_weight(node: fx.Node) -> fx.Node | None:
    """The weight, as it is stored, that `node` is the transpose of."""
    if node.op != "call_function" or len(node.all_input_nodes) != 1 or node.all_input_nodes[0].op != "get_attr":
        return None
    if len(shape_of(node)) != 2:
        return None
    if node.target is aten.permute.default:
        turns = [axis % 2 for axis in arguments(node)["dims"]] == [1, 0]
    elif node.target is aten.transpose.int:
        turns = arguments(node)["dim0"] % 2 != arguments(node)["dim1"] % 2
    else:
        turns = node.target in (aten.t.default, aten.numpy_T.default, aten.mT.default)
    return node.all_input_nodes[0] if turns else None


def _addmm(c: Context, node: fx.Node, a: Arguments) -> Result:
    return c.builder.op(
        "Gemm",
        c.value(a["mat1"]),
        c.value(a["mat2"]),
        c.value(a["self"]),
        alpha=float(a["alpha"]),
        beta=float(a["beta"]),
    )


def _matmul(c: Context, node: fx.Node, a: Arguments) -> Result:
    left, right = (argument for argument in a.values() if isinstance(argument, fx.Node))
    weight = _turned_weight(right)
    if weight is not None and len(shape_of(left)) >= 2 and dtype_of(node) == torch.float32:
        return c.builder.op("FusedMatMul", c.value(left), c.value(weight), domain=CONTRIB, transB=1)
    return c.builder.op("MatMul", c.value(left), c.value(right))


def _convolution_1d(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    if isinstance(a["padding"], str):
        return None
    padding = list(a["padding"]) * 2
    return c.builder.op(
        "Conv",
        c.value(a["input"]),
        c.value(a["weight"]),
        None if a["bias"] is None else c.value(a["bias"]),
        strides=list(a["stride"]),
        pads=padding,
        dilations=list(a["dilation"]),
        group=a["groups"],
    )


PRODUCTS: dict[Any, Translate] = {
    aten.linear.default: _linear,
    aten.addmm.default: _addmm,
    **dict.fromkeys((aten.matmul.default, aten.mm.default, aten.bmm.default), _matmul),
    aten.conv1d.default: _convolution_1d,
}
