"""What runs the step graph."""

from __future__ import annotations

from typing import Protocol

import torch

from burnish.ir.errors import UsageError
from burnish.runtime.states import States


class Executor(Protocol):
    """Runs one step of a compiled model."""

    device: torch.device  # where the states are
    in_place: bool  # new states are written over the old ones, never beside them

    def step(
        self, tokens: torch.Tensor, position: torch.Tensor, logits_index: torch.Tensor, states: States
    ) -> torch.Tensor:
        """Feed tokens[b, n] int64, whose row b has position[b] tokens before it; all inputs are contiguous, on
        the CPU.

        Gives logits[b, kept, vocabulary] of the new tokens that logits_index[kept] names (at least one), in memory
        of the CPU that the next step may overwrite. `states` hold room for every row's new tokens and are advanced.
        """
        ...

    def close(self) -> None:
        """Free what the executor holds. It cannot step afterwards."""
        ...


class UnavailableExecutor:
    """For an artifact that was compiled for another machine: it says so when it is asked to run."""

    device = torch.device("cpu")
    in_place = False

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def step(
        self, tokens: torch.Tensor, position: torch.Tensor, logits_index: torch.Tensor, states: States
    ) -> torch.Tensor:
        """Raises UsageError."""
        raise UsageError(self.reason)

    def close(self) -> None:
        """See `Executor.close`: it holds nothing."""
