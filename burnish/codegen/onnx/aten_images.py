"""Translations of ATen ops on images [B, C, H, W], in the form that ONNX Runtime's blocked kernels take.

ONNX Runtime keeps images in blocks of channels (NCHWc) from one convolution to the next, through pools, sums,
joins and activations, where it can see at load time that it may: a convolution whose weights and bias are stored (a
bias of zeros that is computed from a shape is not), pools by their own operators.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from burnish.codegen.onnx.aten_axes import AXES
from burnish.codegen.onnx.context import Arguments, Context, Result, Translate, shape_of

aten = torch.ops.aten


def _convolution(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """One without an explicit bias has none: ONNX Runtime folds the norm behind it into its weights."""
    rank = len(shape_of(a["weight"])) - 2
    if len(shape_of(a["input"])) != rank + 2:  # one image, without an axis of rows
        return None
    spread: dict[str, Any] = {"strides": list(a["stride"]) * (rank // len(a["stride"]))}
    spread["dilations"] = list(a["dilation"]) * (rank // len(a["dilation"]))
    padding = a["padding"]
    if padding == "same":
        sizes = [int(size) for size in shape_of(a["weight"])[2:]]
        totals = [step * (size - 1) for step, size in zip(spread["dilations"], sizes, strict=True)]
        spread["pads"] = [total // 2 for total in totals] + [total - total // 2 for total in totals]
    else:
        once = [0] * rank if padding == "valid" else list(padding) * (rank // len(padding))
        spread["pads"] = once * 2
    bias = a["bias"]
    return c.builder.op(
        "Conv",
        c.value(a["input"]),
        c.value(a["weight"]),
        None if bias is None else c.value(bias),
        group=a["groups"],
        kernel_shape=[int(size) for size in shape_of(a["weight"])[2:]],
        **spread,
    )


def _mean(c: Context, node: fx.Node, a: Arguments) -> Result | None:
    """That of all pixels of a channel is a pool."""
    shape, axes = shape_of(a["self"]), a["dim"]
    if len(shape) != 4 or axes is None or sorted(axis % 4 for axis in axes) != [2, 3] or a["dtype"] is not None:
        return AXES[aten.mean.dim](c, node, a)
    pooled = c.builder.op("GlobalAveragePool", c.value(a["self"]))
    return pooled if a["keepdim"] else c.builder.op("Squeeze", pooled, c.builder.constant([2, 3]))


IMAGES: dict[Any, Translate] = {
    **dict.fromkeys(
        (aten.conv2d.default, aten.conv2d.padding, aten.conv3d.default, aten.conv3d.padding),
        _convolution,
    ),
    aten.mean.dim: _mean,
}
