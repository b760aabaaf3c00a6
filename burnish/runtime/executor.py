"""What runs the step graph."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import torch

from burnish.ir.errors import UsageError
from burnish.runtime.states import States

Wanted: TypeAlias = Literal["logits", "ids"]
"""What a step gives: logits[b, kept, vocabulary], or ids int64[b, kept], those of the greatest logits."""


class Executor(Protocol):
    """Runs one step of a compiled model."""

    device: torch.device  # where the states are
    in_place: bool  # new states are written over the old ones, never beside them

    def step(
        self,
        tokens: torch.Tensor,
        position: torch.Tensor,
        logits_index: torch.Tensor,
        states: States,
        wanted: Wanted = "logits",
    ) -> torch.Tensor:
        """Feed tokens[b, n] int64, whose row b has position[b] tokens before it; all inputs are contiguous, on
        the CPU.

        Gives what is `wanted` of the new tokens that logits_index[kept] names (at least one), in memory of the CPU
        that the next step may overwrite. `states` hold room for every row's new tokens and are advanced.
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
        self,
        tokens: torch.Tensor,
        position: torch.Tensor,
        logits_index: torch.Tensor,
        states: States,
        wanted: Wanted = "logits",
    ) -> torch.Tensor:
        """Raises UsageError."""
        raise UsageError(self.reason)

    def close(self) -> None:
        """See `Executor.close`: it holds nothing."""


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The ids int64[b, kept] of the greatest of logits[b, kept, vocabulary] on the CPU."""
    # numpy's operations on a row of logits cost a fraction of PyTorch's.
    scores = logits if logits.dtype == torch.float32 else logits.float()
    return torch.from_numpy(scores.numpy().argmax(-1))
