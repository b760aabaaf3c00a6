"""ONNX Runtime's own attentions and rotary embedding, of the domain com.microsoft."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx.call import Call, Result, Table
from burnish.frontend.onnx.operators.attention import Mask, attend, heads_apart, heads_joined, rotated, spelled_out
from burnish.frontend.onnx.operators.linear import scale_of


def _padding(c: Call, mask: Tensor, keys: Any) -> Tensor:
    """A mask of keys, of whichever form, as what is added to the scores."""
    hidden = c.real("mask_filter_value", -10000.0)
    if mask.dim() == 1:
        if mask.shape[0] != c.tensor(0).shape[0]:
            raise c.unsupported("the first and last keys of the rows are given: lengths, or a mask, are supported")
        seen = torch.arange(keys) < mask[:, None]
    else:
        seen = mask != 0
    while seen.dim() < 4:
        seen = seen.unsqueeze(1)
    return torch.where(seen, 0.0, hidden)


def _added(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


def _scale(c: Call, q: Tensor) -> float:
    return c.real("scale", 0.0) or scale_of(int(q.shape[-1]))


def _multi_head(c: Call) -> Result:
    heads = int(c.required("num_heads"))
    x = c.tensor(0)
    if c.has(8) or c.has(9):
        raise c.unsupported("it writes into a cache of fixed size: export the model with caches that grow")
    if x.dim() == 5:  # [B, S, N, 3, D]
        q, k, v = (x[:, :, :, index].transpose(1, 2) for index in range(3))
    else:
        key, bias = c.optional(1), c.optional(3)
        parts: list[Tensor] = [x]
        if key is None:
            raise c.invalid("its keys are missing")
        if key.dim() == 5:  # [B, L, N, 2, D]
            q = heads_apart(x if bias is None else x + bias[: x.shape[-1]], heads)
            k, v = (key[:, :, :, index].transpose(1, 2) for index in range(2))
        else:
            parts += [key, c.tensor(2)]
            if bias is not None:
                sizes = [each.shape[-1] if each.dim() == 3 else 0 for each in parts]
                pieces = torch.split(bias, sizes) if sum(sizes) == bias.shape[0] else None
                if pieces is None:
                    raise c.invalid(f"its bias has {bias.shape[0]} elements")
                parts = [each + piece if each.dim() == 3 else each for each, piece in zip(parts, pieces, strict=True)]
            q, k, v = (heads_apart(each, heads) if each.dim() == 3 else each for each in parts)
    before: Any = 0
    if c.has(6):
        before = c.tensor(6).shape[2]
        k, v = torch.cat([c.tensor(6), k], dim=2), torch.cat([c.tensor(7), v], dim=2)
    added = _padding(c, c.tensor(4), k.shape[2]) if c.has(4) else None
    added = _added(added, c.optional(5))
    mask = Mask(None if added is None else added.to(q.dtype), c.flag("unidirectional"), before)
    if c.wants(3):
        found, scores = spelled_out(q, k, v, mask, _scale(c, q))
        return heads_joined(found), k, v, scores
    return heads_joined(attend(q, k, v, mask, _scale(c, q))), k, v


def _attention(c: Call) -> Result:
    """With the projections in it."""
    heads = int(c.required("num_heads"))
    x, weight = c.tensor(0), c.tensor(1)
    if c.has(6) or c.flag("past_present_share_buffer") or c.flag("do_rotary"):
        raise c.unsupported("it writes into a cache of fixed size, or turns its keys")
    projected = torch.matmul(x, weight)
    if c.has(2):
        projected = projected + c.tensor(2)
    sizes = c.integers("qkv_hidden_sizes") or [weight.shape[1] // 3] * 3
    q, k, v = (heads_apart(each, heads) for each in torch.split(projected, sizes, dim=-1))
    before: Any = 0
    if c.has(4):
        past = c.tensor(4)
        before = past.shape[3]
        k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
    added = _padding(c, c.tensor(3), k.shape[2]) if c.has(3) else None
    added = _added(added, c.optional(5))
    mask = Mask(None if added is None else added.to(q.dtype), c.flag("unidirectional"), before)
    found = heads_joined(attend(q, k, v, mask, _scale(c, q)))
    return found, torch.stack([k, v]) if c.wants(1) else None


def _grouped(c: Call) -> Result:
    """Over a cache that grows, of rows that are equally long: what a row's length says is checked as it runs."""
    heads, shared = int(c.required("num_heads")), int(c.required("kv_num_heads"))
    for index in range(11, len(c.operands)):
        if c.has(index):
            raise c.unsupported(f"its input {index} (sinks, quantized caches, norms) is given")
    if c.flag("smooth_softmax") or c.wants(3):
        raise c.unsupported("its softmax has a term of its own, or its scores are asked for")
    x = c.tensor(0)
    if c.has(1):
        q, k, v = heads_apart(x, heads), heads_apart(c.tensor(1), shared), heads_apart(c.tensor(2), shared)
    else:
        size = x.shape[-1] // (heads + 2 * shared)
        parts = torch.split(x, [heads * size, shared * size, shared * size], dim=-1)
        q, k, v = (heads_apart(part, count) for part, count in zip(parts, (heads, shared, shared), strict=True))
    new = q.shape[2]
    before: Any = c.tensor(3).shape[2] if c.has(3) else 0
    lengths = c.tensor(5).reshape(-1)
    if c.has(3):
        torch._assert_async(
            (lengths == before + new - 1).all(),
            f"{c.step.label}: its rows are of unequal lengths, or its cache is of a fixed size",
        )
    if c.flag("do_rotary"):
        cos, sin = c.tensor(7), c.tensor(8)
        if c.has(9):
            cos, sin = F.embedding(c.tensor(9), cos).unsqueeze(1), F.embedding(c.tensor(9), sin).unsqueeze(1)
        else:
            places = torch.arange(new) + before
            cos, sin = F.embedding(places, cos), F.embedding(places, sin)
        size, interleaved = 2 * int(cos.shape[-1]), c.flag("rotary_interleaved")
        q, k = (rotated(each, cos, sin, size, interleaved) for each in (q, k))
    if c.has(3):
        k, v = torch.cat([c.tensor(3), k], dim=2), torch.cat([c.tensor(4), v], dim=2)
    window = c.integer("local_window_size", -1)
    mask = Mask(c.optional(10), c.flag("causal", True), before, window - 1 if window > 0 else -1)
    softcap = c.real("softcap", 0.0)
    scale = _scale(c, q)
    found = spelled_out(q, k, v, mask, scale, softcap)[0] if softcap else attend(q, k, v, mask, scale)
    return heads_joined(found), k, v


def _rotary(c: Call) -> Tensor:
    x, places, cos, sin = c.tensor(0), c.tensor(1), c.tensor(2), c.tensor(3)
    if c.flag("is_packed_batching") or c.real("scale", 1.0) != 1:
        raise c.unsupported("its rows are packed, or scaled")
    size = c.integer("rotary_embedding_dim", 0)
    joined = x.dim() == 3
    if joined:
        heads = c.integer("num_heads", 0) if size else x.shape[-1] // (2 * cos.shape[-1])
        x = heads_apart(x, int(heads))
    if places.dim() == 1:  # where the first token is
        places = (places + torch.arange(x.shape[2])).unsqueeze(0)
    cos, sin = F.embedding(places, cos).unsqueeze(1), F.embedding(places, sin).unsqueeze(1)
    found = rotated(x, cos, sin, size or int(x.shape[-1]), c.flag("interleaved"))
    return heads_joined(found) if joined else found


TABLE: Table = {
    "Attention": _attention,
    "MultiHeadAttention": _multi_head,
    "GroupQueryAttention": _grouped,
    "RotaryEmbedding": _rotary,
}
