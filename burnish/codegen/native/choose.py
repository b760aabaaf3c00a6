"""The greatest of each row, and rows of tables, by the native kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from burnish.codegen.native.operands import need_floats, need_places, packed
from burnish.codegen.native.spec import launch
from burnish.ir.errors import UnsupportedError
from burnish.ir.shapes import product


def _gathered(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table by ids of any shape. Those of int32, which few models make, are widened by PyTorch."""
    ids = ids.to(torch.int64) if ids.dtype == torch.int32 else ids
    need_places(ids)
    out = table.new_empty((*ids.shape, *table.shape[1:]))
    packed_table = packed(table)
    if packed_table is not None:
        launch(
            "gather_panels",
            table=packed_table[0],
            ids=ids.contiguous(),
            out=out,
            count=product(ids.shape),
            table_rows=table.shape[0],
            size=table.shape[1],
            format=packed_table[1],
        )
        return out
    bytes_ = product(table.shape[1:]) * table.dtype.itemsize
    table = table.contiguous()
    rows = table.shape[0]
    launch(
        "gather",
        table=table,
        ids=ids.contiguous(),
        out=out,
        outer=1,
        count=product(ids.shape),
        table_rows=rows,
        bytes=bytes_,
    )
    return out


def embedding(table: Tensor, ids: Tensor, *options: Any, **more: Any) -> Tensor:
    """As `aten::embedding`."""
    return _gathered(table, ids)


def lookup(table: Tensor, positions: Tensor) -> Tensor:
    """As `burnish::lookup`."""
    return _gathered(table, positions)


def argmax(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """As `aten::argmax`, over one axis."""
    if dim is None or x.dim() == 0:
        raise UnsupportedError("the kernel goes over one axis")
    need_floats(x)
    x = x.movedim(dim, -1)
    out = x.new_empty(x.shape[:-1], dtype=torch.int64)
    launch("argmax", x=x.contiguous(), out=out, rows=product(x.shape[:-1]), size=x.shape[-1])
    return out.unsqueeze(dim) if keepdim else out


def top_scores(x: Tensor, count: int) -> Tensor:
    """As `burnish::top_scores`."""
    need_floats(x)
    out = x.new_empty((*x.shape[:-1], 2, count), dtype=torch.int32)
    launch("top_scores", x=x.contiguous(), out=out, rows=product(x.shape[:-1]), size=x.shape[-1], count=count)
    return out
