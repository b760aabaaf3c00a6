"""NVIDIA GPUs: a launch plan and its kernels, compiled for architectures, or run by Triton's interpreter."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from burnish.codegen.plan.planner import fallbacks
from burnish.codegen.triton.lower import lower, target_of
from burnish.codegen.triton.lowerings import KERNELS
from burnish.codegen.triton.targets import architectures_of
from burnish.codegen.triton.tile_file import VERSION, TileFile, Winner, encoded, winners_for
from burnish.ir.cost import is_view
from burnish.ir.errors import UsageError
from burnish.ir.program import Program, on_tensors
from burnish.ir.trace import Trace
from burnish.ir.weights import Cast, Stored
from burnish.passes.base import Pass
from burnish.passes.pipelines import default_passes
from burnish.passes.transforms.quantize import Quantize
from burnish.passes.transforms.quantize_readers import is_tied
from burnish.passes.transforms.transform import Transform
from burnish.runtime.executor_cuda import this_architecture
from burnish.runtime.kernel_files import architecture_for
from burnish.runtime.target_names import no_gpu
from burnish.runtime.weights_writer import WeightLayout
from burnish.targets.base import Lowered, Numbers, otherwise

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuTarget:
    """Kernels for `architectures` (80 for sm_80); for none, those that the interpreter runs on any machine."""

    architectures: tuple[int, ...]
    winners: Mapping[str, Winner | None] = field(default_factory=dict)  # tiles that `burnish tune` found

    @staticmethod
    def named(target: str, tiles: Path | str | None) -> GpuTarget:
        """The target "cuda", for this machine's GPU, or "cuda:sm_90,sm_80". UsageError if there is no such."""
        if target == "cuda":
            try:
                this_architecture()
            except UsageError as error:
                raise no_gpu(str(error).partition(":")[0]) from error
        architectures = architectures_of(target)
        return GpuTarget(architectures, {} if tiles is None else winners_for(tiles, architectures))

    @property
    def backend(self) -> Literal["cuda", "triton-interpret"]:
        """See `Target.backend`."""
        return "cuda" if self.architectures else "triton-interpret"

    @cached_property
    def unavailable(self) -> str | None:
        """See `Target.unavailable`."""
        if not self.architectures:
            return None
        names = ", ".join(f"sm_{each}" for each in self.architectures)
        try:
            here = this_architecture()
        except UsageError as reason:
            return f"the model was compiled for {names}, and {reason}"
        if architecture_for(here, list(self.architectures)) is None:
            return f"the model was compiled for {names}, and this GPU is an sm_{here}"
        return None

    def quantization(self, program: Program, numbers: Numbers) -> Quantize:
        """See `Target.quantization`: groups of 32 without zero points, which is what kernels read.

        A table of embeddings that gives the logits, too, stays in floats: it would be stored twice, as integers and to
        look rows up.
        """
        return Quantize(numbers, group=32, symmetric=numbers == "int4", head="float" if is_tied(program) else None)

    def passes(self, program: Program, dtype: torch.dtype | None, transforms: Sequence[Transform]) -> list[Pass]:
        """See `Target.passes`: in what the weights are in, and in bfloat16 where they become integers."""
        rounded = any(isinstance(each, Quantize) for each in transforms)
        own = torch.bfloat16 if rounded else dtype_of(program)
        return default_passes("cuda", dtype=dtype or own, transforms=transforms)

    def legal(self, step: Program) -> dict[str, str]:
        """See `Target.legal`: a node is a kernel's, another name of memory or of sizes, or it runs by PyTorch."""
        return {
            node.name: f"there is no kernel for {node.target}"
            for node in step.graph.nodes
            if node.op == "call_function" and node.target not in KERNELS and not is_view(node) and on_tensors(node)
        }

    def lower(self, step: Program, layout: WeightLayout, trace: Trace) -> Lowered:
        """See `Target.lower`: what its kernel refuses, and which winners were used, is told in the trace."""
        target = target_of(self.architectures, self.winners)
        code = lower(step, target)
        rest = fallbacks(code.plan).items() - self.legal(step).items()
        told = [otherwise(node, reason) for node, reason in sorted(rest)]
        if self.winners:
            known = {key: each for key, each in self.winners.items() if each is not None}
            used = {key: known[key] for key in target.used}
            told.append(f"burnish tune has {len(known)} winners for these GPUs, {len(used)} of them for this model")
            told += [f"not tuned: {key}: {reason}" for key, reason in target.skipped.items()]
            told += [f"tuned: {key}: {each.tiles}" for key, each in used.items()]
            code = replace(code, tiles=encoded(TileFile(VERSION, {f"sm_{each}": used for each in self.architectures})))
        trace.passes[-1] = replace(trace.passes[-1], notes=(*trace.passes[-1].notes, *told))
        for line in told:
            _log.info("%s", line)
        return Lowered("triton", code=code)


def dtype_of(program: Program) -> torch.dtype:
    """What most of the model's weights are in, by bytes, before they were widened; bfloat16 for quantized ones."""
    total: dict[torch.dtype, int] = {}
    for weight in program.weights.values():
        if weight.dtype.is_floating_point:
            source = weight.source if isinstance(weight, Cast) else weight
            dtype = source.dtype if isinstance(source, Stored) else torch.bfloat16
            total[dtype] = total.get(dtype, 0) + math.prod(weight.shape)
    return max(total, key=total.__getitem__, default=torch.float32)
