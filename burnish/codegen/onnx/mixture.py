"""moe_linear: each token's product with its chosen experts' weights."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.context import Arguments, Context, Result, dtype_of, shape_of


@dataclass(frozen=True)
class _Operands:
    """Choices are the tokens' picks of experts, one after the other."""

    rows: ir.Value  # [choices, in]
    chosen: ir.Value  # int64 [choices]
    weights: ir.Value  # [experts, out, in]
    bias: ir.Value | None  # [experts, out]
    experts: int
    out: int
    dtype: torch.dtype


def moe_linear(c: Context, node: fx.Node, a: Arguments) -> Result:
    """x[N, K|1, in], weight[E, out, in], bias[E, out], experts[N, K] -> [N, K, out].

    With fewer choices than experts (decoding), the chosen experts' weights are gathered: only they are read. With more,
    a loop over the experts multiplies each with the rows that chose it. An `If` decides at run time.
    """
    op, constant = c.builder.op, c.builder.constant
    experts, weight = a["experts"], a["weight"]
    count, out, size = (int(each) for each in shape_of(weight))
    wide = op("Expand", c.value(a["x"]), c.builder.shape((*shape_of(experts), size)))
    o = _Operands(
        rows=op("Reshape", wide, constant([-1, size])),
        chosen=op("Reshape", c.value(experts), constant([-1])),
        weights=c.value(weight),
        bias=None if a["bias"] is None else c.value(a["bias"]),
        experts=count,
        out=out,
        dtype=dtype_of(node),
    )
    few = op("Less", op("Size", o.chosen), constant(count))
    gathered = c.builder.subgraph("gathered", lambda: [_gathered(c, o)])
    looped = c.builder.subgraph("looped", lambda: [_looped(c, o)])
    flat = op("If", few, then_branch=gathered, else_branch=looped)
    return op("Reshape", flat, c.builder.shape(shape_of(node)))


def _gathered(c: Context, o: _Operands) -> ir.Value:
    op = c.builder.op
    own = op("Gather", o.weights, o.chosen, axis=0)  # [choices, out, in]
    product = op("Squeeze", op("MatMul", own, c.unsqueeze(o.rows, 2)), c.builder.constant([2]))
    return product if o.bias is None else op("Add", product, op("Gather", o.bias, o.chosen, axis=0))


def _looped(c: Context, o: _Operands) -> ir.Value:
    op, constant = c.builder.op, c.builder.constant
    size = op("Concat", op("Shape", o.chosen), constant([o.out]), axis=0)
    nothing = op("Expand", constant(0, o.dtype), size)
    expert = c.builder.subgraph_input("expert", torch.int64, rank=0)
    going = c.builder.subgraph_input("going", torch.bool, rank=0)
    total = c.builder.subgraph_input("total", o.dtype, rank=2)

    def body() -> list[ir.Value]:
        mine = op("Transpose", op("NonZero", op("Equal", o.chosen, expert)), perm=[1, 0])  # [rows of this expert, 1]
        own = op("Transpose", op("Gather", o.weights, expert, axis=0), perm=[1, 0])
        product = op("MatMul", op("GatherND", o.rows, mine), own)
        if o.bias is not None:
            product = op("Add", product, op("Gather", o.bias, expert, axis=0))
        return [op("Identity", going), op("ScatterND", total, mine, product)]

    loop = c.builder.subgraph("expert", body, inputs=[expert, going, total])
    return op("Loop", constant(o.experts), None, nothing, body=loop)
