"""What ONNX Runtime makes of the model in an artifact when it loads it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime

from burnish.runtime.compiled_module import CompiledModule


def optimized_nodes(compiled: CompiledModule) -> Sequence[onnx.NodeProto]:
    """The nodes that it runs, in order."""
    with tempfile.TemporaryDirectory() as folder:
        compiled.save(Path(folder) / "it.burnish")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = f"{folder}/optimized.onnx"
        model = f"{folder}/it.burnish/model.onnx"
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath, load_external_data=False).graph.node
