"""`burnish::attention` by the native kernel, of floats and of codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from burnish.codegen.native.operands import need_floats
from burnish.codegen.native.spec import launch
from burnish.codegen.plan.launches import counters
from burnish.ir.errors import UnsupportedError

_CHUNK = 128  # slots of a cache that are a unit: CHUNK of attention.h
_FEW = 8  # tokens, whose chunks are units of their own
_ELEMENTS = (torch.float32, torch.bfloat16, torch.float16)


def attention(query: Tensor, key: Tensor, value: Tensor, *masks: Tensor | None, **options: Any) -> Tensor:
    """As `burnish::attention`."""
    if key.dtype != value.dtype or key.dtype not in _ELEMENTS:
        raise UnsupportedError(f"the kernel reads caches of floats, not {key.dtype} and {value.dtype}")
    return _attention(query, key, value, None, *masks, **options)


def coded_attention(
    query: Tensor,
    key: Tensor,
    key_scales: Tensor,
    value: Tensor,
    value_scales: Tensor,
    *masks: Tensor | None,
    **options: Any,
) -> Tensor:
    """As `burnish::coded_attention`."""
    need_floats(key_scales, value_scales)
    return _attention(query, key, value, (key_scales, value_scales), *masks, **options)


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scales: tuple[Tensor, Tensor] | None,
    position: Tensor | None = None,
    bias: Tensor | None = None,
    sinks: Tensor | None = None,
    slopes: Tensor | None = None,
    key_positions: Tensor | None = None,
    *,
    scale: float,
    mask: str = "causal",
    extent: int = 0,
    softcap: float = 0.0,
) -> Tensor:
    need_floats(query, bias, sinks, slopes)
    query, key, value = (each if each.stride(3) == 1 else each.contiguous() for each in (query, key, value))
    batch, heads, tokens, key_size = query.shape
    kv_heads, capacity, value_size = key.shape[1], key.shape[2], value.shape[3]
    out = query.new_empty((batch, tokens, heads, value_size)).transpose(1, 2)
    parts = finished = None
    if statically_known_true(tokens <= _FEW):
        rows = tokens * (heads // kv_heads)
        parts = query.new_empty((batch, kv_heads, (capacity + _CHUNK - 1) // _CHUNK, rows, value_size + 2))
        finished = counters(query, (batch, kv_heads))
    strides: dict[str, Any] = {}
    wide = None if bias is None else bias.expand(batch, heads, tokens, capacity)
    held = None if key_positions is None else key_positions.expand(batch, capacity).contiguous()
    for name, tensor, letters in (
        ("query", query, "bhs"),
        ("key", key, "bht"),
        ("value", value, "bht"),
        ("out", out, "bhs"),
        ("bias", wide, "bhst"),
        ("key_positions", held, "b"),
    ):
        for axis, letter in enumerate(letters):
            strides[f"{name}_stride_{letter}"] = 0 if tensor is None else tensor.stride(axis)
    of_channels = scales is not None and statically_known_true(scales[0].shape[2] == 1)
    for name, tensor in zip(("key_scales", "value_scales"), scales or (None, None), strict=True):
        axes = (0, 1, 3 if of_channels else 2)
        for axis, part in zip(axes, ("stride_b", "stride_h", "step"), strict=True):
            expanded = 0 if tensor is None or statically_known_true(tensor.shape[axis] == 1) else tensor.stride(axis)
            strides[f"{name}_{part}"] = expanded
    launch(
        "attention",
        query=query,
        key=key,
        value=value,
        out=out,
        position=None if position is None else position.contiguous(),
        bias=wide,
        sinks=None if sinks is None else sinks.contiguous(),
        slopes=None if slopes is None else slopes.contiguous(),
        key_positions=held,
        key_scales=None if scales is None else scales[0],
        value_scales=None if scales is None else scales[1],
        of_channels=of_channels,
        parts=parts,
        finished=finished,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        tokens=tokens,
        capacity=capacity,
        key_size=key_size,
        value_size=value_size,
        **strides,
        scale=float(scale),
        mask=mask,
        extent=extent,
        softcap=float(softcap),
        element=str(key.dtype).removeprefix("torch."),
    )
    return out
