"""Attention: ONNX Runtime's GroupQueryAttention where its cache and its shapes allow it, plain operators elsewhere.

GroupQueryAttention (CPU, onnxruntime 1.32) writes the new keys and values into the cache that it reads, without a copy
when past and present are bound to the same memory. It takes rows of different lengths, chunks, windows, soft caps,
sinks and an additive bias. It does not take head sizes that are no multiple of 8, values of another size than keys,
rings, or keys that are computed from something else in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.builder import CONTRIB, Size, origin_of_size
from burnish.codegen.onnx.codes import with_scales_apart
from burnish.codegen.onnx.context import Arguments, Context, Result, dtype_of, shape_of
from burnish.codegen.onnx.rotary import unturned
from burnish.ir.arguments import arguments
from burnish.ir.code_ops import code_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program
from burnish.ir.shapes import same_shape, same_size
from burnish.ir.states import StateKind

LOWEST = float(np.finfo(np.float32).min)  # a score of what is not seen: its probability is zero


@dataclass(frozen=True)
class Written:
    """Keys or values as an attention reads them: a cache behind a write, of codes of int8 if there are scales."""

    write: fx.Node  # cache_write(state, new, position, axis=2)
    new: fx.Node  # floats
    scales: fx.Node | None = None  # a weight [1, Hkv, 1, D]
    coding: tuple[fx.Node, ...] = ()  # to_codes before the write, and from_codes behind it


@dataclass(frozen=True)
class CachedAttention:
    """An attention together with the two cache writes that are its own."""

    key: Written
    value: Written

    @property
    def made(self) -> set[fx.Node]:
        """What the attention makes besides its result: nobody else has to."""
        return {node for each in (self.key, self.value) for node in (each.write, *each.coding)}


def plan_cached_attention(program: Program) -> dict[fx.Node, CachedAttention]:
    """The attentions of `program` that become one GroupQueryAttention, with their cache writes."""
    caches = {state.name for state in program.states if state.kind is StateKind.CACHE}
    planned: dict[fx.Node, CachedAttention] = {}
    for node in program.graph.nodes:
        if node.target is burnish_ops.attention.default:
            found = _fits(program, node, arguments(node), caches)
            if found is not None:
                planned[node] = found
    return planned


def _fits(program: Program, node: fx.Node, a: Arguments, caches: set[str]) -> CachedAttention | None:
    query, position = a["query"], a["position"]
    if position is None or a["key_positions"] is not None or a["mask"] == "none" or dtype_of(query) != torch.float32:
        return None
    size = shape_of(query)[3]
    if not isinstance(size, int) or size % 8:
        return None
    key, value = (_written(program, node, operand) for operand in (a["key"], a["value"]))
    if key is None or value is None:
        return None
    for each in (key, value):
        if not _is_its_own(program, each, position, caches):
            return None
        new = shape_of(each.new)
        if len(new) != 4 or not same_size(new[3], size) or not same_size(new[2], shape_of(query)[2]):
            return None
    if key.write is value.write or (key.scales is None) != (value.scales is None):
        return None
    return CachedAttention(key, value) if isinstance(shape_of(key.write)[1], int) else None


def _written(program: Program, attention: fx.Node, operand: fx.Node) -> Written | None:
    """The write of a cache that `attention`, and no other node, reads what it attends to from."""
    reader, write, scales = attention, operand, None
    if operand.target is code_ops.from_codes.default:
        decoded = arguments(operand)
        reader, write, scales = operand, decoded["codes"], decoded["scales"]
        if set(operand.users) != {attention}:
            return None
    if write.target is not burnish_ops.cache_write.default:
        return None
    if {user for user in write.users if not reads_only_shape(user, write)} - {reader, program.output}:
        return None
    new: fx.Node = arguments(write)["new"]
    if scales is None:
        return Written(write, new) if dtype_of(new) == torch.float32 else None
    if new.target is not code_ops.to_codes.default or set(new.users) != {write} or scales.op != "get_attr":
        return None
    coded = arguments(new)
    shape = shape_of(scales)
    by_channel = len(shape) == 4 and shape[0] == shape[2] == 1 and shape[1::2] == shape_of(write)[1::2]
    if coded["numbers"] != "int8" or coded["scales"] is not scales or not by_channel:
        return None
    return Written(write, coded["x"], scales, (new, operand)) if dtype_of(coded["x"]) == torch.float32 else None


def _is_its_own(program: Program, written: Written, position: fx.Node, caches: set[str]) -> bool:
    """Whether a write is of new tokens at `position` along the third axis of a cache that nothing else reads."""
    write = arguments(written.write)
    state: fx.Node = write["state"]
    if state.op != "placeholder" or state.name not in caches:
        return False
    if any(user is not written.write and not reads_only_shape(user, state) for user in state.users):
        return False
    return write["axis"] % 4 == 2 and write["position"] is position


def reads_only_shape(user: fx.Node, argument: fx.Node) -> bool:
    """Whether `user` needs no more of `argument` than its shape."""
    if user.target is burnish_ops.attention_bias.default:
        return user.args[0] is not argument and user.args[1] is not argument
    return origin_of_size(user) is not None


def cached_attention(c: Context, node: fx.Node, plan: CachedAttention) -> ir.Value:
    """One GroupQueryAttention; sets the results of the two cache writes too."""
    a = arguments(node)
    key, value = plan.key, plan.value
    query: fx.Node = a["query"]
    heads, size, kv_heads = int(shape_of(query)[1]), int(shape_of(query)[3]), int(shape_of(key.write)[1])
    new_tokens, capacity = shape_of(query)[2], shape_of(key.write)[2]
    batch = shape_of(query)[0]
    windowed = a["mask"] == "window"
    needs_mask = a["mask"] == "chunk"
    bias = bias_of_scores(c, a, needs_mask=needs_mask)
    turned = unturned(c, query, key.new, a["position"])
    sources = (turned.query, turned.key) if turned else (query, key.new)
    joined, past_key, past_value = c.builder.ops(
        "GroupQueryAttention",
        *_queries_keys_values(c, (*sources, value.new), (heads, kv_heads, kv_heads), size),
        *(c.value(arguments(each.write)["state"]) for each in (key, value)),
        _last_positions(c, a["position"], new_tokens),
        int32_of(c, capacity),  # with query_seqlens only a bound, and so the same for every step
        turned.cos if turned else None,
        turned.sin if turned else None,
        None,
        bias,
        None if a["sinks"] is None else c.value(a["sinks"]),
        *(None if each.scales is None else c.value(each.scales) for each in (key, value)),
        None,
        None,
        _counts(c, batch, new_tokens),
        count=3,
        domain=CONTRIB,
        num_heads=heads,
        kv_num_heads=kv_heads,
        scale=float(a["scale"]),
        local_window_size=int(a["extent"]) if windowed else None,
        softcap=float(a["softcap"]) if a["softcap"] else None,
        do_rotary=1 if turned else None,
        k_quant_type=_quantized(key),
        v_quant_type=_quantized(value),
        kv_cache_bit_width=None if key.scales is None else 8,
        rotary_interleaved=1 if turned and turned.interleaved else None,
    )
    c.results[key.write], c.results[value.write] = past_key, past_value
    return c.split_heads(joined, heads, size)


def _quantized(written: Written) -> str | None:
    return None if written.scales is None else "PER_CHANNEL"


def _queries_keys_values(
    c: Context, nodes: Sequence[fx.Node], heads: Sequence[int], size: int
) -> tuple[ir.Value | None, ir.Value | None, ir.Value | None]:
    """All three as [B, S, H * D]; or one that holds them side by side, if they were split from it in this order."""
    joined = [c.join_heads(c.value(node), count, size) for node, count in zip(nodes, heads, strict=True)]
    split = joined[0].producer()
    if split is not None and split.op_type == "Split" and list(split.outputs) == joined:
        return split.inputs[0], None, None
    query, key, value = joined
    return query, key, value


def int32_of(c: Context, size: Size) -> ir.Value:
    """A size as int32[1]."""
    return c.cast(c.builder.size(size), torch.int64, torch.int32)


def _last_positions(c: Context, position: fx.Node, new_tokens: Size) -> ir.Value:
    """The position of each row's last new token, int32[B]."""

    def make() -> ir.Value:
        one_less = c.builder.op("Sub", c.builder.size(new_tokens), c.builder.constant([1]))
        return c.cast(c.builder.op("Add", c.value(position), one_less), torch.int64, torch.int32)

    return c.builder.once(("last positions", position, str(new_tokens)), make)


def _counts(c: Context, batch: Size, new_tokens: Size) -> ir.Value:
    """The number of new tokens for each row, int32[B]."""
    key = ("counts", str(batch), str(new_tokens))
    return c.builder.once(key, lambda: c.builder.op("Expand", int32_of(c, new_tokens), c.builder.size(batch)))


# ---------------------------------------------------------------- masks and biases


def _query_positions(c: Context, position: fx.Node | None, new_tokens: Size) -> ir.Value:
    """The positions of the new tokens, [B|1, S, 1]."""

    def make() -> ir.Value:
        steps = _range(c, new_tokens)
        if position is not None:
            steps = c.builder.op("Add", c.unsqueeze(c.value(position), 1), steps)
        else:
            steps = c.unsqueeze(steps, 0)
        return c.unsqueeze(steps, 2)

    return c.builder.once(("query positions", position, str(new_tokens)), make)


def _key_positions(c: Context, key_positions: fx.Node | None, slots: Size) -> ir.Value:
    """The positions of the keys, [B|1, 1, T]."""

    def make() -> ir.Value:
        if key_positions is not None:
            return c.unsqueeze(c.value(key_positions), 1)
        return c.unsqueeze(_range(c, slots), 0, 1)

    return c.builder.once(("key positions", key_positions, str(slots)), make)


def _range(c: Context, size: Size) -> ir.Value:
    constant, op = c.builder.constant, c.builder.op
    return c.builder.once(("range", str(size)), lambda: op("Range", constant(0), c.builder.scalar(size), constant(1)))


def visible_keys(c: Context, a: Arguments) -> ir.Value | None:
    """Which keys each query may see, bool [B|1, 1, S, T]; None: all."""
    mask, extent = a["mask"], int(a["extent"])
    if mask == "none":
        return None
    sizes = shape_of(a["query"])[2], shape_of(a["key"])[2]
    key = ("visible", mask, extent, a["position"], a["key_positions"], *map(str, sizes))

    def make() -> ir.Value:
        op, constant = c.builder.op, c.builder.constant
        queries = _query_positions(c, a["position"], sizes[0])
        keys = _key_positions(c, a["key_positions"], sizes[1])
        visible = op("LessOrEqual", keys, queries)
        if a["key_positions"] is not None:  # an empty slot of a ring has a negative position
            visible = op("And", visible, op("GreaterOrEqual", keys, constant(0)))
        if mask == "window":
            visible = op("And", visible, op("Less", op("Sub", queries, keys), constant(extent)))
        elif mask == "chunk":
            # Positions that are compared here are not negative, so that truncation is floor.
            chunks = (op("Div", each, constant(extent)) for each in (queries, keys))
            visible = op("And", visible, op("Equal", *chunks))
        return c.unsqueeze(visible, 1)

    return c.builder.once(key, make)


def _slope_bias(c: Context, a: Arguments) -> ir.Value:
    """slope * (key - query), [B|1, H, S, T]."""
    sizes = shape_of(a["query"])[2], shape_of(a["key"])[2]
    slopes: fx.Node = a["slopes"]
    key = ("slopes", slopes, a["position"], a["key_positions"], *map(str, sizes))

    def make() -> ir.Value:
        keys = _key_positions(c, a["key_positions"], sizes[1])
        distance = c.builder.op("Sub", keys, _query_positions(c, a["position"], sizes[0]))
        apart = c.unsqueeze(c.cast(distance, torch.int64, torch.float32), 1)
        per_head = c.builder.op("Reshape", c.tensor(slopes, torch.float32), c.builder.constant([1, -1, 1, 1]))
        return c.builder.op("Mul", per_head, apart)

    return c.builder.once(key, make)


def bias_of_scores(c: Context, a: Arguments, needs_mask: bool) -> ir.Value | None:
    """What is added to the scores, [B|1, H|1, S, T] in full; None: nothing.

    needs_mask: what a query does not see has the lowest number, not an infinite one: of a row that sees nothing,
    softmax would make NaN.
    """
    total: ir.Value | None = None
    if a["slopes"] is not None:
        total = _slope_bias(c, a)
    if a["bias"] is not None:
        given = _full_bias(c, a["bias"], a)
        total = given if total is None else c.builder.op("Add", total, given)
    if needs_mask:
        visible = visible_keys(c, a)
        total = total if visible is None else hidden(c, visible, total)
    return total


def hidden(c: Context, visible: ir.Value, bias: ir.Value | None) -> ir.Value:
    """A bias with the lowest number where nothing is seen."""
    rest = c.builder.constant(0.0, torch.float32) if bias is None else bias
    lowest = c.builder.constant(LOWEST, torch.float32)
    return c.builder.once(("hidden", visible, rest), lambda: c.builder.op("Where", visible, rest, lowest))


def _full_bias(c: Context, bias: fx.Node, a: Arguments) -> ir.Value:
    """A bias with all four axes, the last two in full."""
    shape = shape_of(bias)
    value = c.tensor(bias, torch.float32)
    value = c.reshape(value, shape, (1,) * (4 - len(shape)) + shape)
    wanted = (shape_of(a["query"])[2], shape_of(a["key"])[2])
    if same_shape(shape[-2:], wanted):
        return value
    return c.builder.op("Expand", value, c.builder.shape((1, 1, *wanted)))


# ---------------------------------------------------------------- plain operators


def plain_attention(c: Context, node: fx.Node, a: Arguments) -> Result:
    """Products and a softmax. Grouped query heads fold into the rows of the product, so that keys are not repeated."""
    op = c.builder.op
    query, key, value = a["query"], a["key"], a["value"]
    batch, heads, new_tokens, size = shape_of(query)
    kv_heads, value_size = shape_of(key)[1], shape_of(value)[3]
    grouped = not same_size(heads, kv_heads)
    dtype = dtype_of(value)
    rows = c.value(query)
    keys, key_scales = with_scales_apart(c, key)
    values, value_scales = with_scales_apart(c, value)
    if grouped:
        rows = op("Reshape", rows, c.builder.constant([0, int(kv_heads), -1, int(size)]))
    if dtype_of(query) == torch.float32:
        scores = op("FusedMatMul", rows, keys, domain=CONTRIB, transB=1, alpha=float(a["scale"]))
    else:
        scores = op("MatMul", rows, op("Transpose", keys, perm=[0, 1, 3, 2]))
        scores = c.cast(scores, dtype_of(query), torch.float32)
        scores = op("Mul", scores, c.builder.constant(float(a["scale"]), torch.float32))
    if key_scales is not None:
        scores = op("Mul", scores, key_scales)
    if grouped:
        scores = op("Reshape", scores, c.builder.constant([0, int(heads), -1, 0]))
    if a["softcap"]:
        cap = c.builder.constant(float(a["softcap"]), torch.float32)
        scores = op("Mul", op("Tanh", op("Div", scores, cap)), cap)
    bias = bias_of_scores(c, a, needs_mask=False)
    if bias is not None:
        scores = op("Add", scores, bias)
    visible = visible_keys(c, a)
    if visible is not None:
        scores = op("Where", visible, scores, c.builder.constant(LOWEST, torch.float32))
    if a["sinks"] is None:
        weights = op("Softmax", scores, axis=-1)
    else:
        weights = _softmax_with_sinks(c, scores, a["sinks"], (batch, heads, new_tokens, 1))
    weights = c.cast(weights, torch.float32, dtype)
    if grouped:
        weights = op("Reshape", weights, c.builder.constant([0, int(kv_heads), -1, 0]))
    if value_scales is not None:
        weights = op("Mul", weights, value_scales)
    mixed = op("MatMul", weights, values)
    if grouped:
        mixed = op("Reshape", mixed, c.builder.constant([0, int(heads), -1, int(value_size)]))
    return mixed


def _softmax_with_sinks(c: Context, scores: ir.Value, sinks: fx.Node, shape: tuple[Size, ...]) -> ir.Value:
    """Softmax over the scores and one more logit a head, which is then dropped."""
    op, constant = c.builder.op, c.builder.constant
    logits = op("Reshape", c.tensor(sinks, torch.float32), constant([1, -1, 1, 1]))
    logits = op("Expand", logits, c.builder.shape(shape))
    weights = op("Softmax", op("Concat", scores, logits, axis=-1), axis=-1)
    return op("Slice", weights, constant([0]), constant([-1]), constant([3]))
