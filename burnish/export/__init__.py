"""Compiled models as ONNX files for others to run.

outward   a step program with pasts in and presents out
models    an artifact as an ONNX model, with names and metadata
files     the model as files, checked
genai     what onnxruntime-genai reads beside it
"""

from burnish.export.exporter import export

__all__ = ["export"]
