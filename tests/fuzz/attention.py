"""Descriptions of attention and of masks, and their module: see `tests.fuzz.modules`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Term:
    """One condition on a query i and a key j, beside j <= i; or a bias. See `visible` and `bias` for the kinds."""

    kind: str
    numbers: tuple[int, ...] = ()


LEAKING = ("later blocks", "later token", "prefix", "ahead", "ahead from")
"""Kinds of terms that show later tokens."""


@dataclass(frozen=True)
class Attention:
    """Attention of `heads` queries over `kv_heads` keys and values.

    terms: the mask, beside being causal.
    positions: how i and j are made: "arange", "ones" (a cumulative sum of them), or a "table" of the whole mask.
    spelling: "sdpa", "matmul", "einsum" or "by hand" (a softmax of exponents).
    hides: how the mask is put on: "bool" or "float" (for sdpa), "add", "fill", "where", "large" (-1e9), "log".
    equal: the projections of all keys and values are the same, so that their heads can be merged exactly.
    """

    heads: int = 2
    kv_heads: int = 2
    size: int = 4
    terms: tuple[Term, ...] = ()
    positions: str = "arange"
    spelling: str = "sdpa"
    hides: str = "bool"
    rotary: str = ""  # "halves" or "pairs"
    scale: float | None = None
    softcap: float = 0.0
    packed: bool = False
    norms: bool = False  # of queries and keys
    equal: bool = False

    @property
    def leaks(self) -> bool:
        """Whether a token sees later ones."""
        return any(term.kind in LEAKING for term in self.terms)


def visible(terms: tuple[Term, ...], i: Tensor, j: Tensor) -> Tensor:
    """Which keys j [1, t] the queries i [t, 1] see: bool [t, t], or [heads, t, t]. Each query sees itself."""
    seen = j <= i
    for term in terms:
        n = term.numbers
        match term.kind:
            case "window":
                seen = seen & (i - j < n[0])
            case "chunk":
                seen = seen & (i // n[0] == j // n[0])
            case "blocks":  # the last n[1] blocks of n[0] tokens
                seen = seen & (i // n[0] - j // n[0] < n[1])
            case "strided":  # near tokens, and every n[0]th
                seen = seen & ((i - j < n[1]) | (j % n[0] == 0))
            case "sinks":  # the first tokens, and a window
                seen = seen & ((j < n[0]) | (i - j < n[1]))
            case "segments":  # documents that begin at n[0] and n[1]
                seen = seen & (((i >= n[0]) == (j >= n[0])) & ((i >= n[1]) == (j >= n[1])))
            case "faded":
                seen = seen & (torch.exp(-0.01 * n[0] * (i - j)) > 0.01)
            case "row":  # one row that sees itself alone
                seen = seen & ((i != n[0]) | (i == j))
            case "column":  # one token that nobody else sees
                seen = seen & ((j != n[0]) | (i == j))
            case "from":  # a window that begins late
                seen = seen & ((i < n[0]) | (i - j < n[1]))
            case "by head":
                seen = seen & (i - j < torch.tensor(n).view(-1, 1, 1))
    for term in terms:
        n = term.numbers
        match term.kind:
            case "later blocks":
                seen = seen | ((j // n[0]) % n[1] == n[1] - 1)
            case "later token":
                seen = seen | ((i == n[0]) & (j == n[0] + n[1]))
            case "prefix":
                seen = seen | (j < n[0])
            case "ahead":
                seen = seen | ((j > i) & (j <= i + n[0]))
            case "ahead from":
                seen = seen | ((i >= n[0]) & (j == i + 1))
    return seen


def bias(terms: tuple[Term, ...], i: Tensor, j: Tensor, heads: int, dtype: torch.dtype) -> Tensor | None:
    """What is added to scores of any dtype, [t, t] or [heads, t, t]; None if nothing is."""
    found: Tensor | None = None
    for term in terms:
        n = term.numbers
        distance = (i - j).clamp(min=0)
        slopes = torch.tensor([0.5 ** (head + 1) for head in range(heads)], dtype=dtype).view(-1, 1, 1)
        match term.kind:
            case "alibi":
                one = -slopes * distance
            case "alibi by key":  # as BLOOM has it: softmax does not see what is added to a whole row
                one = slopes * j
            case "bent":  # a penalty that ends at a distance
                one = -slopes * distance.clamp(max=n[0])
            case "buckets":  # a penalty by the logarithm of the distance
                one = -0.7 * torch.floor(torch.log2(distance.to(dtype) + 1.0))
            case "waves":
                one = torch.sin(distance.to(dtype) * 0.01 * n[0])
            case _:
                continue
        found = one if found is None else found + one
    return found


BIASES = ("alibi", "alibi by key", "bent", "buckets", "waves")


class AttentionModule(nn.Module):
    """From and to [b, t, width], or [t, b, width] where `axis` is 0."""

    def __init__(self, made: Attention, width: int, axis: int, longest: int) -> None:
        super().__init__()
        self.made, self.axis = made, axis
        inner, kv = made.heads * made.size, made.kv_heads * made.size
        self.qkv = nn.Linear(width, inner + 2 * kv) if made.packed and not made.equal else None
        if self.qkv is None:
            self.q = nn.Linear(width, inner)
            self.k, self.v = (nn.Linear(width, made.size if made.equal else kv) for _ in range(2))
        self.norm_q, self.norm_k = (nn.RMSNorm(made.size) if made.norms else None for _ in range(2))
        self.out = nn.Linear(inner, width)
        self.scale = made.size**-0.5 if made.scale is None else made.scale
        if made.positions == "table":
            place = torch.arange(longest)
            self.register_buffer("table", visible(made.terms, place.unsqueeze(1), place.unsqueeze(0)))

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [b, heads, t, size], keys and values [b, kv_heads, t, size]."""
        made = self.made
        if self.qkv is not None:
            kv = made.kv_heads * made.size
            q, k, v = self.qkv(x).split((made.heads * made.size, kv, kv), dim=-1)
        elif made.equal:
            k, v = (
                F.linear(x, each.weight.repeat(made.kv_heads, 1), each.bias.repeat(made.kv_heads))
                for each in (self.k, self.v)
            )
            q = self.q(x)
        else:
            q, k, v = self.q(x), self.k(x), self.v(x)
        q, k, v = (each.view(*x.shape[:2], -1, made.size).transpose(1, 2) for each in (q, k, v))
        if self.norm_q is not None:
            q, k = self.norm_q(q), self.norm_k(k)
        return self.rotated(q), self.rotated(k), v

    def rotated(self, x: Tensor) -> Tensor:
        t, d = x.shape[-2:]
        if self.made.rotary == "halves":
            angle = torch.outer(torch.arange(t, dtype=x.dtype), 30.0 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d))
            angle = torch.cat((angle, angle), dim=-1)
            return x * angle.cos() + torch.cat((-x[..., d // 2 :], x[..., : d // 2]), dim=-1) * angle.sin()
        if self.made.rotary == "pairs":
            angle = torch.arange(t, dtype=x.dtype)[:, None] * 30.0 ** (-torch.arange(0, d, 2, dtype=x.dtype) / d)
            cos, sin, even, odd = angle.cos(), angle.sin(), x[..., ::2], x[..., 1::2]
            return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)
        return x

    def mask(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """What is visible, and what is added, for x [b, t, width]."""
        t = x.shape[1]
        place = torch.ones(t, dtype=torch.int64).cumsum(0) - 1 if self.made.positions == "ones" else torch.arange(t)
        i, j = place.unsqueeze(1), place.unsqueeze(0)
        seen = self.table[..., :t, :t] if self.made.positions == "table" else visible(self.made.terms, i, j)
        return seen, bias(self.made.terms, i, j, self.made.heads, x.dtype)

    def hidden(self, scores: Tensor, seen: Tensor) -> Tensor:
        """The scores where they are seen."""
        match self.made.hides:
            case "add":
                return scores + torch.zeros(seen.shape, dtype=scores.dtype).masked_fill(~seen, float("-inf"))
            case "where":
                return torch.where(seen, scores, torch.finfo(scores.dtype).min)
            case "large":
                return scores - 1e9 * (1.0 - seen.to(scores.dtype))
            case "log":
                return scores + seen.to(scores.dtype).log()
        return scores.masked_fill(~seen, float("-inf"))

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.axis == 1 else x.transpose(0, 1)
        q, k, v = self.heads(x)
        y = self.sdpa(x, q, k, v) if self.made.spelling == "sdpa" else self.by_products(x, q, k, v)
        y = self.out(y.transpose(1, 2).reshape(*x.shape[:2], -1))
        return y if self.axis == 1 else y.transpose(0, 1)

    def sdpa(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made = self.made
        grouped = made.kv_heads != made.heads
        if not made.terms and made.hides == "bool" and made.positions == "arange":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=made.scale, enable_gqa=grouped)
        seen, added = self.mask(x)
        mask = seen
        if added is not None:
            mask = added.masked_fill(~seen, float("-inf"))
        elif made.hides != "bool":
            mask = torch.zeros(seen.shape, dtype=x.dtype).masked_fill(~seen, float("-inf"))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=made.scale, enable_gqa=grouped)

    def by_products(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        made = self.made
        if made.kv_heads != made.heads:
            k, v = (each.repeat_interleave(made.heads // made.kv_heads, dim=1) for each in (k, v))
        if made.spelling == "einsum":
            scores = torch.einsum("bhid,bhjd->bhij", q, k) * self.scale
        else:
            scores = q @ k.transpose(-2, -1) * self.scale
        if made.softcap:
            scores = made.softcap * torch.tanh(scores / made.softcap)
        seen, added = self.mask(x)
        if added is not None:
            scores = scores + added
        scores = self.hidden(scores, seen)
        if made.spelling == "by hand":
            weights = torch.exp(scores - scores.amax(dim=-1, keepdim=True))
            weights = weights / weights.sum(dim=-1, keepdim=True)
        else:
            weights = scores.softmax(dim=-1)
        return torch.einsum("bhij,bhjd->bhid", weights, v) if made.spelling == "einsum" else weights @ v
