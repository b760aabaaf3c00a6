"""Translations of products and tables of integers to ONNX Runtime's own operators, whose layout the weights have."""

from __future__ import annotations

import onnx_ir as ir
from torch import fx

from burnish.codegen.onnx.builder import CONTRIB
from burnish.codegen.onnx.context import Arguments, Context, Result, shape_of

# Activations are rounded to 8 bits, a scale for each block of a row: the products are of integers then. It is what
# makes them as quick as the memory is; kernels for float activations take three times as long here.
_INT8_ACTIVATIONS = 4


def quantized_linear(c: Context, node: fx.Node, a: Arguments) -> Result:
    """MatMulNBits; offsets of the blocks times the sums of x over each block are added to what it gives."""
    rows, blocks, block = _sizes(a)
    x = a["x"]
    product = c.builder.op(
        "MatMulNBits",
        c.value(x),
        c.value(a["values"]),
        c.value(a["scales"]),
        None if a["zeros"] is None else c.value(a["zeros"]),
        None,  # an order of the groups
        None if a["bias"] is None else c.value(a["bias"]),
        domain=CONTRIB,
        K=int(shape_of(x)[-1]),
        N=rows,
        bits=a["bits"],
        block_size=block,
        accuracy_level=_INT8_ACTIVATIONS,
    )
    if a["offsets"] is None:
        return product
    offsets = c.value(a["offsets"])
    correction = c.builder.op("FusedMatMul", _sums(c, x, blocks, block), offsets, domain=CONTRIB, transB=1)
    return c.builder.op("Add", product, correction)


def quantized_embedding(c: Context, node: fx.Node, a: Arguments) -> Result:
    """GatherBlockQuantized on the bytes that a product of the same weight reads, too."""
    rows, blocks, block = _sizes(a)
    op, constant, size = c.builder.op, c.builder.constant, a["size"]
    ids = c.value(a["ids"])
    found = op(
        "GatherBlockQuantized",
        c.builder.weight(c.program.weight_of(a["values"]), shape=(rows, blocks * block * a["bits"] // 8)),
        ids,
        c.value(a["scales"]),
        None if a["zeros"] is None else c.value(a["zeros"]),
        domain=CONTRIB,
        bits=a["bits"],
        block_size=block,
        gather_axis=0,
        quantize_axis=1,
    )
    lead = [0] * len(shape_of(a["ids"]))
    if a["offsets"] is not None:
        apart = op("Reshape", found, constant([*lead, blocks, block]))
        offsets = c.unsqueeze(op("Gather", c.value(a["offsets"]), ids, axis=0), -1)
        found = op("Reshape", op("Add", apart, offsets), constant([*lead, blocks * block]))
    if blocks * block == size:
        return found
    return op("Slice", found, constant([0]), constant([size]), constant([-1]))


def _sizes(a: Arguments) -> tuple[int, int, int]:
    """Rows, blocks of a row, and integers of a block."""
    rows, blocks, length = (int(size) for size in shape_of(a["values"]))
    return rows, blocks, length * 8 // a["bits"]


def _sums(c: Context, x: fx.Node, blocks: int, block: int) -> ir.Value:
    """The sums of x[..., blocks * block] over each block, made once for all products that read x."""
    shape = [0] * (len(shape_of(x)) - 1)

    def make() -> ir.Value:
        apart = c.builder.op("Reshape", c.value(x), c.builder.constant([*shape, blocks, block]))
        return c.builder.op("ReduceSum", apart, c.builder.constant([-1]), keepdims=0)

    return c.builder.once(("sums", x, block), make)
