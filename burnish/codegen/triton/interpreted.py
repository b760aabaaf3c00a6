"""A launch plan by Triton's interpreter: slow, on any machine, and the numbers of the kernels themselves."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from weakref import WeakKeyDictionary

import torch

from burnish.codegen.triton.fused_elementwise import MODULES
from burnish.codegen.triton.interpreting import interpret
from burnish.codegen.triton.lower import plan as plan_again
from burnish.codegen.triton.spec import KernelSpec
from burnish.ir.errors import ArtifactError, UsageError
from burnish.ir.position_table import PositionTable
from burnish.ir.program import Program
from burnish.runtime.executor import Step, StepResult, of_last_step
from burnish.runtime.memory import Memory
from burnish.runtime.plan import Kernel, Plan
from burnish.runtime.plan_runner import BoundLaunch, BoundStep, PlanRunner
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU, inputs_of

_KERNELS = ("burnish.codegen.triton.kernels.", f"{MODULES}.")


class InterpretedLauncher:
    """Runs kernels from their sources, which are this package's own."""

    def __init__(self, kernels: Mapping[str, Kernel]) -> None:
        """Raises UsageError unless Triton interprets in this process, ArtifactError where a kernel is none of ours."""
        interpret()
        self._specs = {key: _spec(key, kernel) for key, kernel in kernels.items()}
        self.count = 0

    def prepare(self, launches: Sequence[BoundLaunch]) -> Callable[[], None]:
        """See `Launcher.prepare`."""

        def run() -> None:
            for each in launches:
                self.launch(each.kernel, each.grid, each.arguments)

        return run

    def launch(self, kernel: str, grid: tuple[int, int, int], arguments: Sequence[torch.Tensor | int | float]) -> None:
        """Run the kernel with that key."""
        self.count += 1
        self._specs[kernel].launch(grid, *arguments)


class InterpretedExecutor:
    """Steps of a plan on the CPU."""

    memory: Memory = ON_CPU
    in_place = True

    def __init__(
        self, plan: Plan, weights: Mapping[str, torch.Tensor], tables: Mapping[str, PositionTable] | None = None
    ) -> None:
        self.launcher = InterpretedLauncher(plan.kernels)
        self._runner: PlanRunner | None = PlanRunner(plan, weights, ON_CPU, self.launcher, tables)
        self._last: WeakKeyDictionary[States, BoundStep] = WeakKeyDictionary()

    def step(self, step: Step, states: States) -> StepResult:
        """See `Executor.step`."""
        if self._runner is None:
            raise UsageError("this compiled model was closed")
        self._last[states] = bound = self._runner.bind(Step(**inputs_of(step), wanted=step.wanted), states)
        bound.run()
        return StepResult(bound.kind, bound.result).narrowed(step.wanted)

    def logits(self, states: States) -> StepResult:
        """See `Executor.logits`."""
        return StepResult("logits", of_last_step(self._last, states).logits())

    def close(self) -> None:
        """See `Executor.close`."""
        self._runner = None
        self._last.clear()


def generate_kernels(plan: Plan, program: Program) -> None:
    """Make the kernels of a plan that are generated: from the program, since an artifact's own source is not run."""
    wanted = {kernel.module for kernel in plan.kernels.values() if kernel.module.startswith(f"{MODULES}.")}
    if not wanted <= sys.modules.keys():
        plan_again(program)


def _spec(key: str, kernel: Kernel) -> KernelSpec:
    if not kernel.module.startswith(_KERNELS):
        raise ArtifactError(
            f"the launch plan's kernel {key} is from {kernel.module}, which is not one of burnish's own"
        )
    try:
        function = getattr(importlib.import_module(kernel.module), kernel.function)
    except (ImportError, AttributeError) as error:
        raise ArtifactError(f"this burnish has no kernel {kernel.function} in {kernel.module}: {error}") from error
    return KernelSpec(
        function,
        kernel.arguments,
        kernel.constants,
        frozenset(kernel.aligned),
        kernel.num_warps,
        kernel.num_stages,
    )
