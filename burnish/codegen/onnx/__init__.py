"""Step programs to ONNX models."""

from burnish.codegen.onnx.lowering import lower, lower_to_model, output_name

__all__ = ["lower", "lower_to_model", "output_name"]
