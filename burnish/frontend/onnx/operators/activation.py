"""Activations, and softmax in its kinds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx.call import Call, Operator, Table
from burnish.frontend.onnx.operators.elementwise import one


def _selu(c: Call) -> Tensor:
    alpha, gamma = c.real("alpha", 1.67326319217681884765625), c.real("gamma", 1.05070102214813232421875)
    x = c.tensor(0)
    return gamma * torch.where(x > 0, x, alpha * (torch.exp(x) - 1))


def _elu(c: Call) -> Tensor:
    return F.elu(c.tensor(0), c.real("alpha", 1.0))


def _celu(c: Call) -> Tensor:
    return F.celu(c.tensor(0), c.real("alpha", 1.0))


def _leaky_relu(c: Call) -> Tensor:
    return F.leaky_relu(c.tensor(0), c.real("alpha", 0.01))


def _thresholded_relu(c: Call) -> Tensor:
    x = c.tensor(0)
    return torch.where(x > c.real("alpha", 1.0), x, 0)


def _hard_sigmoid(c: Call) -> Tensor:
    return torch.clamp(c.tensor(0) * c.real("alpha", 0.2) + c.real("beta", 0.5), 0, 1)


def _prelu(c: Call) -> Tensor:
    x, slope = c.tensor(0), c.tensor(1)
    return torch.where(x >= 0, x, x * slope)


def _shrink(c: Call) -> Tensor:
    x, bias, limit = c.tensor(0), c.real("bias", 0.0), c.real("lambd", 0.5)
    found = torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))
    return found.to(x.dtype)


def _gelu(c: Call) -> Tensor:
    return F.gelu(c.tensor(0), approximate=c.text("approximate", "none"))


def _swish(c: Call) -> Tensor:
    x, alpha = c.tensor(0), c.real("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


def _swiglu(c: Call) -> Tensor:
    return _swish(c) * c.tensor(1)


def flattened(x: Tensor, axis: int) -> tuple[Tensor, tuple[int, ...]]:
    """A tensor as a matrix whose rows are the axes from `axis` on, and the shape that it had."""
    shape = tuple(x.shape)
    axis = axis % x.dim()
    rows = math.prod(shape[:axis])
    return x.reshape(rows, math.prod(shape[axis:])), shape


def _softmax(function: Callable[[Tensor, int], Tensor]) -> Operator:
    """Over one axis; before version 13 over all axes from the named one on."""

    def run(c: Call) -> Tensor:
        x = c.tensor(0)
        axis = c.integer("axis", 1 if c.version < 13 else -1)
        if c.version >= 13 or (axis % max(x.dim(), 1)) == x.dim() - 1:
            return function(x, axis)
        matrix, shape = flattened(x, axis)
        return function(matrix, 1).reshape(shape)

    return run


def _hardmax(x: Tensor, axis: int) -> Tensor:
    first = torch.argmax(x, dim=axis, keepdim=True)
    places = torch.arange(x.shape[axis]).reshape([-1 if i == axis % x.dim() else 1 for i in range(x.dim())])
    return (places == first).to(x.dtype)


TABLE: Table = {
    "Relu": one(torch.relu),
    "Sigmoid": one(torch.sigmoid),
    "Tanh": one(torch.tanh),
    "Softplus": one(lambda x: F.softplus(x) if x.dtype is not torch.float16 else F.softplus(x.float()).half()),
    "Softsign": one(F.softsign),
    "HardSwish": one(F.hardswish),
    "Mish": one(F.mish),
    "Selu": _selu,
    "Elu": _elu,
    "Celu": _celu,
    "LeakyRelu": _leaky_relu,
    "ThresholdedRelu": _thresholded_relu,
    "HardSigmoid": _hard_sigmoid,
    "PRelu": _prelu,
    "Shrink": _shrink,
    "Gelu": _gelu,
    "Swish": _swish,
    "SwiGLU": _swiglu,
    "Softmax": _softmax(torch.softmax),
    "LogSoftmax": _softmax(torch.log_softmax),
    "Hardmax": _softmax(_hardmax),
}
