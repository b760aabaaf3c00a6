"""CPUs by our own kernels: a launch plan, and weights in the order in which they are multiplied."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch

from burnish.codegen.native.lowerings import FUNCTIONS, KERNELS, REGIMES
from burnish.codegen.plan import planner
from burnish.ir.cost import is_view
from burnish.ir.errors import NativeBuildError, UsageError
from burnish.ir.program import Program, on_tensors
from burnish.ir.trace import Check, Trace
from burnish.passes.base import Pass
from burnish.passes.pipelines import default_passes
from burnish.passes.transforms.quantize import Quantize
from burnish.passes.transforms.transform import Transform
from burnish.runtime.kernel_files import PlannedCode
from burnish.runtime.native.build import build, check_buildable, name_of
from burnish.runtime.native.library import levels, own_library
from burnish.runtime.target_names import levels_named
from burnish.runtime.weights_writer import WeightLayout
from burnish.targets.base import Lowered, Numbers, otherwise

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NativeTarget:
    """The kernels of `burnish.runtime.native`, on whatever processor loads the artifact.

    `brought`: instruction sets that the artifact has the kernels for, too, as machine code.
    """

    brought: tuple[str, ...] = ()
    backend: Literal["native"] = "native"

    @staticmethod
    def named(target: str) -> NativeTarget:
        """The target "cpu:x86-64-v4,cpu:aarch64": its libraries are built now, where they are not there yet.

        Raises UsageError if there is no such, NativeBuildError where a compiler is missing, or fails.
        """
        found = NativeTarget(levels_named(target))
        check_buildable(found.brought)
        with ThreadPoolExecutor() as pool:
            list(pool.map(build, found.brought))
        return found

    @cached_property
    def unavailable(self) -> str | None:
        """See `Target.unavailable`. Without kernels of its own an artifact is for who has some."""
        if not self.brought or self._running is not None:
            return None
        try:
            own_library()
        except (NativeBuildError, UsageError) as error:
            return f"the model was compiled for {', '.join(self.brought)}, and here {error}"
        return None

    @property
    def _running(self) -> str | None:
        """Of the instruction sets that it brings the one that runs here."""
        try:
            return next((level for level in levels() if level in self.brought), None)
        except UsageError:  # this is no Linux
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
        unseen = [level for level in self.brought if level != self._running]
        trace.checks += [Check(f"the kernels for {level} that the artifact brings", "") for level in unseen]
        libraries = {name_of(level): build(level).read_bytes() for level in self.brought}
        return Lowered("native", code=PlannedCode(plan, libraries=libraries))
