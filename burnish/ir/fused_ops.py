"""`burnish::` ops that are several operations in one kernel: what fusion makes for targets that have such kernels.

Each reference is the composition of the ops that it stands for, so that fusing keeps the numbers by definition, and a
kernel has one truth to be compared with.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ir import label_rules as rules
from burnish.ir.ops import ACTIVATIONS, cache_write, define, rms_norm, rotary
from burnish.ir.quantization import dequantized
from burnish.ir.traits import Traits


def normalized(x: Tensor, weight: Tensor | None, bias: Tensor | None, norm: str, eps: float) -> Tensor:
    """x after its norm over the last axis: "rms", "layer", or "none"."""
    if norm == "rms":
        return rms_norm(x, weight, eps)
    if norm == "layer":
        return F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    return x


def widened(weight: Tensor, scales: Tensor | None, dtype: torch.dtype) -> Tensor:
    """A weight, if it is of 8 or 4 bits in floats."""
    return weight if scales is None else dequantized(weight, scales).to(dtype)


def _linear_shape(x: Tensor, weight: Tensor, *rest: object, gated: bool = False, **options: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0] // 2 if gated else weight.shape[0]))


@define(
    "fused_linear(Tensor x, Tensor weight, Tensor? bias=None, Tensor? norm_weight=None, Tensor? norm_bias=None, "
    "Tensor? residual=None, *, Tensor? scales=None, str norm='none', float eps=0.0, str activation='none', "
    "bool gated=False, float scale=1.0, float softcap=0.0) -> Tensor",
    Traits(),
    _linear_shape,
)
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
    """residual + cap(scale * activation(linear(norm(x), weight, bias))).

    x[..., K], weight[N, K], bias[N] -> [..., N]; residual[..., N]. `norm` is "none", "rms" or "layer", over K, with
    `norm_weight[K]` and `norm_bias[K]`. `activation` is "none" or a key of `ACTIVATIONS`. `gated`: row 2i of weight and
    bias belongs to gate i and row 2i + 1 to up i, and activation(gate) * up [..., N/2] takes the activation's place.
    cap(y) = softcap * tanh(y / softcap) if softcap > 0. With `scales[N, K / group]` the weight is one of 8 or 4 bits,
    as `burnish.ir.quantization` lays it out.
    """
    y = F.linear(normalized(x, norm_weight, norm_bias, norm, eps), widened(weight, scales, x.dtype), bias)
    if gated:
        y = ACTIVATIONS[activation](y[..., 0::2]) * y[..., 1::2]
    elif activation != "none":
        y = ACTIVATIONS[activation](y)
    if scale != 1.0:
        y = y * scale
    if softcap > 0:
        y = softcap * torch.tanh(y / softcap)
    return y if residual is None else residual + y


def _projection_shape(
    x: Tensor, weight: Tensor, key_state: Tensor, value_state: Tensor, *rest: object, heads: int, **options: object
) -> tuple[Tensor, Tensor, Tensor]:
    query = x.new_empty((x.shape[0], heads, x.shape[1], key_state.shape[-1]))
    return query, torch.empty_like(key_state), torch.empty_like(value_state)


@define(
    "attention_projection(Tensor x, Tensor weight, Tensor key_state, Tensor value_state, Tensor position, "
    "Tensor? bias=None, Tensor? norm_weight=None, Tensor? norm_bias=None, Tensor? query_norm=None, "
    "Tensor? key_norm=None, Tensor? cos=None, Tensor? sin=None, *, Tensor? scales=None, int heads, "
    "str norm='none', float eps=0.0, float head_eps=0.0, bool interleaved=False) -> (Tensor, Tensor, Tensor)",
    Traits(position=4, writes=(2, 3)),
    _projection_shape,
)
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
    """Norm, the projections to queries, keys and values, rotary embedding, and the write into the caches.

    x[B, S, K]; weight[(Hq + 2 Hkv) D, K], the rows of the queries first, then keys, then values; caches
    [B, Hkv, capacity, D]; position[B], tokens in the caches so far. `query_norm[D]` and `key_norm[D]`: an RMS norm of
    each head, with `head_eps`. cos and sin [B, S, R]: rotary embedding of each head's first R elements. Gives the
    queries [B, Hq, S, D] and the caches with the S new tokens in slots position[b] on. `scales` as for `fused_linear`.
    """
    y = F.linear(normalized(x, norm_weight, norm_bias, norm, eps), widened(weight, scales, x.dtype), bias)
    return with_heads(
        y,
        key_state,
        value_state,
        position,
        query_norm,
        key_norm,
        cos,
        sin,
        heads=heads,
        head_eps=head_eps,
        interleaved=interleaved,
    )


def with_heads(
    y: Tensor,
    key_state: Tensor,
    value_state: Tensor,
    position: Tensor,
    query_norm: Tensor | None = None,
    key_norm: Tensor | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    *,
    heads: int,
    head_eps: float = 0.0,
    interleaved: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """`attention_projection` behind its product, y[B, S, (Hq + 2 Hkv) D]."""
    size, kv_heads = key_state.shape[-1], key_state.shape[1]
    query, key, value = (
        part.reshape(*part.shape[:-1], -1, size).transpose(1, 2)
        for part in torch.split(y, [heads * size, kv_heads * size, kv_heads * size], dim=-1)
    )
    if query_norm is not None:
        query = rms_norm(query, query_norm, head_eps)
    if key_norm is not None:
        key = rms_norm(key, key_norm, head_eps)
    if cos is not None and sin is not None:
        query, key = (rotary(each, cos.unsqueeze(1), sin.unsqueeze(1), interleaved) for each in (query, key))
    key, value = key.to(key_state.dtype), value.to(value_state.dtype)
    return query, cache_write(key_state, key, position, 2), cache_write(value_state, value, position, 2)


def _top_scores_shape(x: Tensor, count: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], 2, count), dtype=torch.int32)


@define("top_scores(Tensor x, int count) -> Tensor", Traits(rules.last_axis("chooses among the {}")), _top_scores_shape)
def top_scores(x: Tensor, count: int) -> Tensor:
    """int32[..., 2, count]: the bits of the `count` greatest of x[..., N] as float32, and where they are in x.

    They stay in x's order. Of equal elements the first are taken; NaN is above all, and -0.0 is 0.0.
    """
    wide = x.float() + 0.0
    places = wide.sort(dim=-1, descending=True, stable=True).indices[..., :count].sort(dim=-1).values
    return torch.stack((wide.gather(-1, places).view(torch.int32), places.int()), dim=-2)


fused_ops = torch.ops.burnish
