"""Ops that give the axes of a tensor in another order, by whatever name."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from burnish.ir.arguments import arguments
from burnish.ir.program import value

aten = torch.ops.aten

Order = tuple[int, ...]


def turned(node: fx.Node) -> Order | None:
    """The `permute` that a node is, whatever it is called; None if it is none."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return None
    rank, a = value(node).dim(), arguments(node)
    order = list(range(rank))
    if node.target is aten.permute.default:
        return tuple(axis % rank for axis in a["dims"])
    if node.target in (aten.transpose.int, aten.swapaxes.default):
        first, second = (axis % rank for axis in list(a.values())[1:3])
        order[first], order[second] = second, first
    elif node.target in (aten.t.default, aten.numpy_T.default):
        order.reverse()
    elif node.target is aten.mT.default:
        order[-2:] = reversed(order[-2:])
    else:
        return None
    return tuple(order)
