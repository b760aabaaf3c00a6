"""ONNX Runtime's own operators replaced by ONNX's: both forms give the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from burnish.codegen.onnx.standard import make_standard
from burnish.ir.errors import UnsupportedError

HEADER = '<ir_version: 11, opset_import: ["": 24, "com.microsoft": 1]>'


def _model(text: str, weights: Mapping[str, Any]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(f"{HEADER} {text}")
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


def _run(model: onnx.ModelProto, inputs: Mapping[str, Any], exact: bool = False) -> list[Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if exact:
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Any] = session.run(None, dict(inputs))
    return found


def _both(text: str, weights: Mapping[str, Any], inputs: Mapping[str, Any]) -> list[str]:
    """The operators of the standard form, after comparing what both give."""
    model = _model(text, weights)
    wanted = _run(model, inputs)
    made = ir.serde.deserialize_model(model)
    make_standard(made)
    standard = ir.serde.serialize_model(made)
    assert {each.domain for each in standard.opset_import} == {""}
    onnx.checker.check_model(standard, full_check=True)
    for one, other in zip(_run(standard, inputs, exact=True), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)
    return [node.op_type for node in standard.graph.node]


def _random(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def test_a_product_with_a_turned_weight() -> None:
    text = "g (float[b, 6] x) => (float[b, 5] y) { y = com.microsoft.FusedMatMul <transB = 1, alpha = 0.5> (x, w) }"
    assert _both(text, {"w": _random(5, 6)}, {"x": _random(3, 6)}) == ["MatMul", "Mul"]


def test_a_weight_that_is_looked_up_in_too_is_stored_once() -> None:
    text = (
        "g (int64[b] ids) => (float[b, 5] y){ x = Gather (w, ids)  y = com.microsoft.FusedMatMul <transB = 1> (x, w) }"
    )
    weights = {"w": _random(5, 6)}
    assert _both(text, weights, {"ids": np.array([3, 1])}) == ["Gather", "Transpose", "MatMul"]


def test_activations_and_norms() -> None:
    text = """g (float[b, 6] x, float[b, 6] skip) => (float[b, 6] y, float[b, 6] total) {
        a = com.microsoft.QuickGelu <alpha = 1.0> (x)
        n = SimplifiedLayerNormalization <axis = -1, epsilon = 1e-5> (a, w)
        y, m, d, total = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 1e-6> (n, skip, w)
    }"""
    found = _both(text, {"w": _random(6)}, {"x": _random(3, 6), "skip": _random(4, 6)[:3]})
    assert found == ["Swish", "RMSNormalization", "Add", "RMSNormalization"]


def _integers(bits: int, rows: int, size: int, block: int, zeros: bool) -> dict[str, Any]:
    generator, blocks = np.random.default_rng(bits + size), -(-size // block)
    found = {
        "q": generator.integers(0, 256, (rows, blocks, block * bits // 8), dtype=np.uint8),
        "s": (generator.random((rows, blocks)) + 0.1).astype(np.float32),
    }
    if zeros:
        found["z"] = generator.integers(0, 256, (rows, -(-blocks * bits // 8)), dtype=np.uint8)
    return found


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("bits", "size"), [(4, 64), (4, 96), (8, 64), (4, 40), (8, 40)])
def test_products_of_integers(bits: int, size: int, zeros: bool) -> None:
    options = f"<K = {size}, N = 6, bits = {bits}, block_size = 32, accuracy_level = 1>"
    parts = _integers(bits, 6, size, 32, zeros)
    text = (
        f"g (float[b, {size}] x) => (float[b, 6] y)"
        f"{{ y = com.microsoft.MatMulNBits {options} (x, q, s{', z' if zeros else ''}) }}"
    )
    assert _both(text, parts, {"x": _random(3, size)}) == ["DequantizeLinear", "MatMul"]


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("bits", [4, 8])
def test_rows_of_integers(bits: int, zeros: bool) -> None:
    parts = _integers(bits, 6, 96, 32, zeros)
    parts["q"] = parts["q"].reshape(6, -1)
    options = f"<bits = {bits}, block_size = 32, gather_axis = 0, quantize_axis = 1>"
    text = (
        "g (int64[b, n] ids) => (float[b, n, 96] y)"
        f"{{ y = com.microsoft.GatherBlockQuantized {options} (q, ids, s{', z' if zeros else ''}) }}"
    )
    found = _both(text, parts, {"ids": np.array([[5, 0, 2], [1, 1, 4]])})
    assert "DequantizeLinear" not in found  # which would make floats of the whole table
    assert found.count("Gather") == 2 + zeros


def test_an_operator_without_another_form_is_refused_by_name() -> None:
    model = _model("g (float[b, 6] x) => (float[b, 6] y) { y = com.microsoft.BiasGelu (x, w) }", {"w": _random(6)})
    with pytest.raises(UnsupportedError, match=r"BiasGelu is ONNX Runtime's own.*--flavor ort"):
        make_standard(ir.serde.deserialize_model(model))
