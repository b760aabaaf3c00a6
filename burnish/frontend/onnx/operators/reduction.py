"""Operators that make one element of many."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from burnish.frontend.onnx.call import Call, Operator, Table
from burnish.frontend.onnx.dtypes import as_dtype
from burnish.frontend.onnx.operators.unsigned import from_ordered, narrowed, ordered, widened

Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduce(function: Reduction, chooses: bool = False) -> Operator:
    """Over axes that are an attribute or an operand; over all axes, or none, where there are none."""

    def run(c: Call) -> Tensor:
        x = c.tensor(0)
        axes = c.axes(1)
        if not axes:
            if c.flag("noop_with_empty_axes"):
                return _of_one(function, x, chooses)
            axes = list(range(x.dim()))
        if any(not -x.dim() <= axis < x.dim() for axis in axes):
            raise c.invalid(f"the axes {axes} of a tensor of {x.dim()} axes")
        keep = c.flag("keepdims", True)
        if chooses:
            wide = ordered(x)
            if x.dtype is torch.bool:
                return _with_rows(function, wide.to(torch.uint8), axes, keep).to(torch.bool)
            return from_ordered(_with_rows(function, wide, axes, keep), x.dtype)
        wide = widened(x)
        return narrowed(as_dtype(function(wide, axes, keep), wide.dtype), x.dtype)

    return run


def _of_one(function: Reduction, x: Tensor, chooses: bool) -> Tensor:
    """Of each element alone."""
    return x if chooses else as_dtype(function(x.unsqueeze(-1), [-1], False), x.dtype)


def _with_rows(function: Reduction, x: Tensor, axes: list[int], keep: bool) -> Tensor:
    """The greatest and the smallest of nothing are the limits of the type, which torch does not say."""
    if all(not isinstance(x.shape[axis], int) or x.shape[axis] > 0 for axis in axes):
        return function(x, axes, keep)
    limits = torch.finfo(x.dtype) if x.is_floating_point() else torch.iinfo(x.dtype)
    is_most = function is _most
    value = -torch.inf if x.is_floating_point() else limits.min
    if not is_most:
        value = torch.inf if x.is_floating_point() else limits.max
    places = {axis % x.dim() for axis in axes}
    shape = [1 if axis in places else size for axis, size in enumerate(x.shape) if keep or axis not in places]
    return torch.full(shape, value, dtype=x.dtype)


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, dim=axes, keepdim=keep) if axes else x


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if not axes:
        return x
    if x.is_floating_point():
        return torch.mean(x, dim=axes, keepdim=keep)
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return torch.div(torch.sum(x, dim=axes, keepdim=keep), count, rounding_mode="trunc")


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = torch.prod(x, dim=axis, keepdim=keep)
    return x


def _most(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.amax(x, dim=axes, keepdim=keep) if axes else x


def _least(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.amin(x, dim=axes, keepdim=keep) if axes else x


def _root(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sqrt(_sum(x * x, axes, keep))


def _log_sum_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.logsumexp(x, dim=axes, keepdim=keep) if axes else x


TABLE: Table = {
    "ReduceSum": _reduce(_sum),
    "ReduceMean": _reduce(_mean),
    "ReduceProd": _reduce(_product),
    "ReduceMax": _reduce(_most, chooses=True),
    "ReduceMin": _reduce(_least, chooses=True),
    "ReduceL1": _reduce(lambda x, axes, keep: _sum(torch.abs(x), axes, keep)),
    "ReduceL2": _reduce(_root),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: _sum(x * x, axes, keep)),
    "ReduceLogSum": _reduce(lambda x, axes, keep: torch.log(_sum(x, axes, keep))),
    "ReduceLogSumExp": _reduce(_log_sum_exp),
}
