"""What a compilation compares before it gives anything."""

from __future__ import annotations

from burnish.ir.errors import VerificationError
from burnish.ir.program import Program
from burnish.ir.trace import Check
from burnish.passes.run_plan import plan_run
from burnish.passes.verify import Verifier
from burnish.passes.verify_run import PRECISIONS, RunVerifier, has_integers, tolerance_of, verify_by_reference
from burnish.runtime.executor import Executor
from burnish.runtime.executor_native import NativeExecutor
from burnish.runtime.executor_reference import ReferenceExecutor


class CompilationChecks:
    """What a compilation compares before it gives anything: the executor of its target, and, where that rounds or is
    not here, the program that it was made of.
    """

    def __init__(
        self, captured: Program, exact: Program, lowered: Program, backend: str, unavailable: str | None
    ) -> None:
        """`exact`: the step program before it is said in which numbers to compute; `unavailable`: why no backend."""
        self.exact, self.lowered = exact, lowered
        self.backend, self.unavailable = backend, unavailable
        self.verifier = RunVerifier(captured, plan_run(captured, exact))
        # Native kernels may round what they multiply with integers, to 8 bits: what they compute is checked without.
        self.unrounded = backend == "native" and has_integers(lowered)
        self.tolerance = tolerance_of(lowered, eight_bits=backend == "onnxruntime")
        self.rounds = self.tolerance > PRECISIONS["float32"]
        self.slow = backend == "triton-interpret"  # seconds a token

    def planned(self) -> list[Check]:
        """All that `make` will compare, and what not, in words."""
        ran = f"the backend {self.backend}"
        plan, nodes = self.verifier.plan, "the program, node by node in float32"
        by_nodes = plan.checks(nodes) if Verifier.fits(self.exact) else self._brief(nodes)
        if self.unavailable is not None:
            found = [*by_nodes, Check(f"{ran}: {self.unavailable}", "")]
            return found if self.lowered is self.exact else [*found, *self._brief("the lowered program, node by node")]
        if self.slow:
            return [*by_nodes, *self._brief(ran)]
        if self.unrounded:
            found = plan.checks(f"{ran}, activations in floats")
            return [*found, *self._brief(f"{ran}, activations in 8 bits"), *(by_nodes if self.rounds else [])]
        return [*plan.checks(ran), *(by_nodes if self.rounds else [])]

    def _brief(self, by: str) -> list[Check]:
        return [Check("a short text and one more token", by)]

    def make(self, executor: Executor) -> None:
        """Compare; VerificationError, with the stage that the fault is in, where something differs."""
        ran = f"the backend {self.backend}"
        if self.unavailable is not None or self.slow or self.rounds:
            verify_by_reference(self.verifier.captured, self.exact, self.verifier)
        if self.unavailable is not None:
            if self.lowered is not self.exact:
                by = "the lowered program, run node by node,"
                self.verifier.verify(self.lowered, ReferenceExecutor(self.lowered), self.tolerance, by, briefly=True)
            return
        try:
            if self.unrounded:
                assert isinstance(executor, NativeExecutor)
                with executor.computing("exact"):
                    self.verifier.verify(self.lowered, executor, self.tolerance, f"{ran}, activations in floats,")
                with executor.computing("fast"):
                    self.verifier.verify(self.lowered, executor, PRECISIONS["8 bits"], ran, briefly=True)
                return
            self.verifier.verify(self.lowered, executor, self.tolerance, ran, briefly=self.slow)
        except VerificationError as error:
            raise VerificationError(f"{error}. {self._stage()}") from error

    def _stage(self) -> str:
        try:
            verify_by_reference(self.verifier.captured, self.exact, self.verifier)
        except VerificationError:
            return "So does the program when it is run node by node: the fault is in a pass (burnish bisect finds it)"
        if self.rounds:
            by = "the program, run node by node with its roundings,"
            try:
                self.verifier.verify(self.lowered, ReferenceExecutor(self.lowered), self.tolerance, by)
            except VerificationError:
                return ROUNDING
        return "The program is right when it is run node by node: the fault is in the code made of it or what runs it"


ROUNDING = (
    "So does the program when it is run node by node with the same rounding, and without rounding it is right: this "
    "model does not bear numbers of so few bits. Compile it in wider ones (without quantize=, transforms= or dtype=); "
    "verify=False compiles it unseen"
)
"""Where an executor does what was asked for, and that is too coarse."""
