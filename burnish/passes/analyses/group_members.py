"""Which nodes a fused group can have, and which views can stand between two of them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.fused_group import GATHERS, MEMBERS, REDUCTIONS, VIEWS, folded_axis
from burnish.ir.ops import burnish_ops
from burnish.ir.program import operands

aten = torch.ops.aten

_DTYPES = {
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int8,
    torch.uint8,
    torch.bool,
}
_BY_SHAPE = {aten.reshape.default, aten.view.default, aten.expand.default}
_OVER_DIMS = {aten.sum.dim_IntList, aten.mean.dim, aten.amax.default}


def is_member(node: fx.Node) -> bool:
    """Whether a group may have `node`, if `refusal` has nothing to say."""
    return node.target in MEMBERS and isinstance(node.meta.get("val"), Tensor)


def refusal(node: fx.Node) -> str:
    """Why a node with an op for groups cannot be in one; nothing if it can."""
    val = node.meta["val"]
    reads = [argument.meta["val"] for argument in node.all_input_nodes]
    if not all(isinstance(read, Tensor) for read in reads):
        return "it computes with a size"
    for each in (val, *reads):
        if each.dtype not in _DTYPES:
            return f"kernels of groups have no {str(each.dtype).removeprefix('torch.')}"
    if val.dim() == 0 or not reads:
        return "it has no rows"
    if node.target in REDUCTIONS:
        return "" if folded_axis(node, reads[0].shape) is not None else _reduction_refusal(node, reads[0])
    if node.target is aten.cat.default and any(read.dim() != val.dim() for read in reads):
        return "it joins values of different ranks"
    if node.target is aten.pow.Tensor_Scalar:
        exponent: Any = node.args[1]
        if exponent == int(exponent) and not 1 <= abs(exponent) <= 8:
            return f"kernels of groups have no power of {exponent}"
    if node.target in (aten._to_copy.default, aten.to.dtype) and set(node.kwargs) - {"dtype"}:
        return "it is more than a cast"
    if node.target is burnish_ops.rotary.default and not isinstance(val.shape[-1], int):
        return "its last axis has no size that is known ahead"
    return ""


def _reduction_refusal(node: fx.Node, source: Tensor) -> str:
    if not isinstance(source.shape[-1], int):
        return "its last axis has no size that is known ahead"
    if node.target is burnish_ops.rms_norm.default:
        return ""
    given: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    if node.target is aten.layer_norm.default:
        return "" if len(given) == 1 else "it is a norm over more than the last axis"
    dims = given if isinstance(given, list | tuple) else [given]
    if [dim % source.dim() if isinstance(dim, int) else dim for dim in dims] != [source.dim() - 1]:
        return "it reduces another axis than the last one"
    if node.target is aten.amax.default and not source.is_floating_point():
        return "it is the largest of whole numbers"
    return ""


def keeps_rows(node: fx.Node) -> bool:
    """Whether a view keeps the last axis whole, or slices it: so that rows stay rows."""
    if node.target not in VIEWS:
        return False
    if node.target is operator.getitem:
        source = operands(node)[0]
        return source.target in (aten.split.Tensor, aten.split_with_sizes.default)
    val, source = node.meta["val"], operands(node)[0].meta["val"]
    if isinstance(val, tuple | list):  # a split, of any axis
        return True
    given, rank = operands(node), source.dim()
    if node.target in _BY_SHAPE:
        return bool(val.dim() and rank) and isinstance(val.shape[-1], int) and val.shape[-1] == source.shape[-1]
    if node.target is aten.permute.default:
        return bool(given[1][-1] % rank == rank - 1)
    if node.target is aten.transpose.int:
        return rank - 1 not in (given[1] % rank, given[2] % rank)
    if node.target is aten.unsqueeze.default:
        at_end = given[1] % (rank + 1) == rank
        return not at_end or (operands(node)[0].target in REDUCTIONS and _drops_axis(operands(node)[0]))
    axis = (given[1] if len(given) > 1 else node.kwargs.get("dim", 0)) % rank
    return node.target is aten.slice.Tensor or bool(axis != rank - 1)


def _drops_axis(node: fx.Node) -> bool:
    return node.target in _OVER_DIMS and node.meta["val"].dim() < operands(node)[0].meta["val"].dim()


def through_views(argument: fx.Node) -> tuple[fx.Node, tuple[fx.Node, ...]]:
    """The value that a chain of row-keeping views starts at, and the chain, in order."""
    chain: list[fx.Node] = []
    while keeps_rows(argument):
        chain.append(argument)
        argument = operands(argument)[0]
    return argument, tuple(reversed(chain))


def is_table(node: fx.Node, argument: fx.Node) -> bool:
    """Whether `node` reads only some rows of `argument`."""
    return node.target in GATHERS and node.args[0] is argument and argument not in operands(node)[1:]
