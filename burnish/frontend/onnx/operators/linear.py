"""Products of matrices."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from burnish.frontend.onnx.call import Call, Table


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """numpy's product, of any numbers."""
    if a.is_floating_point() or a.dtype in (torch.int32, torch.int64):
        return torch.matmul(a, b)
    wide = torch.int64
    return torch.matmul(a.to(wide), b.to(wide)).to(a.dtype)


def _matmul(c: Call) -> Tensor:
    return matmul(c.tensor(0), c.tensor(1))


def _gemm(c: Call) -> Tensor:
    a, b, bias = c.tensor(0), c.tensor(1), c.optional(2)
    alpha, beta = c.real("alpha", 1.0), c.real("beta", 1.0)
    turned = c.flag("transB")
    if c.flag("transA"):
        a = a.t()
    vector = bias is None or (bias.dim() == 1 and bias.shape[0] == b.shape[0 if turned else 1])
    if turned and alpha == 1 and beta == 1 and isinstance(b, nn.Parameter) and vector:
        return F.linear(a, b, bias)
    product = matmul(a, b.t() if turned else b)
    if alpha != 1:
        product = (product * alpha).to(a.dtype)
    if bias is None:
        return product
    return product + (bias if beta == 1 else (bias * beta).to(bias.dtype))


def _einsum(c: Call) -> Tensor:
    equation = c.text("equation", "").replace(" ", "")
    tensors = c.tensors()
    if tensors[0].is_floating_point():
        return torch.einsum(equation, *tensors)
    return torch.einsum(equation, *(each.to(torch.float64) for each in tensors)).round().to(tensors[0].dtype)


def _lp_normalization(c: Call) -> Tensor:
    x, axis = c.tensor(0), c.integer("axis", -1)
    norm = torch.linalg.vector_norm(x, ord=c.integer("p", 2), dim=axis, keepdim=True)
    return torch.where(norm == 0, torch.zeros_like(x), x / norm)


def _affine_grid(c: Call) -> Tensor:
    theta, size = c.tensor(0), [int(each) for each in c.known(1, "the size")]
    return F.affine_grid(theta, size, align_corners=c.flag("align_corners"))


def scale_of(size: int) -> float:
    """One over the root of a size."""
    return 1 / math.sqrt(size)


TABLE: Table = {
    "MatMul": _matmul,
    "Gemm": _gemm,
    "Einsum": _einsum,
    "LpNormalization": _lp_normalization,
    "AffineGrid": _affine_grid,
}
