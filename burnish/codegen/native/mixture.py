"""`burnish::moe_linear` and what else mixtures of experts need, by native kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from burnish.codegen.native.operands import need_floats, need_places, panels_of
from burnish.codegen.native.spec import launch
from burnish.ir.errors import UnsupportedError
from burnish.ir.shapes import product


def moe_linear(x: Tensor, weight: Tensor, bias: Tensor | None, experts: Tensor) -> Tensor:
    """As `burnish::moe_linear`."""
    need_floats(x, bias)
    need_places(experts)
    panels, form = panels_of(weight)
    count, size_n, size_k = weight.shape
    rows, choices = experts.shape
    out = x.new_empty((rows, choices, size_n))
    launch(
        "moe_linear",
        x=x.contiguous(),
        weight=panels,
        bias=None if bias is None else bias.contiguous(),
        experts=experts.contiguous(),
        out=out,
        rows=rows,
        choices=choices,
        count=count,
        size_n=size_n,
        size_k=size_k,
        shared=x.shape[1] == 1,
        format=form,
    )
    return out


def topk(x: Tensor, count: int, axis: int = -1, largest: bool = True, sorted: bool = True) -> tuple[Tensor, Tensor]:
    """As `aten::topk` over the last axis, in order even where that is not asked for."""
    need_floats(x)
    if x.dim() == 0 or axis not in (-1, x.dim() - 1):
        raise UnsupportedError("the kernel goes over the last axis")
    if isinstance(x.shape[-1], int) and not 1 <= count <= x.shape[-1]:
        raise UnsupportedError(f"the kernel finds 1 to {x.shape[-1]} of {x.shape[-1]}, and not {count}")
    shape = (*x.shape[:-1], count)
    values, indices = x.new_empty(shape), x.new_empty(shape, dtype=torch.int64)
    launch(
        "topk",
        x=x.contiguous(),
        values=values,
        indices=indices,
        rows=product(x.shape[:-1]),
        size=x.shape[-1],
        count=count,
        largest=largest,
    )
    return values, indices
