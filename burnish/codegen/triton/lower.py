"""A fused step program as what an artifact has for GPUs: the launch plan and its kernels, compiled."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence

from burnish.codegen.plan import planner
from burnish.codegen.triton.compile import compile_all
from burnish.codegen.triton.lowerings import FUNCTIONS, REGIMES
from burnish.codegen.triton.spec import KernelSpec, kernels_of
from burnish.codegen.triton.tile_file import Winner
from burnish.codegen.triton.tiles import Target, aimed_at
from burnish.ir.program import Program
from burnish.runtime.kernel_files import PlannedCode
from burnish.runtime.plan import Plan
from burnish.runtime.target_names import MULTIPROCESSORS_OF


def target_of(architectures: Sequence[int], winners: Mapping[str, Winner | None] | None = None) -> Target:
    """What kernels for `architectures` (none: to interpret) are planned for, with a file's winners by problem."""
    multiprocessors = max((MULTIPROCESSORS_OF[each] for each in architectures), default=4)
    return Target(
        tuple(architectures),
        multiprocessors,
        {key: None if each is None else each.tiles for key, each in (winners or {}).items()},
    )


def plan(program: Program, target: Target = Target(multiprocessors=4)) -> tuple[Plan, dict[str, KernelSpec]]:  # noqa: B008
    """The launch plan of a step program for a target, and its kernels by key. Raises as `planner.plan`."""
    with aimed_at(target):
        launches, specs = planner.plan(program, FUNCTIONS, REGIMES)
    return launches, kernels_of(specs)


def lower(program: Program, target: Target) -> PlannedCode:
    """The plan of a step program, and machine code of its kernels for each architecture of the target."""
    launches, specs = plan(program, target)
    kernels = {
        each: {key: binary.compiled for key, binary in compile_all(specs.values(), each).items()}
        for each in target.architectures
    }
    return PlannedCode(launches, kernels, _sources(specs))


def _sources(specs: Mapping[str, KernelSpec]) -> dict[str, str]:
    """The modules that the kernels are from, by file name."""
    modules = {spec.function.fn.__module__ for spec in specs.values()}
    return {f"{name.rpartition('.')[2]}.py": inspect.getsource(sys.modules[name]) for name in sorted(modules)}
