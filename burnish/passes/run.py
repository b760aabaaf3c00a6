"""One compilation's passes and transforms, and the programs that what runs is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.base import Effect, Pass
from burnish.passes.pipeline import Failure, Observer, run_passes
from burnish.passes.pipelines import NARROWING
from burnish.passes.transforms.calibration import Calibration
from burnish.passes.transforms.transform import Transform, apply
from burnish.passes.verify import Verifier


def is_transform(each: Pass) -> TypeGuard[Transform]:
    """Whether a pass is a transform: it has a place among them, and may take calibration text."""
    return hasattr(each, "place")


class Run:
    """A program on its way through passes.

    program: as it is now.
    reference: after the last pass that changes the model by design; what runs gives its logits.
    exact: before the first pass that says in which numbers to compute, so that float32 holds for it.
    """

    def __init__(
        self,
        program: Program,
        trace: Trace,
        observer: Observer | None = None,
        on_failure: Callable[[Failure], None] | None = None,
        verify: bool = False,
        calibration: Calibration | None = None,
    ) -> None:
        """`verify`: compare the program before and after each pass, too."""
        self.program = self.reference = self.exact = program
        self._trace = trace
        self._observer = observer
        self._on_failure = on_failure
        self._verifier = Verifier(program) if verify else None
        self._calibration = calibration
        self._narrowed = False

    def passes(self, passes: Sequence[Pass]) -> None:
        """Run passes that are no transforms."""
        for each in passes:
            self.program = run_passes(
                self.program,
                [each],
                self._trace,
                self._observer,
                verifier=self._verifier,
                on_failure=self._on_failure,
            )
            if isinstance(each, NARROWING):
                self._narrowed = self._narrowed or bool(self._trace.passes[-1].rewrites)
            elif each.effect is Effect.LOSSY:
                self.reference = self.program
            if not self._narrowed:
                self.exact = self.program

    def transforms(self, transforms: Sequence[Transform]) -> None:
        """Run transforms, with what each costs on text."""
        self.program = apply(self.program, transforms, self._calibration, self._trace, self._observer)
        self.reference = self.exact = self.program
