"""A fused step program as what an artifact has for GPUs: the launch plan and its kernels, compiled."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence

from burnish.codegen.triton.compile import MULTIPROCESSORS_OF, compile_all
from burnish.codegen.triton.planner import plan
from burnish.codegen.triton.spec import KernelSpec
from burnish.codegen.triton.tiles import Target
from burnish.ir.program import Program
from burnish.runtime.kernel_files import CompiledKernel, GpuCode


def lower(program: Program, architectures: Sequence[int]) -> GpuCode:
    """The plan of a step program, and machine code of its kernels for each of `architectures` (none: to interpret)."""
    target = Target(tuple(architectures), max((MULTIPROCESSORS_OF[each] for each in architectures), default=4))
    launches, specs = plan(program, target)
    kernels = {each: _compiled(specs, each) for each in architectures}
    return GpuCode(launches, kernels, _sources(specs))


def _compiled(specs: Mapping[str, KernelSpec], architecture: int) -> dict[str, tuple[CompiledKernel, bytes]]:
    return {
        key: (
            CompiledKernel(each.name, each.shared_bytes, each.num_warps, each.scratch_bytes, each.ptxas),
            each.cubin,
        )
        for key, each in compile_all(specs.values(), architecture).items()
    }


def _sources(specs: Mapping[str, KernelSpec]) -> dict[str, str]:
    """The modules that the kernels are from, by file name."""
    modules = {spec.function.fn.__module__ for spec in specs.values()}
    return {f"{name.rpartition('.')[2]}.py": inspect.getsource(sys.modules[name]) for name in sorted(modules)}
