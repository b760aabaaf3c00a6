"""Models of one contributed operator each, with inputs: what ONNX Runtime gives for them is the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

Array = np.ndarray[Any, Any]
_RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """An operator, its operands in order (None for one that is left out), which of these are constants."""

    name: str
    operator: str
    operands: list[Array | None]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    domain: str = "com.microsoft"
    constants: tuple[int, ...] = ()
    tolerance: float = 2e-5


def normal(*shape: int) -> Array:
    """Numbers of float32."""
    return _RNG.standard_normal(shape).astype(np.float32)


def whole(low: int, high: int, *shape: int, dtype: Any = np.int64) -> Array:
    """Integers from `low` to below `high`."""
    return _RNG.integers(low, high, shape).astype(dtype)


def number(value: float, dtype: Any = np.float32) -> Array:
    """One number of no axes."""
    return np.array(value, dtype)


def model_of(case: Case) -> onnx.ModelProto:
    """The model of a case."""
    names = [f"x{index}" if each is not None else "" for index, each in enumerate(case.operands)]
    outputs = [f"y{index}" for index in range(case.outputs)]
    node = helper.make_node(case.operator, names, outputs, name="it", domain=case.domain, **case.attributes)
    inputs, tensors = [], []
    for index, (name, each) in enumerate(zip(names, case.operands, strict=True)):
        if each is None:
            continue
        kind = helper.np_dtype_to_tensor_dtype(each.dtype)
        if index in case.constants:
            tensors.append(onnx.numpy_helper.from_array(each, name))
        else:
            inputs.append(helper.make_tensor_value_info(name, kind, each.shape))
    results = [helper.make_tensor_value_info(name, TensorProto.UNDEFINED, None) for name in outputs]
    for result in results:
        result.ClearField("type")
    graph = helper.make_graph([node], "graph", inputs, results, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def by_runtime(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> tuple[list[Array], onnx.ModelProto]:
    """What ONNX Runtime gives, and the model with the types of its outputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    found = session.run(None, dict(inputs))
    for value, each in zip(model.graph.output, found, strict=True):
        value.CopyFrom(
            helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(each.dtype), each.shape)
        )
    return found, model


def _bytes(*shape: int, signed: bool = False) -> Array:
    return whole(-128, 128, *shape, dtype=np.int8) if signed else whole(0, 256, *shape, dtype=np.uint8)


_B, _S, _N, _D, _H = 2, 5, 4, 16, 64
_PAST = 3
_COS, _SIN = normal(16, _D // 2), normal(16, _D // 2)


def _cases() -> list[Case]:
    x, skip = normal(_B, _S, _H), normal(_B, _S, _H)
    gamma, beta, bias = normal(_H), normal(_H), normal(_H)
    q, k, v = normal(_B, _S, _H), normal(_B, _S, _H), normal(_B, _S, _H)
    past = [normal(_B, _N, _PAST, _D), normal(_B, _N, _PAST, _D)]
    shared = [normal(_B, _S, 2 * _D), normal(_B, _S, 2 * _D)]
    a, b = _bytes(3, 7), _bytes(3, 7)
    scales = [number(0.0217), number(0.0533), number(0.1071)]
    zeros = [number(120, np.uint8), number(130, np.uint8), number(110, np.uint8)]
    lengths = np.full(_B, _S - 1, np.int32)
    grown = np.full(_B, _PAST + _S - 1, np.int32)
    quantized = [_bytes(1, 4, 6, 6), scales[0], zeros[0]]
    weight4 = _bytes(6, 2, 8)
    return [
        Case("skip layer norm", "SkipLayerNormalization", [x, skip, gamma, beta, bias], {"epsilon": 1e-5}),
        Case("skip RMS norm", "SkipSimplifiedLayerNormalization", [x, skip, gamma], {"epsilon": 1e-5}),
        Case("RMS norm", "SimplifiedLayerNormalization", [x, gamma], {"epsilon": 1e-5, "axis": -1}, domain=""),
        Case(
            "embedding and layer norm",
            "EmbedLayerNormalization",
            [
                whole(0, 9, _B, _S, dtype=np.int32),
                whole(0, 2, _B, _S, dtype=np.int32),
                normal(9, _H),
                normal(_S, _H),
                normal(2, _H),
                gamma,
                beta,
            ],
            outputs=2,
        ),
        Case(
            "fused matmul", "FusedMatMul", [normal(2, 4, 3), normal(2, 5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5}
        ),
        Case("fused conv", "FusedConv", [normal(1, 3, 8, 8), normal(4, 3, 3, 3), normal(4)], {"activation": "Relu"}),
        Case(
            "fused gemm",
            "FusedGemm",
            [normal(3, 4), normal(4, 5), normal(5)],
            {"activation": "LeakyRelu", "activation_alpha": 0.2},
        ),
        Case("gelu", "Gelu", [x]),
        Case("bias gelu", "BiasGelu", [x, bias]),
        Case("fast gelu", "FastGelu", [x, bias]),
        Case("quick gelu", "QuickGelu", [x], {"alpha": 1.702}),
        Case("rotary embedding", "RotaryEmbedding", [x, np.array([2]), _COS, _SIN]),
        Case(
            "interleaved rotary embedding of heads",
            "RotaryEmbedding",
            [normal(_B, _N, _S, _D), whole(0, 16, _B, _S), _COS, _SIN],
            {"interleaved": 1},
        ),
        Case("multi-head attention", "MultiHeadAttention", [q, k, v, normal(3 * _H)], {"num_heads": _N}),
        Case(
            "multi-head attention with a mask of keys and a bias",
            "MultiHeadAttention",
            [q, k, v, None, np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], np.int32), normal(1, _N, _S, _S)],
            {"num_heads": _N},
        ),
        Case(
            "causal multi-head attention with a cache",
            "MultiHeadAttention",
            [q, k, v, None, None, None, *past],
            {"num_heads": _N, "unidirectional": 1},
            outputs=3,
        ),
        Case(
            "attention",
            "Attention",
            [x, normal(_H, 3 * _H), normal(3 * _H), np.array([5, 3], np.int32)],
            {"num_heads": _N},
        ),
        Case(
            "causal attention with a cache",
            "Attention",
            [x, normal(_H, 3 * _H), normal(3 * _H), None, np.stack(past)],
            {"num_heads": _N, "unidirectional": 1},
            outputs=2,
        ),
        Case(
            "grouped query attention of a prompt",
            "GroupQueryAttention",
            [q, *shared, None, None, lengths, number(_S, np.int32), _COS, _SIN],
            {"num_heads": _N, "kv_num_heads": 2, "do_rotary": 1},
            outputs=3,
        ),
        Case(
            "grouped query attention with a cache and a window",
            "GroupQueryAttention",
            [
                q[:, :1],
                *(each[:, :1] for each in shared),
                past[0][:, :2],
                past[1][:, :2],
                grown - _S + 1,
                number(_PAST + 1, np.int32),
                _COS,
                _SIN,
            ],
            {"num_heads": _N, "kv_num_heads": 2, "do_rotary": 1, "local_window_size": 3},
            outputs=3,
        ),
        Case(
            "packed grouped query attention with a soft cap",
            "GroupQueryAttention",
            [normal(_B, _S, (_N + 4) * _D), None, None, None, None, lengths, number(_S, np.int32)],
            {"num_heads": _N, "kv_num_heads": 2, "softcap": 5.0},
            outputs=3,
        ),
        Case(
            "product by integers of 4 bits",
            "MatMulNBits",
            [normal(3, 30), weight4, normal(12), _bytes(6)],
            {"N": 6, "K": 30, "bits": 4, "block_size": 16},
            constants=(1, 2, 3),
            tolerance=1e-3,
        ),
        Case(
            "product by integers of 4 bits without zero points",
            "MatMulNBits",
            [normal(3, 32), weight4, normal(12)],
            {"N": 6, "K": 32, "bits": 4, "block_size": 16},
            constants=(1, 2),
            tolerance=1e-3,
        ),
        Case(
            "product by integers of 8 bits",
            "MatMulNBits",
            [normal(3, 32), _bytes(6, 1, 32), normal(6)],
            {"N": 6, "K": 32, "bits": 8, "block_size": 32},
            constants=(1, 2),
            tolerance=1e-3,
        ),
        Case("quantized sum", "QLinearAdd", [a, scales[0], zeros[0], b, scales[1], zeros[1], scales[2], zeros[2]]),
        Case("quantized product", "QLinearMul", [a, scales[0], zeros[0], b, scales[1], zeros[1], scales[2], zeros[2]]),
        Case("quantized sigmoid", "QLinearSigmoid", [a, scales[0], zeros[0], number(1 / 256), number(0, np.uint8)]),
        Case("quantized leaky relu", "QLinearLeakyRelu", [a, scales[0], zeros[0], scales[0], zeros[1]], {"alpha": 0.1}),
        Case("quantized mean of space", "QLinearGlobalAveragePool", [*quantized, scales[0], zeros[1]]),
        Case(
            "quantized softmax",
            "QLinearSoftmax",
            [a, scales[0], zeros[0], number(1 / 256), number(0, np.uint8)],
            {"opset": 13, "axis": -1},
        ),
        Case(
            "quantized concatenation",
            "QLinearConcat",
            [scales[2], zeros[2], a, scales[0], zeros[0], b, scales[1], zeros[1]],
            {"axis": 1},
        ),
        Case(
            "quantized gemm",
            "QGemm",
            [
                _bytes(3, 4),
                scales[0],
                zeros[0],
                _bytes(4, 5),
                scales[1],
                zeros[1],
                whole(-90, 90, 5, dtype=np.int32),
                number(0.3),
                zeros[2],
            ],
        ),
        Case("dynamic product", "DynamicQuantizeMatMul", [normal(3, 4), _bytes(4, 5), scales[1], zeros[1], normal(5)]),
        Case(
            "product of integers to floats",
            "MatMulIntegerToFloat",
            [_bytes(3, 4), _bytes(4, 5), scales[0], scales[1], zeros[0], zeros[1], normal(5)],
        ),
    ]


CASES = _cases()
