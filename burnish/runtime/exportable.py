"""What compiled models and modules have in common: they can be written as ONNX."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


class Exportable:
    """A compiled model or module."""

    def export(
        self,
        path: Path | str,
        flavor: Literal["standard", "ort"] = "standard",
        *,
        genai: bool = False,
        verify: bool = True,
    ) -> Path:
        """Write it as the ONNX file `path`, which plain ONNX Runtime runs, from any language; its path.

        Large weights lie beside it, in PATH.data. Inputs and outputs of a module have their names here; those of a
        language model, whose caches are inputs that grow from call to call, and metadata are called as the guide says.

        Args:
            path: the file, OUT.onnx; with `genai` it may be a folder.
            flavor: "standard" for ONNX's own operators (opset 24), "ort" for ONNX Runtime's where it has some.
            genai: write what onnxruntime-genai reads beside the model, too: genai_config.json and the tokenizer.
            verify: compare what ONNX Runtime gives with what this gives, for random inputs.

        Raises:
            UsageError: for an artifact that has to be compiled otherwise, which the message says how.
            UnsupportedError: for what ONNX, or the flavor, has no operators for.
        """
        from burnish.export import export  # which imports the compiler: few are asked for it

        return export(self, path, flavor, genai, verify)
