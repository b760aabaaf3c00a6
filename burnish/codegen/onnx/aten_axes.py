"""Translations of ATen ops that work along axes: sums, means, softmax, norms, ordering, padding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import fx

from burnish.codegen.onnx.builder import origin_of_size
from burnish.codegen.onnx.context import Arguments, Context, Result, Translate, dtype_of, shape_of

aten = torch.ops.aten


def _reduction(name: str) -> Translate:
    def translate(c: Context, node: fx.Node, a: Arguments) -> Result:
        rank = len(shape_of(a["self"]))
        chosen = a.get("dim")
        chosen = [chosen] if isinstance(chosen, int) else list(chosen or range(rank))
        axes = c.builder.constant([axis % max(1, rank) for axis in chosen])
        x = c.tensor(a["self"], dtype_of(node))
        return c.builder.op(name, x, axes, keepdims=int(bool(a.get("keepdim"))))

    return translate


def _variance(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """The mean squared distance from the mean, times n / (n - correction)."""
    shape = shape_of(a["self"])
    chosen = [axis % len(shape) for axis in (a["dim"] or range(len(shape)))]
    if not all(isinstance(shape[axis], int) for axis in chosen):
        return None
    count = math.prod(int(shape[axis]) for axis in chosen)
    correction = a.get("correction", 1)
    correction = 1 if correction is None else float(correction)
    op, axes, x = c.builder.op, c.builder.constant(chosen), c.value(a["self"])
    away = op("Sub", x, op("ReduceMean", x, axes, keepdims=1))
    variance = op("ReduceMean", op("Mul", away, away), axes, keepdims=int(bool(a["keepdim"])))
    if correction:
        variance = op("Mul", variance, c.tensor(count / (count - correction), dtype_of(node)))
    return variance


def _arg_reduction(name: str) -> Translate:
    def translate(c: Context, node: fx.Node, a: Arguments) -> Result | None:
        if a["dim"] is None:
            return None
        return c.builder.op(name, c.value(a["self"]), axis=a["dim"], keepdims=int(a["keepdim"]))

    return translate


def _running_sum(c: Context, node: fx.Node, a: Arguments) -> Result:
    return c.builder.op("CumSum", c.tensor(a["self"], dtype_of(node)), c.builder.constant(a["dim"]))


def _one_hot(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    if a["num_classes"] < 0:
        return None  # as many as the largest id says
    return c.builder.op("OneHot", c.value(a["self"]), c.builder.constant(a["num_classes"]), c.builder.constant([0, 1]))


def _difference(c: Context, node: fx.Node, a: Arguments) -> Result:
    """Each element less the one before; of booleans, whether they differ."""
    op, constant = c.builder.op, c.builder.constant
    parts = [c.value(a[name]) for name in ("prepend", "self", "append") if a[name] is not None]
    x = op("Concat", *parts, axis=a["dim"]) if len(parts) > 1 else parts[0]
    axes, end = constant([a["dim"]]), constant([2**63 - 1])
    for _ in range(a["n"]):
        later = op("Slice", x, constant([1]), end, axes)
        earlier = op("Slice", x, constant([0]), constant([-1]), axes)
        x = op("Xor" if dtype_of(node) == torch.bool else "Sub", later, earlier)
    return x


def _softmax(name: str) -> Translate:
    def translate(c: Context, node: fx.Node, a: Arguments) -> Result:
        return c.builder.op(name, c.tensor(a["self"], dtype_of(node)), axis=a["dim"])

    return translate


def _layer_norm(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    x = a["input"]
    normalized = a["normalized_shape"]
    if not all(isinstance(size, int) for size in normalized):
        return None
    weight = a["weight"]
    scale = c.builder.constant(np.ones(normalized), dtype_of(x)) if weight is None else c.value(weight)
    return c.builder.op(
        "LayerNormalization",
        c.value(x),
        scale,
        None if a["bias"] is None else c.value(a["bias"]),
        axis=-len(normalized),
        epsilon=float(a["eps"]),
    )


def _batch_norm(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """By the statistics that were stored: (x - mean) / sqrt(var + eps) * weight + bias, on the second axis."""
    mean, variance = a["running_mean"], a["running_var"]
    if a["training"] or mean is None or variance is None:
        return None
    size = shape_of(mean)
    scale, bias = (
        c.builder.constant(np.full(size, filled), dtype_of(mean)) if a[name] is None else c.value(a[name])
        for name, filled in (("weight", 1), ("bias", 0))
    )
    x = c.value(a["input"])
    return c.builder.op("BatchNormalization", x, scale, bias, c.value(mean), c.value(variance), epsilon=float(a["eps"]))


def _topk(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    count = origin_of_size(a["k"])
    if count is None:
        return None
    return list(
        c.builder.ops(
            "TopK",
            c.value(a["self"]),
            c.builder.size(count),
            count=2,
            axis=a["dim"],
            largest=int(a["largest"]),
            sorted=int(a["sorted"]),
        )
    )


def _sorted(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """All of an axis by TopK, which puts the first of equal ones first."""
    axes = shape_of(a["self"])
    if not axes or dtype_of(a["self"]) in (torch.bool, torch.uint8, torch.int8, torch.int16):
        return None
    size = c.builder.size(axes[a["dim"]])
    largest = int(a["descending"])
    return list(c.builder.ops("TopK", c.value(a["self"]), size, count=2, axis=a["dim"], largest=largest, sorted=1))


def _triangle(upper: int) -> Translate:
    def translate(c: Context, node: fx.Node, a: Arguments) -> Result:
        return c.builder.op("Trilu", c.value(a["self"]), c.builder.constant(a["diagonal"]), upper=upper)

    return translate


def _pad(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    sizes = [size for size in a["pad"] if isinstance(size, int)]
    if len(sizes) != len(a["pad"]):
        return None
    rank = len(shape_of(node))
    before, after = [0] * rank, [0] * rank
    for pair in range(len(sizes) // 2):
        before[rank - 1 - pair], after[rank - 1 - pair] = sizes[2 * pair : 2 * pair + 2]
    dtype = dtype_of(node)
    return c.builder.op(
        "Pad", c.value(a["self"]), c.builder.constant(before + after), c.tensor(a.get("value") or 0, dtype)
    )


AXES: dict[Any, Translate] = {
    **dict.fromkeys((aten.sum.dim_IntList, aten.sum.default), _reduction("ReduceSum")),
    **dict.fromkeys((aten.mean.dim, aten.mean.default), _reduction("ReduceMean")),
    aten.amax.default: _reduction("ReduceMax"),
    aten.amin.default: _reduction("ReduceMin"),
    aten.var.correction: _variance,
    aten.argmax.default: _arg_reduction("ArgMax"),
    aten.argmin.default: _arg_reduction("ArgMin"),
    aten.cumsum.default: _running_sum,
    aten.one_hot.default: _one_hot,
    aten.diff.default: _difference,
    **dict.fromkeys((aten.softmax.int, aten._softmax.default), _softmax("Softmax")),
    **dict.fromkeys((aten.log_softmax.int, aten._log_softmax.default), _softmax("LogSoftmax")),
    aten.layer_norm.default: _layer_norm,
    aten.batch_norm.default: _batch_norm,
    aten.topk.default: _topk,
    **dict.fromkeys((aten.sort.default, aten.sort.stable), _sorted),
    aten.tril.default: _triangle(0),
    aten.triu.default: _triangle(1),
    **dict.fromkeys((aten.constant_pad_nd.default,), _pad),
}
