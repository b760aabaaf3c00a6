"""What ONNX Runtime's optimizer leaves in files: several operators as one, of the domain com.microsoft."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx.call import Call, Operator, Result, Table
from burnish.frontend.onnx.operators import image, indexing, quantization, shape
from burnish.frontend.onnx.operators.convolution import convolve
from burnish.frontend.onnx.operators.elementwise import one
from burnish.frontend.onnx.operators.linear import TABLE as LINEAR
from burnish.frontend.onnx.operators.linear import matmul
from burnish.frontend.onnx.operators.normalization import rms_norm


def _skip_layer_norm(c: Call) -> Result:
    x = c.tensor(0) + c.tensor(1)
    if c.has(4):
        x = x + c.tensor(4)
    found = F.layer_norm(x, [x.shape[-1]], c.tensor(2), c.optional(3), c.real("epsilon", 1e-12))
    _no_statistics(c)
    return found, None, None, x


def _skip_rms_norm(c: Call) -> Result:
    x = c.tensor(0) + c.tensor(1)
    if c.has(3):
        x = x + c.tensor(3)
    _no_statistics(c)
    return rms_norm(x, c.tensor(2), [-1], c.real("epsilon", 1e-6), torch.float32), None, None, x


def _no_statistics(c: Call) -> None:
    if c.wants(1) or c.wants(2):
        raise c.unsupported("its means and deviations are asked for")


def simplified_layer_norm(c: Call) -> Result:
    """An RMS norm, as ONNX Runtime called it before ONNX had one; in ONNX's own domain."""
    x = c.tensor(0)
    axes = list(range(shape.axis_of(c, x, -1) - x.dim(), 0))
    if c.wants(1):
        raise c.unsupported("its deviations are asked for")
    return rms_norm(x, c.tensor(1), axes, c.real("epsilon", 1e-5), c.dtype("stash_type") or torch.float32)


def _embed_layer_norm(c: Call) -> Result:
    """The sum of the embeddings of words, positions and segments, normed."""
    ids = c.tensor(0)
    places = c.tensor(8) if c.has(8) else torch.arange(ids.shape[1]).unsqueeze(0)
    total = F.embedding(ids, c.tensor(2)) + F.embedding(places, c.tensor(3))
    if c.has(1) and c.has(4):
        total = total + F.embedding(c.tensor(1), c.tensor(4))
    found = F.layer_norm(total, [total.shape[-1]], c.tensor(5), c.tensor(6), c.real("epsilon", 1e-12))
    if c.has(7) and c.integer("mask_index_type", 1):
        lengths = c.tensor(7).sum(1).to(torch.int32)
    else:
        lengths = torch.zeros(ids.shape[0], dtype=torch.int32)
    return found, lengths, total


def _fused_matmul(c: Call) -> Tensor:
    a, b = c.tensor(0), c.tensor(1)
    if c.flag("transBatchA") or c.flag("transBatchB"):
        raise c.unsupported("its batch axes are turned")
    a = a.transpose(-1, -2) if c.flag("transA") and a.dim() > 1 else a
    b = b.transpose(-1, -2) if c.flag("transB") and b.dim() > 1 else b
    alpha = c.real("alpha", 1.0)
    found = matmul(a, b)
    return found if alpha == 1 else found * alpha


def _activated(c: Call, x: Tensor, parameters: list[float]) -> Tensor:
    name = c.text("activation", "")

    def parameter(index: int, default: float) -> float:
        return parameters[index] if index < len(parameters) else default

    known: dict[str, Callable[[], Tensor]] = {
        "": lambda: x,
        "Relu": lambda: torch.relu(x),
        "Sigmoid": lambda: torch.sigmoid(x),
        "Tanh": lambda: torch.tanh(x),
        "LeakyRelu": lambda: F.leaky_relu(x, parameter(0, 0.01)),
        "Clip": lambda: torch.clamp(x, parameter(0, -torch.inf), parameter(1, torch.inf)),
        "HardSigmoid": lambda: torch.clamp(x * parameter(0, 0.2) + parameter(1, 0.5), 0, 1),
        "HardSwish": lambda: F.hardswish(x),
        "Gelu": lambda: F.gelu(x),
    }
    if name not in known:
        raise c.unsupported(f"the activation {name!r}")
    return known[name]()


def _fused_conv(c: Call) -> Tensor:
    found = convolve(c, c.tensor(0), c.tensor(1), c.optional(2))
    if c.has(3):
        found = found + c.tensor(3)
    return _activated(c, found, c.reals("activation_params") or [])


def _fused_gemm(c: Call) -> Tensor:
    found = LINEAR["Gemm"](c)
    assert isinstance(found, Tensor)
    parameters = [c.real(f"activation_{name}", 0.0) for name in ("alpha", "beta", "gamma")]
    return _activated(c, found, parameters)


def _nhwc_conv(c: Call) -> Tensor:
    found = convolve(c, c.tensor(0).movedim(-1, 1), c.tensor(1), c.optional(2))
    return found.movedim(1, -1)


def _bias_gelu(c: Call) -> Tensor:
    return F.gelu(c.tensor(0) + c.tensor(1))


def _fast_gelu(c: Call) -> Tensor:
    x = c.tensor(0)
    return F.gelu(x + c.tensor(1) if c.has(1) else x, approximate="tanh")


def _quick_gelu(c: Call) -> Tensor:
    x, alpha = c.tensor(0), c.real("alpha", 1.702)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(alpha * x)


def _gemm_fast_gelu(c: Call) -> Tensor:
    x = torch.matmul(c.tensor(0), c.tensor(1))
    return F.gelu(x + c.tensor(2) if c.has(2) else x, approximate="tanh")


def _bias_split_gelu(c: Call) -> Tensor:
    x, gate = (c.tensor(0) + c.tensor(1)).chunk(2, -1)
    return x * F.gelu(gate)


def _bias_softmax(c: Call) -> Tensor:
    x, bias, axis = c.tensor(0), c.tensor(1), c.integer("axis", 1)
    axis = axis % x.dim()
    if bias.dim() != x.dim() and c.flag("is_inner_broadcast", True):
        bias = bias.reshape([*bias.shape[:axis], *[1] * (x.dim() - bias.dim()), *bias.shape[axis:]])
    total = x + bias
    flat = total.flatten(axis)
    return torch.softmax(flat, -1).reshape(total.shape)


def _bias_add(c: Call) -> Tensor:
    return c.tensor(0) + c.tensor(1) + c.tensor(2)


def _cdist(c: Call) -> Tensor:
    squares = torch.cdist(c.tensor(0), c.tensor(1), compute_mode="donot_use_mm_for_euclid_dist")
    return squares if c.text("metric", "sqeuclidean") == "euclidean" else squares * squares


# ---------------------------------------------------------------- numbers that stand for others


def low_bits(packed: Tensor, bits: int) -> Tensor:
    """Integers of `bits` bits each, the lowest of a byte first, along the last axis."""
    parts = [(packed >> shift) & (2**bits - 1) for shift in range(0, 8, bits)]
    return torch.stack(parts, dim=-1).flatten(-2) if len(parts) > 1 else packed


def _matmul_bits(c: Call) -> Tensor:
    """A product by a weight [N, K] in blocks of integers of a few bits, each block with its scale."""
    x, packed, scales = c.tensor(0), c.tensor(1), c.tensor(2)
    if packed.is_floating_point():  # what they stand for, in a trace: see OnnxModule.widen_packed
        return F.linear(x, packed.to(x.dtype), c.optional(5))
    bits, block = c.integer("bits", 4), c.integer("block_size", 0)
    rows, columns = int(c.required("N")), int(c.required("K"))
    if bits not in (2, 4, 8) or block < 16 or rows < 1 or columns < 1:
        raise c.unsupported(f"{bits} bits in blocks of {block}: 2, 4 and 8 bits in blocks of 16 and more are")
    if c.has(4):
        raise c.unsupported("its rows are in another order (g_idx)")
    blocks = -(-columns // block)
    values = low_bits(packed.reshape(rows, blocks, -1), bits).to(scales.dtype)
    zeros: Tensor | float = float(2 ** (bits - 1))
    if c.has(3):
        given = c.tensor(3)
        if not given.is_floating_point():
            given = low_bits(given.reshape(rows, -1), bits)[:, :blocks]
        zeros = given.reshape(rows, blocks, 1).to(scales.dtype)
    weight = ((values - zeros) * scales.reshape(rows, blocks, 1)).reshape(rows, -1)[:, :columns].to(x.dtype)
    return F.linear(x, weight, c.optional(5))


def _numbers(c: Call, index: int) -> Tensor:
    """What an operand, with its scale and zero point after it, stands for."""
    x, scale = c.tensor(index), c.tensor(index + 1)
    found = x.to(torch.float32)
    if c.has(index + 2):
        found = found - c.tensor(index + 2).to(torch.float32)
    return found * scale


def _back(c: Call, x: Tensor, index: int, like: int) -> Tensor:
    """What stands for a result, whose scale and zero point are operands."""
    zero = c.optional(index + 1)
    dtype = c.tensor(like).dtype
    low, high = quantization.RANGES[quantization.kind_of(c, like, c.tensor(like))]
    found = torch.round(x / c.tensor(index))
    if zero is not None:
        found = found + zero.to(torch.float32)
    return torch.clamp(found, low, high).to(dtype)


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda c: _back(c, function(_numbers(c, 0), _numbers(c, 3)), 6, 0)


def _of_one(function: Callable[[Call, Tensor], Tensor]) -> Operator:
    return lambda c: _back(c, function(c, _numbers(c, 0)), 3, 0)


def _mean_of_space(c: Call, x: Tensor) -> Tensor:
    axes = list(range(1, x.dim() - 1)) if c.flag("channels_last") else list(range(2, x.dim()))
    return x.mean(dim=axes, keepdim=True)


def _q_concat(c: Call) -> Tensor:
    parts = [_numbers(c, index) for index in range(2, len(c.operands), 3)]
    return _back(c, torch.cat(parts, dim=c.integer("axis", 0)), 0, 2)


def _q_where(c: Call) -> Tensor:
    return _back(c, torch.where(c.tensor(0), _numbers(c, 1), _numbers(c, 4)), 7, 1)


def _q_softmax(c: Call, x: Tensor) -> Tensor:
    axis = c.integer("axis", -1)
    if c.integer("opset", 13) < 13:
        axis = axis % x.dim()
        return torch.softmax(x.flatten(axis), -1).reshape(x.shape)
    return torch.softmax(x, axis)


def _q_reduce_mean(c: Call, x: Tensor) -> Tensor:
    return x.mean(dim=c.integers("axes") or list(range(x.dim())), keepdim=c.flag("keepdims", True))


def _q_gemm(c: Call) -> Tensor:
    a, b = (c.tensor(i).to(torch.int32) - c.tensor(i + 2).to(torch.int32) for i in (0, 3))
    if c.tensor(5).numel() > 1 and c.flag("transB"):
        b = c.tensor(3).to(torch.int32) - c.tensor(5).to(torch.int32)[:, None]
    a, b = (a.t() if c.flag("transA") else a), (b.t() if c.flag("transB") else b)
    total = quantization.exact_product(a, b)
    if c.has(6):
        total = total + c.tensor(6)
    found = total.to(torch.float32) * (c.tensor(1) * c.tensor(4) * c.real("alpha", 1.0))
    return _back(c, found, 7, 8) if c.has(7) else found


def _matmul_to_float(c: Call, a: Tensor, a_scale: Tensor, a_zero: Tensor | None, place: int) -> Tensor:
    """A product of integers times the scales of its factors, plus a bias."""
    b, b_scale = c.tensor(1), c.tensor(place)
    left = a.to(torch.int32) - (0 if a_zero is None else a_zero.to(torch.int32))
    right = b.to(torch.int32) - (c.tensor(place + 1).to(torch.int32) if c.has(place + 1) else 0)
    return quantization.exact_product(left, right).to(torch.float32) * (a_scale * b_scale)


def _dynamic_matmul(c: Call) -> Tensor:
    x = c.tensor(0)
    scale, zero = quantization.dynamic_parameters(x)
    codes = torch.clamp(torch.round(x / scale) + zero, 0, 255)
    found = _matmul_to_float(c, codes, scale, zero, 2)
    return found + c.tensor(4) if c.has(4) else found


def _integer_matmul(c: Call) -> Tensor:
    b_zero = c.optional(5)
    left = c.tensor(0).to(torch.int32) - (c.tensor(4).to(torch.int32) if c.has(4) else 0)
    right = c.tensor(1).to(torch.int32) - (0 if b_zero is None else b_zero.to(torch.int32))
    found = quantization.exact_product(left, right).to(torch.float32) * (c.tensor(2) * c.tensor(3))
    return found + c.tensor(6) if c.has(6) else found


TABLE: Table = {
    "SkipLayerNormalization": _skip_layer_norm,
    "SkipSimplifiedLayerNormalization": _skip_rms_norm,
    "EmbedLayerNormalization": _embed_layer_norm,
    "FusedMatMul": _fused_matmul,
    "TransposeMatMul": _fused_matmul,
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "NhwcConv": _nhwc_conv,
    "Gelu": one(F.gelu),
    "BiasGelu": _bias_gelu,
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "GemmFastGelu": _gemm_fast_gelu,
    "BiasSplitGelu": _bias_split_gelu,
    "BiasSoftmax": _bias_softmax,
    "BiasAdd": _bias_add,
    "CDist": _cdist,
    "Inverse": one(torch.linalg.inv),
    "Trilu": shape.TABLE["Trilu"],
    "GatherND": indexing.TABLE["GatherND"],
    "GridSample": image.TABLE["GridSample"],
    "QuantizeLinear": quantization.TABLE["QuantizeLinear"],
    "DequantizeLinear": quantization.TABLE["DequantizeLinear"],
    "QLinearConv": quantization.TABLE["QLinearConv"],
    "MatMulNBits": _matmul_bits,
    "QLinearAdd": _of_two(torch.add),
    "QLinearMul": _of_two(torch.mul),
    "QLinearSigmoid": _of_one(lambda c, x: torch.sigmoid(x)),
    "QLinearLeakyRelu": _of_one(lambda c, x: F.leaky_relu(x, c.real("alpha", 0.01))),
    "QLinearGlobalAveragePool": _of_one(_mean_of_space),
    "QLinearSoftmax": _of_one(_q_softmax),
    "QLinearReduceMean": _of_one(_q_reduce_mean),
    "QLinearConcat": _q_concat,
    "QLinearWhere": _q_where,
    "QGemm": _q_gemm,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulIntegerToFloat": _integer_matmul,
}
