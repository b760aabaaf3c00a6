"""The `burnish::` ops: what ATen has no single word for.

Each op has one reference body in plain ATen. It is the truth that every lowering is tested against, and, run on fake
tensors, the shape function (an op whose body would branch on sizes has a shape function beside it). Layouts are in the
names: B batch, H heads, S new tokens, T tokens that can be attended to, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ir import label_mixing_rules as mixing
from burnish.ir import label_rules as rules
from burnish.ir import label_view_rules as views
from burnish.ir.states import StateKind
from burnish.ir.step_forms import StateDescriptor, convolution_step, shift_step
from burnish.ir.traits import TRAITS, Traits

_Reference = TypeVar("_Reference", bound=Callable[..., Any])

_LIBRARY = torch.library.Library("burnish", "DEF")  # type: ignore[no-untyped-call]
_REFERENCES: dict[str, Callable[..., Any]] = {}


def define(schema: str, traits: Traits, shape: Callable[..., Any] | None = None) -> Callable[[_Reference], _Reference]:
    """Define `burnish::<schema>` with the decorated function as its reference; `traits` say what it is."""

    def register(reference: _Reference) -> _Reference:
        name = schema.split("(", 1)[0]
        _LIBRARY.define(schema)  # type: ignore[no-untyped-call]
        _LIBRARY.impl(name, reference, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
        torch.library.register_fake(f"burnish::{name}", shape or reference, lib=_LIBRARY)
        _REFERENCES[f"burnish.{name}.default"] = reference
        TRAITS[getattr(torch.ops.burnish, name).default] = traits
        return reference

    return register


def differentiable(op: Any) -> Callable[..., Any]:
    """What computes `op` so that autograd sees it: the reference of an op of ours, which has no gradient itself."""
    found: Callable[..., Any] = _REFERENCES.get(str(op), op)
    return found


# ---------------------------------------------------------------- pointwise and norms


def _shape_of_first(x: Tensor, *others: object) -> Tensor:
    """For references of many ops, whose shape function they would be too: typing a node is then one op, not ten."""
    dtype = x.dtype
    for other in others:
        dtype = torch.promote_types(dtype, other.dtype) if isinstance(other, Tensor) else dtype
    return torch.empty_like(x, dtype=dtype)


@define(
    "rms_norm(Tensor x, Tensor? weight, float eps) -> Tensor",
    Traits(rules.last_axis("normalises over the {}")),
    _shape_of_first,
)
def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, the mean in float32 (Zhang and Sennrich, 2019)."""
    wide = x.float()
    normed = (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)
    return normed if weight is None else weight * normed


@define(
    "rotary(Tensor x, Tensor cos, Tensor sin, bool interleaved=False) -> Tensor",
    Traits(rules.pointwise),
    _shape_of_first,
)
def rotary(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool = False) -> Tensor:
    """Rotary embedding (Su et al., 2021) of the first R elements of x's last axis; the others pass through.

    cos and sin have R as their last axis and broadcast to x[..., :R]. Element i is paired with i + R/2, or,
    interleaved, with its neighbour: out = x * cos + rotated(x) * sin, where rotated((a, b)) = (-b, a).
    """
    size = cos.shape[-1]
    turned, kept = x[..., :size], x[..., size:]
    if interleaved:
        pairs = turned.reshape(*turned.shape[:-1], size // 2, 2)
        rotated = torch.stack((-pairs[..., 1], pairs[..., 0]), dim=-1).flatten(-2)
    else:
        rotated = torch.cat((-turned[..., size // 2 :], turned[..., : size // 2]), dim=-1)
    turned = turned * cos + rotated * sin
    return torch.cat((turned, kept), dim=-1) if kept.shape[-1] else turned


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
}


@define("gated_activation(Tensor gate, Tensor up, str activation) -> Tensor", Traits(rules.pointwise))
def gated_activation(gate: Tensor, up: Tensor, activation: str) -> Tensor:
    """activation(gate) * up (Shazeer, 2020). `activation` is a key of `ACTIVATIONS`."""
    return ACTIVATIONS[activation](gate) * up


# ---------------------------------------------------------------- attention


def _visible(mask: str, extent: int, query_positions: Tensor, key_positions: Tensor) -> Tensor | None:
    """Which keys a query may see, [B|1, S, T]: from the positions, by the kind of mask. None: all of them."""
    query, key = query_positions.unsqueeze(-1), key_positions.unsqueeze(-2)
    if mask == "none":
        return None
    visible = (key <= query) & (key >= 0)
    if mask == "window":
        visible = visible & (query - key < extent)
    elif mask == "chunk":
        visible = visible & (
            torch.div(query, extent, rounding_mode="floor") == torch.div(key, extent, rounding_mode="floor")
        )
    elif mask != "causal":
        raise ValueError(f"burnish::attention has no mask kind {mask!r}")
    return visible


def _attention_shape(query: Tensor, key: Tensor, value: Tensor, *rest: object, **options: object) -> Tensor:
    return query.new_empty((*query.shape[:-1], value.shape[-1]))


@define(
    "attention(Tensor query, Tensor key, Tensor value, Tensor? position=None, Tensor? bias=None, Tensor? sinks=None, "
    "Tensor? slopes=None, Tensor? key_positions=None, *, float scale, str mask='causal', int extent=0, "
    "float softcap=0.0) -> Tensor",
    Traits(mixing.attention, StateDescriptor(StateKind.CACHE, all_tokens=("key", "value")), position=3),
    _attention_shape,
)
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
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
    """softmax(cap(scale * query @ key^T) + bias) @ value over the visible keys.

    query[B, Hq, S, Dk], key[B, Hkv, T, Dk], value[B, Hkv, T, Dv] -> [B, Hq, S, Dv]; query head h reads KV head
    h // (Hq // Hkv). Query i is token position[b] + i (position None: 0). Key t is token t, or token
    key_positions[b, t] (negative: an empty slot). A query sees, by `mask`:
    "causal" the tokens up to its own; "window" the last `extent` of these; "chunk" those in its own chunk of `extent`;
    "none" every key. cap(x) = softcap * tanh(x / softcap) if softcap > 0. `slopes[Hq]` adds slope * (key - query)
    (ALiBi, Press et al., 2021). `bias` broadcasts to [B, Hq, S, T]. `sinks[Hq]` is one more logit a head that takes
    probability and gives nothing. Softmax in float32. Keys and values may be narrower than queries: they are widened.
    """
    key, value = key.to(query.dtype), value.to(query.dtype)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = (query @ key.transpose(-1, -2)).float() * scale
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    start = torch.zeros(1, dtype=torch.int64) if position is None else position
    query_positions = start.unsqueeze(-1) + torch.arange(query.shape[2])
    if key_positions is None:
        key_positions = torch.arange(key.shape[2]).unsqueeze(0)
    if slopes is not None:
        distance = key_positions.unsqueeze(-2) - query_positions.unsqueeze(-1)
        scores = scores + slopes.view(1, -1, 1, 1) * distance.unsqueeze(1)
    if bias is not None:
        scores = scores + bias
    visible = _visible(mask, extent, query_positions, key_positions)
    if visible is not None:
        scores = scores.masked_fill(~visible.unsqueeze(1), float("-inf"))
    if sinks is not None:
        sink = sinks.view(1, -1, 1, 1).expand(scores.shape[0], -1, scores.shape[2], 1).to(scores.dtype)
        weights = torch.cat((scores, sink), dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return weights.to(value.dtype) @ value


def _attention_bias_shape(table: Tensor, position: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    return table.new_empty((query.shape[0], table.shape[0], query.shape[2], key.shape[2]))


@define(
    "attention_bias(Tensor table, Tensor? position, Tensor query, Tensor key) -> Tensor",
    Traits(mixing.attention_bias, position=1),
    _attention_bias_shape,
)
def attention_bias(table: Tensor, position: Tensor | None, query: Tensor, key: Tensor) -> Tensor:
    """The rows and columns of a position-by-position table [Ht, M, M] that a step needs: [B, Ht, S, T].

    Row position[b] + i (position None: i) for the i-th of query's S tokens; columns 0 to T - 1 for the T slots of key.
    """
    rows = positions(query[:, 0, :, 0], position)
    return table[:, rows, : key.shape[2]].transpose(0, 1)


# ---------------------------------------------------------------- positions and states


@define("positions(Tensor tokens, Tensor? position=None) -> Tensor", Traits(views.same, position=1))
def positions(tokens: Tensor, position: Tensor | None = None) -> Tensor:
    """The position of each new token, [B, S]: position[b] + i for tokens[B, S]; a position of None is 0."""
    start = torch.zeros(tokens.shape[:1], dtype=torch.int64) if position is None else position
    return start.unsqueeze(-1) + torch.arange(tokens.shape[1])


@define("lookup(Tensor table, Tensor positions) -> Tensor", Traits(rules.lookup, gathers=True))
def lookup(table: Tensor, positions: Tensor) -> Tensor:
    """Rows of a table [M, ...] by position [B, S]: [B, S, ...]."""
    return table[positions]


def _same_as_state(state: Tensor, *rest: object) -> Tensor:
    return torch.empty_like(state)


def _slot_index(slots: Tensor, new: Tensor, axis: int) -> Tensor:
    """slots[B, S] shaped to index `new` (B at axis 0, S at `axis`) in a scatter along `axis`."""
    shape = [1] * new.dim()
    shape[0], shape[axis] = slots.shape[0], slots.shape[1]
    return slots.view(shape).expand_as(new)


@define(
    "cache_write(Tensor state, Tensor new, Tensor position, int axis) -> Tensor",
    Traits(writes=(0,)),
    _same_as_state,
)
def cache_write(state: Tensor, new: Tensor, position: Tensor, axis: int) -> Tensor:
    """`state` with the S new tokens of `new` written along `axis` from slot position[b] on."""
    slots = position.unsqueeze(-1) + torch.arange(new.shape[axis])
    return state.scatter(axis, _slot_index(slots, new, axis), new)


@define(
    "ring_write(Tensor state, Tensor new, Tensor position, int axis) -> Tensor",
    Traits(writes=(0,)),
    _same_as_state,
)
def ring_write(state: Tensor, new: Tensor, position: Tensor, axis: int) -> Tensor:
    """`state` with the newest tokens of `new` written along `axis`, token t in slot t % size."""
    size, count = state.shape[axis], new.shape[axis]
    skipped = max(0, count - size)
    new = new.narrow(axis, skipped, count - skipped)
    slots = (position.unsqueeze(-1) + torch.arange(skipped, count)) % size
    return state.scatter(axis, _slot_index(slots, new, axis), new)


@define("ring_positions(Tensor tokens, Tensor position, int size) -> Tensor", Traits())
def ring_positions(tokens: Tensor, position: Tensor, size: int) -> Tensor:
    """The position held by each slot of a ring before this step, then those of the new tokens: [B, size + S].

    Slot j holds the last position below position[b] that is j modulo size; it is negative if there is none yet.
    """
    last = position.unsqueeze(-1) - 1
    held = last - torch.remainder(last - torch.arange(size), size)
    return torch.cat((held, position.unsqueeze(-1) + torch.arange(tokens.shape[1])), dim=-1)


# ---------------------------------------------------------------- other ops that mix positions


def _causal_conv1d_shape(x: Tensor, weight: Tensor, *rest: object) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[0], x.shape[2]))


@define(
    "causal_conv1d(Tensor x, Tensor weight, Tensor? bias, int dilation, int groups) -> Tensor",
    Traits(mixing.causal_conv1d, StateDescriptor(StateKind.WINDOW, convolution_step)),
    _causal_conv1d_shape,
)
def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, dilation: int, groups: int) -> Tensor:
    """Convolution over the tokens of x[B, C, S] that sees no later token: weight[C', C/groups, K], zeros before."""
    padded = F.pad(x, ((weight.shape[-1] - 1) * dilation, 0))
    return F.conv1d(padded, weight, bias, dilation=dilation, groups=groups)


@define(
    "shift(Tensor x, int axis, int amount) -> Tensor",
    Traits(mixing.shift, StateDescriptor(StateKind.WINDOW, shift_step)),
    _shape_of_first,
)
def shift(x: Tensor, axis: int, amount: int) -> Tensor:
    """Each token's value moved `amount` tokens later along `axis`; zeros before."""
    first = torch.zeros_like(x.narrow(axis, 0, 1)).repeat_interleave(amount, dim=axis)
    return torch.cat((first, x), dim=axis).narrow(axis, 0, x.shape[axis])


@define("moe_linear(Tensor x, Tensor weight, Tensor? bias, Tensor experts) -> Tensor", Traits(rules.moe_linear))
def moe_linear(x: Tensor, weight: Tensor, bias: Tensor | None, experts: Tensor) -> Tensor:
    """Each token's product with each of its chosen experts' weights.

    x[N, K|1, in], weight[E, out, in], bias[E, out], experts[N, K] (ids below E) -> [N, K, out].
    """
    out = x.new_zeros((*experts.shape, weight.shape[1]))
    for expert in range(weight.shape[0]):
        product = F.linear(x, weight[expert], None if bias is None else bias[expert])
        out = torch.where((experts == expert).unsqueeze(-1), product, out)
    return out


burnish_ops = torch.ops.burnish
