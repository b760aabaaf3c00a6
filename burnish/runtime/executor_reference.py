"""The reference executor: the step graph, node by node, in PyTorch. Slow, and what the others are compared with."""

from __future__ import annotations

from weakref import WeakKeyDictionary

import torch

from burnish.ir.errors import UsageError
from burnish.ir.interpreter import run_by_name
from burnish.ir.program import Program
from burnish.runtime.executor import Step, StepResult, Wanted, of_last_step
from burnish.runtime.memory import Memory
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU, inputs_of


class ReferenceExecutor:
    """Runs the step graph with the interpreter of `burnish.ir`, over memory-mapped weights."""

    memory: Memory = ON_CPU
    in_place = False

    def __init__(self, program: Program) -> None:
        self._program: Program | None = program
        self._logits: WeakKeyDictionary[States, torch.Tensor] = WeakKeyDictionary()

    def step(self, step: Step, states: States) -> StepResult:
        """See `Executor.step`: by the graph's own results, where it has what is wanted."""
        if self._program is None:
            raise UsageError("this compiled model was closed")
        found = run_by_name(self._program, inputs_of(step) | states.named, {step.wanted, "logits"})
        for spec, buffer in zip(states.specs, states.present, strict=True):
            buffer.copy_(found[spec.name])
        states.advance()
        self._logits[states] = found["logits"]
        kind: Wanted = step.wanted if step.wanted in found else "logits"
        return StepResult(kind, found[kind]).narrowed(step.wanted)

    def logits(self, states: States) -> StepResult:
        """See `Executor.logits`."""
        return StepResult("logits", of_last_step(self._logits, states))

    def close(self) -> None:
        """See `Executor.close`."""
        self._program = None
        self._logits.clear()
