"""The reference executor: the step graph, node by node, in PyTorch. Slow, and what the others are compared with."""

from __future__ import annotations

import torch

from burnish.ir.errors import UsageError
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.runtime.executor import Wanted, narrowed
from burnish.runtime.states import States


class ReferenceExecutor:
    """Runs the step graph with the interpreter of `burnish.ir`, over memory-mapped weights."""

    device = torch.device("cpu")
    in_place = False

    def __init__(self, program: Program) -> None:
        self._program: Program | None = program
        self._logits = torch.empty(0)

    def step(
        self,
        tokens: torch.Tensor,
        position: torch.Tensor,
        logits_index: torch.Tensor,
        states: States,
        wanted: Wanted = "logits",
    ) -> torch.Tensor:
        """See `Executor.step`."""
        if self._program is None:
            raise UsageError("this compiled model was closed")
        logits, *after = run(self._program, [tokens, position, logits_index, *states.past])
        for buffer, new in zip(states.present, after, strict=True):
            buffer.copy_(new)
        states.advance()
        assert isinstance(logits, torch.Tensor)
        self._logits = logits
        return narrowed(logits, wanted)

    def logits(self) -> torch.Tensor:
        """See `Executor.logits`."""
        return self._logits

    def close(self) -> None:
        """See `Executor.close`."""
        self._program = None
