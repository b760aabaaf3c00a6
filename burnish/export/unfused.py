"""What is one operation for kernels of our own, in those that it stands for: see `burnish.ir.fused_ops`."""

from __future__ import annotations

import operator
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_ops import fused_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.panels import RowOrder, panel_ops, unpacked_shape
from burnish.ir.program import describe
from burnish.ir.unpanelled import unpanelled
from burnish.ir.weights import Reshape

if TYPE_CHECKING:
    from burnish.export.outward import Outward

aten = torch.ops.aten

_NUMBERS = re.compile(r"\.(int\d|fp8)$")  # of which a weight is, at the end of its name


def _weight(o: Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    stored, form, rows, size = str(a["panels"].target), a["form"], a["rows"], a["size"]
    order = RowOrder(a["head"], a["pairs"])
    found = unpanelled(o.given.weights[stored], form, rows, size, order)
    if a["experts"]:
        found = Reshape(found, unpacked_shape(rows, size, a["experts"]))
    name = _NUMBERS.sub("", stored.removesuffix(f".{form}"))
    return o.weight(name, found, (stored, form, rows, size, order, a["experts"]))


def _normalized(o: Outward, a: dict[str, Any]) -> fx.Node:
    x = o.mapped(a["x"])
    if a["norm"] == "none":
        return x
    weight, bias = o.maybe(a["norm_weight"]), o.maybe(a["norm_bias"])
    if a["norm"] == "rms":
        return o.call(burnish_ops.rms_norm.default, x, weight, a["eps"])
    return o.call(aten.layer_norm.default, x, [int(x.meta["val"].shape[-1])], weight, bias, a["eps"])


def _split(o: Outward, x: fx.Node, sizes: list[int]) -> list[fx.Node]:
    parts = o.call(aten.split_with_sizes.default, x, sizes, -1)
    return [o.call(operator.getitem, parts, place) for place in range(len(sizes))]


_ACTIVATIONS: dict[str, tuple[Any, dict[str, str]]] = {
    "silu": (aten.silu.default, {}),
    "relu": (aten.relu.default, {}),
    "sigmoid": (aten.sigmoid.default, {}),
    "gelu": (aten.gelu.default, {}),
    "gelu_tanh": (aten.gelu.default, {"approximate": "tanh"}),
}


def _fused_linear(o: Outward, a: dict[str, Any], node: fx.Node) -> fx.Node:
    x, weight, bias = _normalized(o, a), o.mapped(a["weight"]), o.maybe(a["bias"])
    _check_floats(o, a)
    if a["gated"]:
        count = int(weight.meta["val"].shape[0])
        order = torch.arange(count).reshape(-1, 2).t().flatten()  # gates and ups take turns: each is together again
        names = [None if each is None else str(each.target).removesuffix(".interleaved") for each in (weight, bias)]
        weight = o.rows(weight, order, names[0] or "")  # type: ignore[assignment]
        bias = o.rows(bias, order, names[1] or "")
        both = o.call(aten.linear.default, x, weight, bias)
        gate, up = _split(o, both, [count // 2] * 2)
        y = o.call(burnish_ops.gated_activation.default, gate, up, a["activation"])
    else:
        y = o.call(aten.linear.default, x, weight, bias)
        if a["activation"] != "none":
            target, options = _ACTIVATIONS[a["activation"]]
            y = o.call(target, y, **options)
    if a["scale"] != 1.0:
        y = o.call(aten.mul.Tensor, y, a["scale"])
    if a["softcap"]:
        cap = a["softcap"]
        y = o.call(aten.mul.Tensor, o.call(aten.tanh.default, o.call(aten.div.Tensor, y, cap)), cap)
    return y if a["residual"] is None else o.call(aten.add.Tensor, o.mapped(a["residual"]), y)


def _check_floats(o: Outward, a: dict[str, Any]) -> None:
    if a["scales"] is not None:
        raise UnsupportedError(
            f"{describe(o.like)} has weights as kernels for GPUs read them: compile for target='cpu'"
        )


def _projection(o: Outward, a: dict[str, Any], node: fx.Node) -> tuple[fx.Node, fx.Node, fx.Node]:
    """See `burnish.ir.fused_ops.attention_projection`."""
    _check_floats(o, a)
    key_state, value_state = (a[name] for name in ("key_state", "value_state"))
    heads, (_, kv_heads, _, size) = a["heads"], o.states[key_state.name].shape
    assert isinstance(kv_heads, int)
    assert isinstance(size, int)
    y = o.call(aten.linear.default, _normalized(o, a), o.mapped(a["weight"]), o.maybe(a["bias"]))
    parts = _split(o, y, [heads * size, kv_heads * size, kv_heads * size])
    shapes = [[o.size(0), o.size(1), count, size] for count in (heads, kv_heads, kv_heads)]
    apart = [o.call(aten.reshape.default, part, shape) for part, shape in zip(parts, shapes, strict=True)]
    query, key, value = (o.call(aten.transpose.int, part, 1, 2) for part in apart)
    if a["query_norm"] is not None:
        query = o.call(burnish_ops.rms_norm.default, query, o.mapped(a["query_norm"]), a["head_eps"])
    if a["key_norm"] is not None:
        key = o.call(burnish_ops.rms_norm.default, key, o.mapped(a["key_norm"]), a["head_eps"])
    if a["cos"] is not None:
        cos, sin = (o.call(aten.unsqueeze.default, o.mapped(a[name]), 1) for name in ("cos", "sin"))
        query, key = (o.call(burnish_ops.rotary.default, each, cos, sin, a["interleaved"]) for each in (query, key))
    return query, o.written(key_state, key, 2), o.written(value_state, value, 2)


UNFUSED: dict[Any, Any] = {
    panel_ops.from_panels.default: _weight,
    fused_ops.fused_linear.default: _fused_linear,
    fused_ops.attention_projection.default: _projection,
}
