"""Elements in another place or order: copies, joins, zeros, positions, and rows by their number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from burnish.codegen.native.elementwise import Formula, compute
from burnish.codegen.native.spec import launch
from burnish.codegen.native.strided import empty_like, result_of, space
from burnish.ir.errors import UnsupportedError
from burnish.ir.shapes import product

aten = torch.ops.aten


def copy(x: Tensor, out: Tensor | None = None) -> Tensor:
    """See `burnish.codegen.plan.launches.Copy`: memory of any strides."""
    if out is None:
        out = x.new_empty(tuple(x.shape))
    if x.dtype != out.dtype:
        raise UnsupportedError(f"a copy keeps bytes, and {x.dtype} is not {out.dtype}")
    launch("copy", out=out, x=x, bytes=x.dtype.itemsize, **space(out.shape, out=out, x=x))
    return out


def clone(x: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor:
    """As `aten::clone`."""
    found = result_of(aten.clone.default, (x,), {"memory_format": memory_format})
    return copy(x, empty_like(x, found))


def contiguous(x: Tensor, *, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    """As `aten::contiguous`; what lies in order is what it is."""
    found = result_of(aten.contiguous.default, (x,), {"memory_format": memory_format})
    return x if found is x else copy(x, empty_like(x, found))


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """As `aten::cat`: a launch for each part."""
    found = result_of(aten.cat.default, (list(tensors), dim), {})
    if any(each.dim() != found.dim() for each in tensors):
        raise UnsupportedError("one of what is joined has no elements and another number of axes")
    out = empty_like(tensors[0], found)
    start: Any = 0
    for each in tensors:
        part = aten.slice.Tensor(out, dim, start, start + each.shape[dim])
        start = start + each.shape[dim]
        if each.dtype == out.dtype:
            copy(each, part)
        else:
            compute(Formula("cast", each, common=True), part)
    return out


def zeros_like(x: Tensor, *, dtype: torch.dtype | None = None, **placement: Any) -> Tensor:
    """As `aten::zeros_like`; `placement`: ATen's layout, device and memory format, which are those of `x`."""
    out = empty_like(x, result_of(aten.zeros_like.default, (x,), {"dtype": dtype}))
    compute(Formula("cast", 0), out)
    return out


def positions(tokens: Tensor, position: Tensor | None = None) -> Tensor:
    """As `burnish::positions`; of one token a row, they are those that are given."""
    batch, count = tokens.shape
    if position is not None and statically_known_true(count == 1):
        return position.unsqueeze(-1)
    out = tokens.new_empty((batch, count), dtype=torch.int64)
    start = None if position is None else position.contiguous()
    launch("positions", out=out, position=start, batch=batch, tokens=count)
    return out


def index_select(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """As `aten::index_select`; of one element, the one is what it is."""
    if index.dtype != torch.int64:
        raise UnsupportedError(f"the kernel takes places in int64, not {index.dtype}")
    dim = dim % x.dim()
    (count,) = index.shape
    if statically_known_true(x.shape[dim] == 1) and statically_known_true(count == 1):
        return x
    x, index = x.contiguous(), index.contiguous()
    before, behind = tuple(x.shape[:dim]), tuple(x.shape[dim + 1 :])
    out = x.new_empty((*before, count, *behind))
    launch(
        "gather",
        table=x,
        ids=index,
        out=out,
        outer=product(before),
        count=count,
        table_rows=x.shape[dim],
        bytes=product(behind) * x.dtype.itemsize,
    )
    return out
