"""Attention over a past that grows, in programs for others to run: ONNX's Attention, or ONNX Runtime's own.

Both take the past and give it with the new keys and values behind it. What ONNX's Attention does not have (sinks) is
spelled in plain operators; where ONNX Runtime's GroupQueryAttention does not fit (head sizes that are no multiple of 8,
values of another size than keys, keys that are made of something else that is remembered), ONNX's takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.attention import (
    bias_of_scores,
    hidden,
    int32_of,
    reads_only_shape,
    visible_keys,
)
from burnish.codegen.onnx.builder import CONTRIB
from burnish.codegen.onnx.context import Arguments, Context, dtype_of, shape_of
from burnish.ir.arguments import arguments
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, operands
from burnish.ir.shapes import same_size

Flavor = Literal["standard", "ort"]

aten = torch.ops.aten


@dataclass(frozen=True)
class Grown:
    """Keys or values: cat([past, new], 2)."""

    node: fx.Node
    past: fx.Node
    new: fx.Node


@dataclass(frozen=True)
class PastAttention:
    """An attention with the pasts that it makes longer, if these are its own."""

    key: Grown | None = None
    value: Grown | None = None

    @property
    def made(self) -> set[fx.Node]:
        """What the attention makes besides its result."""
        return {each.node for each in (self.key, self.value) if each is not None}


def plan_past_attention(program: Program) -> dict[fx.Node, PastAttention]:
    """The attentions of a program that is given pasts, but those that only plain operators can say."""
    planned: dict[fx.Node, PastAttention] = {}
    for node in program.graph.nodes:
        if node.target is not burnish_ops.attention.default:
            continue
        a = arguments(node)
        if a["sinks"] is not None or any(dtype_of(a[name]) != torch.float32 for name in ("query", "key", "value")):
            continue
        key, value = (_grown(program, node, a[name]) for name in ("key", "value"))
        own = key is not None and value is not None and key.node is not value.node
        planned[node] = PastAttention(key, value) if own else PastAttention()
    return planned


def _grown(program: Program, attention: fx.Node, operand: fx.Node) -> Grown | None:
    """A past made longer that `attention`, and no other node, reads."""
    if operand.target is not aten.cat.default:
        return None
    parts, axis = operands(operand)
    others = {user for user in operand.users if not reads_only_shape(user, operand)} - {attention, program.output}
    if len(parts) != 2 or axis != 2 or others or parts[0].op != "placeholder":
        return None
    if any(user is not operand and not reads_only_shape(user, parts[0]) for user in parts[0].users):
        return None
    return Grown(operand, *parts)


def past_attention(flavor: Flavor) -> Callable[[Context, fx.Node, PastAttention], ir.Value]:
    """What makes one node of an attention; sets the results of the pasts too."""

    def lower(c: Context, node: fx.Node, plan: PastAttention) -> ir.Value:
        a = arguments(node)
        if flavor == "ort" and _is_grouped(a, plan):
            return _grouped(c, node, a, plan)
        return _standard(c, node, a, plan)

    return lower


def _standard(c: Context, node: fx.Node, a: Arguments, plan: PastAttention) -> ir.Value:
    """ONNX's Attention."""
    query, key, value = a["query"], a["key"], a["value"]
    sources = [
        query,
        key if plan.key is None else plan.key.new,
        value if plan.value is None else plan.value.new,
    ]
    heads = [int(shape_of(each)[1]) for each in sources]
    sizes = [int(shape_of(each)[3]) for each in sources]
    values = [c.value(each) for each in sources]
    joined = all(c.heads(each) is not None for each in values)
    if joined:  # as the projections give them: nothing is turned
        values = [c.join_heads(*each) for each in zip(values, heads, sizes, strict=True)]
    causal = a["mask"] == "causal" and a["key_positions"] is None and _starts_behind(plan)
    bias = bias_of_scores(c, a, needs_mask=False)
    visible = None if causal else visible_keys(c, a)
    if bias is not None and visible is not None:
        bias = hidden(c, visible, bias)
    pasts = [] if plan.key is None or plan.value is None else [c.value(plan.key.past), c.value(plan.value.past)]
    result, *presents = c.builder.ops(
        "Attention",
        *values,
        visible if bias is None else bias,
        *pasts,
        count=1 + len(pasts),
        scale=float(a["scale"]),
        softcap=float(a["softcap"]) if a["softcap"] else None,
        is_causal=1 if causal else None,
        q_num_heads=heads[0] if joined else None,
        kv_num_heads=heads[1] if joined else None,
    )
    if plan.key is not None and plan.value is not None:
        c.results[plan.key.node], c.results[plan.value.node] = presents
    return c.split_heads(result, heads[0], sizes[2]) if joined else result


def _starts_behind(plan: PastAttention) -> bool:
    """Whether the operator knows where the new tokens are: behind the past that it is given."""
    return plan.key is not None


def _is_grouped(a: Arguments, plan: PastAttention) -> bool:
    if plan.key is None or plan.value is None or a["mask"] == "none":
        return False
    size = shape_of(a["query"])[3]
    new = [shape_of(each.new)[3] for each in (plan.key, plan.value)]
    return isinstance(size, int) and size % 8 == 0 and all(same_size(each, size) for each in new)


def _grouped(c: Context, node: fx.Node, a: Arguments, plan: PastAttention) -> ir.Value:
    """ONNX Runtime's GroupQueryAttention. All rows are as long as the longest: padding is hidden by what is added.

    So are windows then: the operator counts slots, and with padding among them a token is in another than it counts.
    It takes several rows in the first call and one token a row after it; one row alone in pieces: it refuses others.
    (Its input for the numbers of new tokens would allow them, which ONNX Runtime before 1.32 does not know.)
    """
    assert plan.key is not None
    assert plan.value is not None
    query, new = a["query"], (plan.key.new, plan.value.new)
    heads, size, kv_heads = int(shape_of(query)[1]), int(shape_of(query)[3]), int(shape_of(new[0])[1])
    total, plain = shape_of(a["key"])[2], a["key_positions"] is None and a["mask"] != "chunk"
    builder = c.builder

    def last_slots() -> ir.Value:
        last = builder.op("Sub", int32_of(c, total), builder.constant([1], torch.int32))
        return builder.op("Expand", last, builder.size(shape_of(query)[0]))

    counts = (heads, kv_heads, kv_heads)
    joined = [c.join_heads(c.value(each), count, size) for each, count in zip((query, *new), counts, strict=True)]
    result, present_key, present_value = builder.ops(
        "GroupQueryAttention",
        *joined,
        c.value(plan.key.past),
        c.value(plan.value.past),
        builder.once(("last slots", str(total)), last_slots),
        int32_of(c, total),
        None,
        None,
        None,
        bias_of_scores(c, a, needs_mask=not plain),
        count=3,
        domain=CONTRIB,
        num_heads=heads,
        kv_num_heads=kv_heads,
        scale=float(a["scale"]),
        local_window_size=int(a["extent"]) if plain and a["mask"] == "window" else None,
        softcap=float(a["softcap"]) if a["softcap"] else None,
    )
    c.results[plan.key.node], c.results[plan.value.node] = present_key, present_value
    return c.split_heads(result, heads, size)
