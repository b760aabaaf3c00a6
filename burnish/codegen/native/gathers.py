"""Elements by their places, and running totals, along any axis, by native kernels."""

from __future__ import annotations

import struct
from typing import Any

import torch
from torch import Tensor

from burnish.codegen.native.spec import launch
from burnish.ir.errors import UnsupportedError
from burnish.ir.shapes import product, same_shape, same_size

_PACKED = {
    torch.float32: "f",
    torch.float16: "e",
    torch.int64: "q",
    torch.int32: "i",
    torch.int8: "b",
    torch.uint8: "B",
    torch.bool: "?",
}
_TOTALS = (torch.float32, torch.int64, torch.int32, torch.bool)


def gather(x: Tensor, axis: int, index: Tensor, *, sparse_grad: bool = False) -> Tensor:
    """As `aten::gather`."""
    axis = _checked("gather", x, axis, index)
    out = x.new_empty(index.shape)
    launch("gather_places", x=x.contiguous(), index=index.contiguous(), out=out, **_sizes(x, axis, index))
    return out


def scatter_value(x: Tensor, axis: int, index: Tensor, value: float) -> Tensor:
    """As `aten::scatter.value`."""
    axis = _checked("scatter", x, axis, index)
    if x.dtype not in _PACKED:
        raise UnsupportedError(f"the kernel puts numbers into {', '.join(map(str, _PACKED))}, and not {x.dtype}")
    number: Any = value if x.is_floating_point() else bool(value) if x.dtype == torch.bool else int(value)
    bits = int.from_bytes(struct.pack(f"<{_PACKED[x.dtype]}", number), "little")
    return _scatter(x, axis, index, None, bits - (bits >> 63 << 64))


def scatter_source(x: Tensor, axis: int, index: Tensor, source: Tensor) -> Tensor:
    """As `aten::scatter.src`."""
    axis = _checked("scatter", x, axis, index)
    if not same_shape(source.shape, index.shape):
        raise UnsupportedError("scatter of a part of a tensor: the kernel takes an element for each place")
    return _scatter(x, axis, index, source.contiguous(), 0)


def _scatter(x: Tensor, axis: int, index: Tensor, source: Tensor | None, bits: int) -> Tensor:
    out = x.new_empty(x.shape)
    x, index = x.contiguous(), index.contiguous()
    launch("scatter", x=x, index=index, source=source, out=out, **_sizes(x, axis, index), bits=bits)
    return out


def _checked(name: str, x: Tensor, axis: int, index: Tensor) -> int:
    """The axis, from the front. Raises UnsupportedError unless `index` has places along it for all beside it."""
    if x.dim() == 0 or index.dtype != torch.int64 or index.dim() != x.dim():
        raise UnsupportedError(f"{name} by {index.dtype} places in {index.dim()} axes: the kernel takes int64 in all")
    axis %= x.dim()
    beside = [place for place in range(x.dim()) if place != axis]
    if not all(same_size(x.shape[place], index.shape[place]) for place in beside):
        raise UnsupportedError(f"{name} by places for a part of the rows: the kernel takes them for all")
    return axis


def _sizes(x: Tensor, axis: int, index: Tensor) -> dict[str, Any]:
    return {
        "outer": product(x.shape[:axis]),
        "size": x.shape[axis],
        "inner": product(x.shape[axis + 1 :]),
        "places": index.shape[axis],
        "bytes": x.dtype.itemsize,
    }


def cumsum(x: Tensor, axis: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """As `aten::cumsum`."""
    out_dtype = dtype or (x.dtype if x.is_floating_point() else torch.int64)
    whole = out_dtype == torch.int64
    if x.dim() == 0 or x.dtype not in _TOTALS or out_dtype not in (torch.float32, torch.int64):
        raise UnsupportedError(f"running totals of {x.dtype} as {out_dtype}: the kernel knows {_TOTALS}")
    if whole and x.is_floating_point():
        raise UnsupportedError("running totals of floats as integers: the kernel gives floats")
    axis %= x.dim()
    out = x.new_empty(x.shape, dtype=out_dtype)
    launch(
        "cumsum",
        x=x.contiguous(),
        out=out,
        outer=product(x.shape[:axis]),
        size=x.shape[axis],
        inner=product(x.shape[axis + 1 :]),
        element=str(x.dtype).removeprefix("torch."),
        whole=whole,
    )
    return out
