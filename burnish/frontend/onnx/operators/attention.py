"""Attention and what goes with it: rotary embeddings, caches, and attention without a softmax."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx import numbers as n
from burnish.frontend.onnx.call import Call, Result, Table
from burnish.frontend.onnx.operators.linear import scale_of


def heads_apart(x: Tensor, heads: int) -> Tensor:
    """[B, S, H * D] as [B, H, S, D]."""
    return x.reshape(x.shape[0], x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def heads_joined(x: Tensor) -> Tensor:
    """[B, H, S, D] as [B, S, H * D]."""
    return x.transpose(1, 2).reshape(x.shape[0], x.shape[2], x.shape[1] * x.shape[3])


@dataclass(frozen=True)
class Mask:
    """What a query sees: a mask that is added or says True, nothing later, a window, keys up to a length of the row."""

    given: Tensor | None = None
    causal: bool = False
    before: Any = 0  # how many keys come before the first query: a size, or one a row [B, 1, 1, 1]
    left: int = -1
    right: int = -1
    lengths: Tensor | None = None  # [B]

    @property
    def is_plain(self) -> bool:
        """Whether it is causal from the first key on and nothing else."""
        at_start = not isinstance(self.before, Tensor) and n.equal(self.before, 0) is True
        return self.given is None and self.left < 0 and self.right < 0 and self.lengths is None and at_start

    @property
    def sees_itself(self) -> bool:
        """Whether each query is sure to see a key: the one in its own place."""
        counted = not isinstance(self.before, Tensor)
        return self.given is None and self.lengths is None and self.causal and counted

    def seen(self, q: Tensor, k: Tensor) -> Tensor | None:
        """True where a key is seen, of all but the mask that is given; None if that is everywhere."""
        if not self.causal and self.left < 0 and self.right < 0 and self.lengths is None:
            return None
        keys = torch.arange(k.shape[-2])
        queries = torch.arange(q.shape[-2]).unsqueeze(-1) + self.before
        found: Tensor | None = None
        parts = [
            keys <= queries if self.causal else None,
            queries - keys <= self.left if self.left >= 0 else None,
            keys - queries <= self.right if self.right >= 0 else None,
            None if self.lengths is None else keys < self.lengths.reshape(-1, 1, 1, 1),
        ]
        for part in parts:
            if part is not None:
                found = part if found is None else found & part
        return found

    def bias(self, q: Tensor, k: Tensor) -> Tensor | None:
        """The whole of it, as torch's attention takes it: True where a key is seen, or added."""
        seen, given = self.seen(q, k), self.given
        if given is not None:
            given = _widened(given, k.shape[-2])
        if seen is None or given is None:
            return seen if given is None else given
        return given & seen if given.dtype is torch.bool else torch.where(seen, given, -math.inf)


def _widened(mask: Tensor, keys: Any) -> Tensor:
    """A mask of fewer keys than there are: the others are not seen."""
    if n.equal(mask.shape[-1], keys) is True or isinstance(keys, torch.SymInt):
        return mask
    value = 0.0 if mask.dtype is torch.bool else -math.inf
    if mask.dtype is torch.bool:
        return F.pad(mask.to(torch.uint8), (0, keys - mask.shape[-1]), value=int(value)).to(torch.bool)
    return F.pad(mask, (0, keys - mask.shape[-1]), value=value)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Mask, scale: float) -> Tensor:
    """Scaled dot-product attention over heads [B, H, S, D], keys and values with fewer heads if these are shared."""
    if q.dtype is torch.float16:  # whose probabilities torch would round before they are multiplied
        wide = attend(q.to(torch.float32), k.to(torch.float32), v.to(torch.float32), mask, scale)
        return wide.to(torch.float16)
    options: dict[str, Any] = {"scale": scale}
    if k.shape[1] != q.shape[1]:
        options["enable_gqa"] = True
    if mask.is_plain:
        return F.scaled_dot_product_attention(q, k, v, is_causal=mask.causal, **options)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_of_type(mask.bias(q, k), q.dtype), **options)


def _of_type(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return mask if mask is None or mask.dtype is torch.bool else mask.to(dtype)


def spelled_out(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Mask,
    scale: float,
    softcap: float = 0.0,
    precision: torch.dtype | None = None,
    mode: int = 0,
) -> tuple[Tensor, Tensor]:
    """The same by its steps, and the scores after the `mode`-th of them."""
    root = math.sqrt(scale)
    scaled = k * root
    if k.shape[1] != q.shape[1]:
        scaled, v = (each.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for each in (scaled, v))
    scores = torch.matmul(q * root, scaled.transpose(-1, -2))
    kept = scores
    if softcap > 0:
        scores = torch.tanh(scores / softcap) * softcap
    if mode == 1:
        kept = scores
    bias = mask.bias(q, k)
    if bias is not None:
        scores = torch.where(bias, scores, -math.inf) if bias.dtype is torch.bool else scores + bias.to(scores.dtype)
    if mode == 2:
        kept = scores
    probabilities = torch.softmax(scores if precision is None else scores.to(precision), -1)
    if bias is not None and not mask.sees_itself:  # a query that sees nothing is no number, and gives zeros
        hidden = ~bias.any(-1, keepdim=True) if bias.dtype is torch.bool else bias.amax(-1, keepdim=True) == -math.inf
        probabilities = torch.where(hidden, torch.zeros_like(probabilities), probabilities)
    probabilities = probabilities.to(q.dtype)
    return torch.matmul(probabilities, v), probabilities if mode == 3 else kept


def _attention(c: Call) -> Result:
    q, k, v = c.tensor(0), c.tensor(1), c.tensor(2)
    joined = q.dim() == 3
    if joined:
        heads, shared = int(c.required("q_num_heads")), int(c.required("kv_num_heads"))
        q, k, v = heads_apart(q, heads), heads_apart(k, shared), heads_apart(v, shared)
    before: Any = 0
    lengths = c.optional(6)
    if c.has(4):
        past_k, past_v = c.tensor(4), c.tensor(5)
        before = past_k.shape[2]
        k, v = torch.cat([past_k, k], dim=2), torch.cat([past_v, v], dim=2)
    elif lengths is not None:
        before = lengths.reshape(-1, 1, 1, 1) - q.shape[2]
    mask = Mask(
        c.optional(3),
        c.flag("is_causal"),
        before,
        c.integer("left_window_size", -1),
        c.integer("right_window_size", -1),
        lengths,
    )
    scale = c.real("scale", 0.0) or scale_of(int(q.shape[-1]))
    softcap = c.real("softcap", 0.0)
    precision = c.dtype("softmax_precision") if c.integer("softmax_precision", 0) else None
    scores: Tensor | None = None
    if softcap or c.wants(3) or (precision is not None and precision.itemsize > q.dtype.itemsize > 2):
        found, scores = spelled_out(q, k, v, mask, scale, softcap, precision, c.integer("qk_matmul_output_mode", 0))
    else:
        found = attend(q, k, v, mask, scale)
    return heads_joined(found) if joined else found, k, v, scores


def rotated(x: Tensor, cos: Tensor, sin: Tensor, size: int, interleaved: bool) -> Tensor:
    """The first `size` elements of the last axis turned by angles, whose cosines and sines are for half of them."""
    first, rest = (x, None) if size == x.shape[-1] else (x[..., :size], x[..., size:])
    if interleaved:
        a, b = first[..., 0::2], first[..., 1::2]
        found = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = first[..., : size // 2], first[..., size // 2 :]
        found = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return found if rest is None else torch.cat((found, rest), dim=-1)


def _rotary(c: Call) -> Tensor:
    x, cos, sin = c.tensor(0), c.tensor(1), c.tensor(2)
    joined = x.dim() == 3
    if joined:
        x = heads_apart(x, int(c.required("num_heads")))
    if c.has(3):
        ids = c.tensor(3)
        cos, sin = F.embedding(ids, cos), F.embedding(ids, sin)
    size = c.integer("rotary_embedding_dim", 0) or int(x.shape[-1])
    found = rotated(x, cos.unsqueeze(1), sin.unsqueeze(1), size, c.flag("interleaved"))
    return heads_joined(found) if joined else found


def _tensor_scatter(c: Call) -> Tensor:
    """New tokens written into a cache, each row from an index of its own on."""
    cache, update = c.tensor(0), c.tensor(1)
    axis = c.integer("axis", -2) % cache.dim()
    size = update.shape[axis]
    starts = c.tensor(2).to(torch.int64) if c.has(2) else torch.zeros(cache.shape[0], dtype=torch.int64)
    places = starts[:, None] + torch.arange(size)
    if c.text("mode", "linear") == "circular":
        places = torch.remainder(places, cache.shape[axis])
    shape = [1] * cache.dim()
    shape[0], shape[axis] = cache.shape[0], size
    return torch.scatter(cache, axis, places.reshape(shape).expand(update.shape), update)


def _linear_attention(c: Call) -> Result:
    """Keys and values summed into a state that decays; unrolled over the tokens."""
    heads, shared = int(c.required("q_num_heads")), int(c.required("kv_num_heads"))
    rule = c.text("update_rule", "gated_delta")
    if rule not in ("linear", "gated", "delta", "gated_delta"):
        raise c.invalid(f"there is no update rule {rule!r}")
    q, k, v = (heads_apart(c.tensor(index), count) for index, count in enumerate((heads, shared, shared)))
    dtype, wide = q.dtype, torch.float32
    q, k, v = q.to(wide), k.to(wide), v.to(wide)
    past = c.optional(3)
    state = torch.zeros(q.shape[0], shared, k.shape[-1], v.shape[-1]) if past is None else past.to(wide)
    decay = heads_apart(c.tensor(4), shared).to(wide) if c.has(4) else None
    beta = c.tensor(5).to(wide).transpose(1, 2).unsqueeze(-1) if c.has(5) else None
    if (rule in ("gated", "gated_delta")) != (decay is not None) or ("delta" in rule) != (beta is not None):
        raise c.invalid(f"the update rule {rule!r} goes with another set of inputs")
    scale = c.real("scale", 0.0) or scale_of(int(q.shape[-1]))
    if isinstance(q.shape[2], torch.SymInt):
        raise c.unsupported("it is unrolled over its tokens, of which there is no fixed number")
    found = []
    for step in range(q.shape[2]):
        key, value = k[:, :, step], v[:, :, step]
        if decay is not None:
            state = state * torch.exp(decay[:, :, step]).unsqueeze(-1)
        if beta is not None:
            value = beta[:, :, step] * (value - torch.einsum("bhdm,bhd->bhm", state, key))
        state = state + key.unsqueeze(-1) * value.unsqueeze(-2)
        read = state if heads == shared else state.repeat_interleave(heads // shared, dim=1)
        found.append(scale * torch.einsum("bhd,bhdm->bhm", q[:, :, step], read))
    output = heads_joined(torch.stack(found, dim=2)).to(dtype)
    return output, state.to(dtype if past is None else past.dtype)


TABLE: Table = {
    "Attention": _attention,
    "RotaryEmbedding": _rotary,
    "TensorScatter": _tensor_scatter,
    "LinearAttention": _linear_attention,
}
