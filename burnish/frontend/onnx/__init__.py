"""ONNX files as modules that `torch.export` takes."""

from burnish.frontend.onnx.module import OnnxModule, TensorSpec
from burnish.frontend.onnx.read import read_bytes, read_file

__all__ = ["OnnxModule", "TensorSpec", "read_bytes", "read_file"]
