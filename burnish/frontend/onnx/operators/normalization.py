"""Norms over axes, over rows of a batch, and over neighbouring channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx.call import Call, Result, Table
from burnish.frontend.onnx.operators.shape import axis_of


def _batch_normalization(c: Call) -> Result:
    x, scale, bias, mean, variance = (c.tensor(index) for index in range(5))
    if c.flag("training_mode") or (c.version < 14 and c.count > 1 and c.wants(1)):
        raise c.unsupported("it is in training mode: export the model for inference")
    eps = c.real("epsilon", 1e-5)
    if {x.dtype} == {each.dtype for each in (scale, bias, mean, variance)}:
        return F.batch_norm(x, mean, variance, scale, bias, False, 0.0, eps)
    shape = [1, -1] + [1] * (x.dim() - 2)
    wide = torch.promote_types(x.dtype, mean.dtype)
    found = (x.to(wide) - mean.reshape(shape).to(wide)) / torch.sqrt(variance.reshape(shape).to(wide) + eps)
    return (found * scale.reshape(shape).to(wide) + bias.reshape(shape).to(wide)).to(x.dtype)


def _layer_normalization(c: Call) -> Result:
    x, scale, bias = c.tensor(0), c.tensor(1), c.optional(2)
    axis, eps = axis_of(c, x, -1), c.real("epsilon", 1e-5)
    shape = list(x.shape[axis:])
    wide = c.dtype("stash_type") or torch.float32
    if not c.wants(1) and not c.wants(2) and list(scale.shape) == shape and (bias is None or bias.shape == scale.shape):
        return F.layer_norm(x, shape, scale, bias, eps)
    axes = list(range(axis, x.dim()))
    numbers = x.to(wide) if x.dtype.itemsize < wide.itemsize else x
    mean = numbers.mean(dim=axes, keepdim=True)
    centred = numbers - mean
    inverse = torch.rsqrt((centred * centred).mean(dim=axes, keepdim=True) + eps)
    found = (centred * inverse).to(x.dtype) * scale
    return found if bias is None else found + bias, mean.to(wide), inverse.to(wide)


def rms_norm(x: Tensor, scale: Tensor | None, axes: list[int], eps: float, wide: torch.dtype) -> Tensor:
    """x over the root of the mean of its squares, as authors spell it."""
    numbers = x.to(wide) if x.dtype.itemsize < wide.itemsize else x
    mean = numbers.pow(2).mean(dim=axes, keepdim=True)
    found = numbers * torch.rsqrt(mean + eps)
    if found.dtype is not x.dtype:
        found = found.to(x.dtype)
    return found if scale is None else found * scale


def _rms_normalization(c: Call) -> Tensor:
    x, scale = c.tensor(0), c.tensor(1)
    axes = list(range(axis_of(c, x, -1), x.dim()))
    axes = [axis - x.dim() for axis in axes]
    return rms_norm(x, scale, axes, c.real("epsilon", 1e-5), c.dtype("stash_type") or torch.float32)


def _instance_normalization(c: Call) -> Tensor:
    return F.instance_norm(c.tensor(0), weight=c.tensor(1), bias=c.tensor(2), eps=c.real("epsilon", 1e-5))


def _group_normalization(c: Call) -> Tensor:
    x, scale, bias = c.tensor(0), c.tensor(1), c.tensor(2)
    groups, eps = c.integer("num_groups", 1), c.real("epsilon", 1e-5)
    if groups < 1 or x.shape[1] % groups:
        raise c.invalid(f"{groups} groups of {x.shape[1]} channels")
    if c.version < 21:  # a scale for each group
        scale = scale.repeat_interleave(x.shape[1] // groups)
        bias = bias.repeat_interleave(x.shape[1] // groups)
    return F.group_norm(x, groups, scale, bias, eps)


def _mean_variance_normalization(c: Call) -> Tensor:
    x, axes = c.tensor(0), c.integers("axes") or [0, 2, 3]
    mean = x.mean(dim=axes, keepdim=True)
    variance = (x * x).mean(dim=axes, keepdim=True) - mean * mean
    return (x - mean) / (torch.sqrt(variance) + 1e-9)


def _lrn(c: Call) -> Tensor:
    """Over the squares of `size` neighbouring channels."""
    x, size = c.tensor(0), c.integer("size", 1)
    alpha, beta, bias = c.real("alpha", 1e-4), c.real("beta", 0.75), c.real("bias", 1.0)
    before = (size - 1) // 2
    flat = (x * x).reshape(x.shape[0], 1, x.shape[1], -1)
    padded = F.pad(flat, (0, 0, before, size - 1 - before))
    total = F.avg_pool2d(padded, (size, 1), stride=1) * size
    return x / (bias + alpha / size * total.reshape(x.shape)).pow(beta)


def _dropout(c: Call) -> Result:
    x = c.tensor(0)
    if c.version >= 12 and c.has(2) and bool(c.scalar(2, "whether it is trained")):
        ratio = float(c.scalar(1, "the ratio")) if c.has(1) else 0.5
        if ratio != 0:
            raise c.unsupported("it is in training mode: export the model for inference")
    return (x, torch.ones_like(x, dtype=torch.bool)) if c.wants(1) else x


TABLE: Table = {
    "BatchNormalization": _batch_normalization,
    "LayerNormalization": _layer_normalization,
    "RMSNormalization": _rms_normalization,
    "InstanceNormalization": _instance_normalization,
    "GroupNormalization": _group_normalization,
    "MeanVarianceNormalization": _mean_variance_normalization,
    "LRN": _lrn,
    "Dropout": _dropout,
}
