"""Which host function runs an op by the native library's kernels, and the sizes that are planned apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from burnish.codegen.native.attention import attention
from burnish.codegen.native.codes import code_scales, from_codes, to_codes
from burnish.codegen.native.convolution import conv1d
from burnish.codegen.native.gathers import cumsum, gather, scatter_source, scatter_value
from burnish.codegen.native.mixture import moe_linear, topk
from burnish.codegen.native.operands import from_panels, need_floats, need_places, packed, panels_of, rows_of
from burnish.codegen.native.spec import launch
from burnish.codegen.native.state_writes import cache_write, ring_positions, ring_write
from burnish.codegen.plan.launches import HostFunctions
from burnish.codegen.plan.regimes import Regime
from burnish.ir.code_ops import code_ops
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_ops import fused_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.panels import panel_ops
from burnish.ir.shapes import product

aten = torch.ops.aten


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
    vectors = {"bias": bias, "norm_weight": norm_weight, "norm_bias": norm_bias, "residual": residual}
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
        "norm_bias": norm_bias,
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


def _gathered(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of a table by ids of any shape."""
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
        "gather", table=table, ids=ids.contiguous(), out=out, count=product(ids.shape), table_rows=rows, bytes=bytes_
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


def copy(x: Tensor, out: Tensor | None = None) -> Tensor:
    """See `burnish.codegen.plan.launches.Copy`."""
    raise UnsupportedError("there is no kernel that copies")


KERNELS: dict[Any, Callable[..., Any]] = {
    aten.argmax.default: argmax,
    aten.conv1d.default: conv1d,
    aten.cumsum.default: cumsum,
    aten.embedding.default: embedding,
    aten.gather.default: gather,
    aten.scatter.src: scatter_source,
    aten.scatter.value: scatter_value,
    aten.topk.default: topk,
    burnish_ops.attention.default: attention,
    burnish_ops.cache_write.default: cache_write,
    burnish_ops.lookup.default: lookup,
    burnish_ops.moe_linear.default: moe_linear,
    burnish_ops.ring_positions.default: ring_positions,
    burnish_ops.ring_write.default: ring_write,
    code_ops.code_scales.default: code_scales,
    code_ops.from_codes.default: from_codes,
    code_ops.to_codes.default: to_codes,
    fused_ops.attention_projection.default: attention_projection,
    fused_ops.fused_linear.default: fused_linear,
    fused_ops.top_scores.default: top_scores,
    panel_ops.from_panels.default: from_panels,
}
FUNCTIONS = HostFunctions(KERNELS, copy)

# Few tokens share their chunks of the cache out among threads; of many, each thread has its own.
REGIMES = (
    Regime("a token a row", (1, None, 5), 1, 1, {"batch": 1, "sequence": 1, "kept": 1}),
    Regime("few tokens", (1, None, 5), (1, 8, 7), (1, None, 3), {"batch": 1, "sequence": 4, "kept": 4}),
    Regime("a prompt", (1, None, 5), (1, None, 103), (1, None, 7), {"batch": 1, "sequence": 512, "kept": 1}),
)
