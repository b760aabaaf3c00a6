"""Ops over rows: norms, softmax, reductions and rotary embeddings. Truth: the ops of ATen and `burnish::`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from burnish.codegen.native.elementwise import pointwise
from burnish.codegen.native.operands import need_floats
from burnish.codegen.native.spec import launch
from burnish.codegen.native.strided import result_of, rows_like, space, with_dense_rows
from burnish.ir.errors import UnsupportedError
from burnish.ir.ops import burnish_ops
from burnish.ir.shapes import product

aten = torch.ops.aten

_cast = pointwise(aten.to.dtype)
_times = pointwise(aten.mul.Tensor)


def _rows(**operands: Tensor) -> dict[str, Any]:
    """The slots for the leading axes of operands, the first of which is the result."""
    first = next(iter(operands.values()))
    return space(first.shape[:-1], **{name: x.select(-1, 0) for name, x in operands.items()})


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """As `burnish::rms_norm`."""
    if weight is not None and weight.dim() != 1:
        return _times(weight, rms_norm(x, None, eps))
    return _normed("rms", x, weight, None, eps)


def layer_norm(
    x: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    """As `aten::layer_norm`, over the last axis."""
    if len(normalized_shape) != 1:
        raise UnsupportedError("the kernel goes over the last axis")
    return _normed("layer", x, weight, bias, eps)


def _normed(norm: str, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    need_floats(x, weight, bias)
    x = with_dense_rows(x)
    out = rows_like(x)
    launch(
        "norm_rows",
        out=out,
        x=x,
        weight=None if weight is None else weight.contiguous(),
        bias=None if bias is None else bias.contiguous(),
        length=x.shape[-1],
        norm=norm,
        eps=float(eps),
        **_rows(out=out, x=x),
    )
    return out


def softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """As `aten::softmax`."""
    result = dtype or x.dtype
    if result != torch.float32:
        _require_half(result)
    x = _cast(x, torch.float32)
    last = dim in (-1, x.dim() - 1)
    x = with_dense_rows(x if last else x.transpose(dim, -1))
    out = x.new_empty(x.shape)
    launch("softmax_rows", out=out, x=x, length=x.shape[-1], **_rows(out=out, x=x))
    return _cast(out if last else out.transpose(dim, -1).contiguous(), result)


def _require_half(dtype: torch.dtype) -> None:
    """Raise UnsupportedError for a result that float32 is not enough for."""
    if dtype not in (torch.float16, torch.bfloat16):
        raise UnsupportedError(f"the kernel computes in float32, and the result is {dtype}")


def _softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """As `aten::_softmax`."""
    return softmax(x, dim, torch.float32 if half_to_float else None)


def reduction(target: Any, kind: str) -> Callable[..., Tensor]:
    """The host function of a sum, mean or maximum, over any axes."""

    def host(
        x: Tensor, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
    ) -> Tensor:
        options: dict[str, Any] = {} if kind == "amax" else {"dtype": dtype}
        found = result_of(target, (x, dim or [], keepdim), options)
        axes = sorted(each % x.dim() for each in dim or range(x.dim()))
        wide = torch.float32 if found.dtype.is_floating_point else torch.int64
        if wide == torch.float32 != found.dtype:
            _require_half(found.dtype)
        out = x.new_empty_strided(tuple(found.shape), tuple(found.stride()), dtype=wide)
        results = out
        for axis in reversed(axes if keepdim else []):
            results = results.select(axis, 0)
        _reduce(kind, _cast(x, wide), axes, results)
        return _cast(out, found.dtype)

    host.__name__ = kind
    return host


def _reduce(kind: str, x: Tensor, axes: list[int], out: Tensor) -> None:
    """What is left without its axes, which become one behind the others."""
    kept = [axis for axis in range(x.dim()) if axis not in axes]
    over = tuple(x.shape[axis] for axis in axes)
    if not over or any(statically_known_true(size == 0) for size in over):
        raise UnsupportedError("there is nothing to be reduced")
    x = x.permute(*kept, *axes)
    if len(over) > 1:
        x = x.reshape(*x.shape[: len(kept)], product(over))
    launch(
        "reduce",
        out=out,
        x=x,
        reduction=kind,
        integers=out.dtype == torch.int64,
        length=x.shape[-1],
        step=x.stride(-1),
        **space(out.shape, out=out, x=x.select(-1, 0)),
    )


def rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """As `burnish::rotary`."""
    need_floats(x, cos, sin)
    x, cos, sin = (with_dense_rows(each) for each in (x, cos, sin))
    out = rows_like(x)
    launch(
        "rotary_rows",
        out=out,
        x=x,
        cos=cos,
        sin=sin,
        length=x.shape[-1],
        turned=cos.shape[-1],
        interleaved=interleaved,
        **_rows(out=out, x=x, cos=cos, sin=sin),
    )
    return out


ROWS: dict[Any, Callable[..., Tensor]] = {
    aten.amax.default: reduction(aten.amax.default, "amax"),
    aten.layer_norm.default: layer_norm,
    aten.mean.dim: reduction(aten.mean.dim, "mean"),
    aten.softmax.int: softmax,
    aten._softmax.default: _softmax,
    aten.sum.dim_IntList: reduction(aten.sum.dim_IntList, "sum"),
    burnish_ops.rms_norm.default: rms_norm,
    burnish_ops.rotary.default: rotary,
}
