"""Products with weights in panels, by the native kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from burnish.codegen.native.operands import need_floats, panels_of
from burnish.codegen.native.spec import launch
from burnish.codegen.plan.rows import rows_of
from burnish.ir.errors import UnsupportedError
from burnish.ir.shapes import product


def fused_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    residual: Tensor | None = None,
    *,
    scales: Tensor | None = None,
    norm: str = "none",
    eps: float = 0.0,
    activation: str = "none",
    gated: bool = False,
    scale: float = 1.0,
    softcap: float = 0.0,
) -> Tensor:
    """As `burnish::fused_linear`."""
    need_floats(x, bias, norm_weight, norm_bias, residual)
    panels, form = panels_of(weight)
    size_n, size_k = weight.shape
    out = x.new_empty((*x.shape[:-1], size_n // 2 if gated else size_n))
    lines, stride = rows_of(x)
    shift = norm_bias if norm == "layer" else None  # others have none
    vectors = {"bias": bias, "norm_weight": norm_weight, "norm_bias": shift, "residual": residual}
    launch(
        "fused_linear",
        x=lines,
        weight=panels,
        **{name: None if each is None else each.contiguous() for name, each in vectors.items()},
        out=out,
        rows=product(x.shape[:-1]),
        size_n=size_n,
        size_k=size_k,
        x_stride=stride,
        format=form,
        norm=norm,
        eps=float(eps),
        activation=activation,
        gated=gated,
        scale=float(scale),
        softcap=float(softcap),
    )
    return out


def attention_projection(
    x: Tensor,
    weight: Tensor,
    key_state: Tensor,
    value_state: Tensor,
    position: Tensor,
    bias: Tensor | None = None,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    query_norm: Tensor | None = None,
    key_norm: Tensor | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    scales: Tensor | None = None,
    heads: int,
    norm: str = "none",
    eps: float = 0.0,
    head_eps: float = 0.0,
    interleaved: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `burnish::attention_projection`; the states are written in place."""
    need_floats(x, bias, norm_weight, norm_bias, query_norm, key_norm, cos, sin)
    if not key_state.is_contiguous() or not value_state.is_contiguous():
        raise UnsupportedError("the kernel writes caches that lie in order")
    panels, form = panels_of(weight)
    batch, tokens, size_k = x.shape
    kv_heads, capacity, size = key_state.shape[1:]
    lines, stride = rows_of(x)
    query = x.new_empty((batch, tokens, heads, size)).transpose(1, 2)
    strides: dict[str, Any] = {}
    tables = {"cos": cos, "sin": sin}
    for name, table in tables.items():
        if table is not None and table.stride(-1) != 1:
            table = tables[name] = table.contiguous()
        expanded = None if table is None else table.expand(batch, tokens, -1)
        for axis, letter in enumerate("bs"):
            strides[f"{name}_stride_{letter}"] = 0 if expanded is None else expanded.stride(axis)
    vectors = {
        "bias": bias,
        "norm_weight": norm_weight,
        "norm_bias": norm_bias if norm == "layer" else None,
        "query_norm": query_norm,
        "key_norm": key_norm,
    }
    launch(
        "attention_projection",
        x=lines,
        weight=panels,
        key_state=key_state,
        value_state=value_state,
        position=position.contiguous(),
        **{name: None if each is None else each.contiguous() for name, each in vectors.items()},
        **tables,
        query=query,
        batch=batch,
        tokens=tokens,
        size_k=size_k,
        x_stride=stride,
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        capacity=capacity,
        rotary_size=0 if cos is None else cos.shape[-1],
        **strides,
        **{f"query_stride_{letter}": query.stride(axis) for axis, letter in enumerate("bhs")},
        format=form,
        norm=norm,
        eps=float(eps),
        head_eps=float(head_eps),
        interleaved=interleaved,
        element=str(key_state.dtype).removeprefix("torch."),
    )
    return query, key_state, value_state
