"""CPUs by our own kernels: a launch plan, and weights in the order in which they are multiplied."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from burnish.codegen.native.lowerings import FUNCTIONS, KERNELS, REGIMES
from burnish.codegen.plan import planner
from burnish.ir.cost import is_view
from burnish.ir.program import Program, on_tensors
from burnish.ir.trace import Trace
from burnish.passes.base import Pass
from burnish.passes.pipelines import default_passes
from burnish.passes.transforms.quantize import Quantize
from burnish.passes.transforms.transform import Transform
from burnish.runtime.kernel_files import PlannedCode
from burnish.runtime.weights_writer import WeightLayout
from burnish.targets.base import Lowered, Numbers, otherwise

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NativeTarget:
    """The kernels of `burnish.runtime.native`, on whatever processor loads the artifact."""

    backend: Literal["native"] = "native"

    @property
    def unavailable(self) -> None:
        """Every machine has a CPU."""
        return None

    def quantization(self, program: Program, numbers: Numbers) -> Quantize:
        """See `Target.quantization`."""
        return Quantize(numbers)

    def passes(self, program: Program, dtype: torch.dtype | None, transforms: Sequence[Transform]) -> list[Pass]:
        """See `Target.passes`: computes in float32, and stores floats in `dtype`, or all as the file has it."""
        return default_passes("native", dtype=dtype, transforms=transforms)

    def legal(self, step: Program) -> dict[str, str]:
        """See `Target.legal`: a node is a kernel's, another name of memory or of sizes, or it runs by PyTorch."""
        return {
            node.name: f"there is no kernel for {node.target}"
            for node in step.graph.nodes
            if node.op == "call_function" and node.target not in KERNELS and not is_view(node) and on_tensors(node)
        }

    def lower(self, step: Program, layout: WeightLayout, trace: Trace) -> Lowered:
        """See `Target.lower`: what its kernel refuses is told in the trace."""
        plan, _ = planner.plan(step, FUNCTIONS, REGIMES)
        rest = planner.fallbacks(plan).items() - self.legal(step).items()
        told = [otherwise(node, reason) for node, reason in sorted(rest)]
        trace.passes[-1] = replace(trace.passes[-1], notes=(*trace.passes[-1].notes, *told))
        for line in told:
            _log.info("%s", line)
        return Lowered("native", code=PlannedCode(plan))
