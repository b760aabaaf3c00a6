"""CPUs without kernels of our own: a model for ONNX Runtime, or the graph node by node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.base import Pass
from burnish.passes.pipelines import default_passes
from burnish.passes.transforms.quantize import Quantize
from burnish.passes.transforms.transform import Transform
from burnish.runtime.weights_writer import WeightLayout
from burnish.targets.base import Lowered, Numbers


@dataclass(frozen=True)
class CpuTarget:
    """`backend`: "onnxruntime", or "reference" for the graph node by node in PyTorch. `told`: why it is not native."""

    backend: Literal["onnxruntime", "reference"] = "onnxruntime"
    told: str = ""

    @property
    def unavailable(self) -> None:
        """Every machine has a CPU."""
        return None

    def quantization(self, program: Program, numbers: Numbers) -> Quantize:
        """See `Target.quantization`."""
        return Quantize(numbers)

    def passes(self, program: Program, dtype: torch.dtype | None, transforms: Sequence[Transform]) -> list[Pass]:
        """See `Target.passes`. CPUs compute in float32."""
        return default_passes("onnxruntime", transforms=transforms)

    def legal(self, step: Program) -> dict[str, str]:
        """See `Target.legal`. The reference runs whatever an artifact can hold."""
        if self.backend == "onnxruntime":
            from burnish.codegen.onnx.lowering import check_translated

            check_translated(step)
        return {}

    def lower(self, step: Program, layout: WeightLayout, trace: Trace) -> Lowered:
        """See `Target.lower`."""
        if self.told:
            trace.passes[-1] = replace(trace.passes[-1], notes=(*trace.passes[-1].notes, self.told))
        if self.backend == "reference":
            return Lowered("reference")
        from burnish.codegen.onnx import lower  # onnx takes most of a second to import: native kernels do without

        return Lowered("onnxruntime", model=lower(step, layout))
