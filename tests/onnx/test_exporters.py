"""What torch's exporters write gives what ONNX Runtime gives, and stays dynamic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import fx

from burnish.frontend.exported import origin_of_node
from burnish.frontend.onnx import OnnxModule
from tests.onnx.exporters import EXAMPLES, write


def _cases() -> list[tuple[str, bool]]:
    return [(name, newer) for name, example in EXAMPLES.items() for newer in (False, True) if newer or example.older]


def _runtime(path: Path, x: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path))
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    return found


@pytest.mark.parametrize(("name", "newer"), _cases())
def test_as_onnx_runtime_and_dynamic(name: str, newer: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    x = write(name, path, newer)
    module = OnnxModule.from_file(path)
    with torch.no_grad():
        (found,) = module(x)
    np.testing.assert_allclose(found.numpy(), _runtime(path, x), rtol=1e-4, atol=1e-5)
    exported = torch.export.export(module, (x,), dynamic_shapes=module.dynamic_shapes())
    (placeholder,) = (node for node in exported.graph.nodes if node.op == "placeholder" and node.name == "x")
    sizes = placeholder.meta["val"].shape
    for axis in EXAMPLES[name].axes:
        assert isinstance(sizes[axis], torch.SymInt)
    assert len({str(sizes[axis]) for axis in EXAMPLES[name].axes}) == len(EXAMPLES[name].axes)
    other = EXAMPLES[name].inputs(5, 11)
    with torch.no_grad():
        (found,) = exported.module()(other)
    np.testing.assert_allclose(found.numpy(), _runtime(path, other), rtol=1e-4, atol=1e-5)


def _graph(name: str, newer: bool, path: Path) -> fx.Graph:
    x = write(name, path, newer)
    module = OnnxModule.from_file(path)
    return torch.export.export(module, (x,), dynamic_shapes=module.dynamic_shapes()).graph


@pytest.mark.parametrize("newer", [False, True])
def test_origins_name_node_and_module(newer: bool, tmp_path: Path) -> None:
    graph = _graph("llama", newer, tmp_path / "model.onnx")
    products = [
        node for node in graph.nodes if node.target in (torch.ops.aten.matmul.default, torch.ops.aten.linear.default)
    ]
    origins = [origin_of_node(node) for node in products]
    assert all("MatMul" in origin.code or "Gemm" in origin.code for origin in origins)
    modules = {origin.module for origin in origins}
    assert {"model.model.layers.0.self_attn.q_proj", "model.model.layers.1.mlp.down_proj"} <= modules
    if newer:
        assert any(origin.file.endswith("modeling_llama.py") and origin.line for origin in origins)
        assert {origin.module_type for origin in origins} >= {"Linear"}


def test_attention_is_one_operation(tmp_path: Path) -> None:
    """As torch has it, so that the passes find it."""
    graph = _graph("encoder", True, tmp_path / "model.onnx")
    targets = [str(node.target) for node in graph.nodes]
    assert any("matmul" in each or "scaled_dot_product_attention" in each for each in targets)
