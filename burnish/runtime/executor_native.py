"""A launch plan on CPUs, by the native kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from burnish.ir.errors import InvalidInputError, UsageError
from burnish.runtime.executor import Step, StepResult, of_last_step
from burnish.runtime.memory import NUMPY, Memory, View, bits, floats_of_bits
from burnish.runtime.native.launcher import NativeLauncher
from burnish.runtime.native.library import Library
from burnish.runtime.plan import Plan
from burnish.runtime.plan_runner import BoundStep, PlanRunner
from burnish.runtime.position_rows import RowTable
from burnish.runtime.processors import processors
from burnish.runtime.states import States

if TYPE_CHECKING:  # it takes numpy a while
    from numpy.typing import NDArray

    from burnish.runtime.backends import Accuracy


@dataclass
class _Bound:
    """A step on memory of its own for inputs of some sizes."""

    inputs: dict[str, NDArray[np.int64]]
    step: BoundStep
    result: NDArray[Any]

    def run(self, step: Step) -> StepResult:
        for name, values in step.inputs.items():
            self.inputs[name][...] = values
        self.step.run()
        return StepResult(self.step.kind, _values(self.step.result, self.result)).narrowed(step.wanted)


class NativeExecutor:
    """Steps of a plan on a team of threads."""

    memory: Memory = NUMPY
    in_place = True

    def __init__(
        self,
        plan: Plan,
        weights: Mapping[str, NDArray[Any]],
        library: Library,
        tables: Mapping[str, RowTable] | None = None,
        threads: int | None = None,
        accuracy: Accuracy | None = None,
    ) -> None:
        """`threads`: None for all processors.

        accuracy: "fast" rounds what is multiplied with integers to 8 bits, in groups of 32; "exact" (None) does not.
        Raises ArtifactError for a plan that is not for the library.
        """
        self.launcher = NativeLauncher(plan.kernels, library, threads or processors())
        self.launcher.rounded = accuracy == "fast"
        self._runner: PlanRunner | None = PlanRunner(plan, weights, NUMPY, self.launcher, tables)
        self._bound: WeakKeyDictionary[States, dict[tuple[object, ...], _Bound]] = WeakKeyDictionary()
        self._logits: WeakKeyDictionary[States, Callable[[], View]] = WeakKeyDictionary()

    def step(self, step: Step, states: States) -> StepResult:
        """See `Executor.step`."""
        if self._runner is None:
            raise UsageError("this compiled model was closed")
        sizes = step.sizes()
        if sizes["batch"] != states.batch:
            raise InvalidInputError(f"there are tokens for {sizes['batch']} rows, and states for {states.batch}")
        known = self._bound.setdefault(states, {})
        key = (sizes["sequence"], sizes["kept"], step.wanted)
        bound = known.get(key)
        if bound is None:
            bound = self._bind(step, states)
            if sizes["sequence"] > 1:  # of prompts the last, which its next piece may take
                for other in [each for each in known if each[0] != 1]:
                    del known[other]
            known[key] = bound
        result = bound.run(step)
        states.advance()
        self._logits[states] = bound.step.logits
        return result

    @contextmanager
    def computing(self, accuracy: Accuracy) -> Iterator[None]:
        """Within it the accuracy is this one."""
        rounded, self.launcher.rounded = self.launcher.rounded, accuracy == "fast"
        try:
            yield
        finally:
            self.launcher.rounded = rounded

    def logits(self, states: States) -> StepResult:
        """See `Executor.logits`."""
        view = of_last_step(self._logits, states)()
        return StepResult("logits", _values(view, bits(view)))

    def close(self) -> None:
        """See `Executor.close`."""
        self._runner = None
        self._bound.clear()
        self._logits.clear()
        self.launcher.close()

    def _bind(self, step: Step, states: States) -> _Bound:
        assert self._runner is not None
        inputs = {name: NUMPY.empty(values.shape, "int64") for name, values in step.inputs.items()}
        bound = self._runner.bind(Step(**inputs, wanted=step.wanted), states)
        return _Bound(inputs, bound, bits(bound.result))


def _values(view: View, array: NDArray[Any]) -> NDArray[Any]:
    """The numbers in the memory of a view, which an array is on."""
    return floats_of_bits(array) if view.dtype == "bfloat16" else array
