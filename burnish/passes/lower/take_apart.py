"""What ONNX has no operators for is taken apart, until all has some, or is PyTorch's own."""

from __future__ import annotations

from burnish.codegen.onnx.lowering import untranslated
from burnish.passes.lower.decompose import Decompose
from burnish.passes.raise_.clean import Clean
from burnish.passes.run import Run


def take_apart(run: Run) -> None:
    """Take apart what ONNX has no operators for, and what is in that, until all has some, or is PyTorch's own."""
    before: set[str] = set()
    while left := {str(node.target) for node, _ in untranslated(run.program)} - before:
        run.passes([Decompose(tuple(sorted(left))), Clean()])
        before |= left
