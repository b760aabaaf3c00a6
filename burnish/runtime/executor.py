"""What runs the step graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import numpy as np
import torch

from burnish.ir.errors import UsageError
from burnish.runtime.states import States

Wanted: TypeAlias = Literal["logits", "ids", "top"]
"""What a step gives: logits[b, kept, vocabulary], or ids int64[b, kept], those of the greatest logits, or the top.

That is int32[b, kept, 2, TOP or the vocabulary], in the order of ids: bits of the greatest logits as float32, ids.
"""

TOP = 128  # twice the most that sampling asks for: what is level with the last of them has to be there, too


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step gave: `kind` says what the values are."""

    kind: Wanted
    values: torch.Tensor

    def narrowed(self, wanted: Wanted) -> StepResult:
        """What is `wanted` of it: itself, or chosen here from its logits."""
        if self.kind == wanted:
            return self
        assert self.kind == "logits", f"{wanted} cannot be had of {self.kind}"
        return StepResult(wanted, narrowed(self.values, wanted))


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
    ) -> StepResult:
        """Feed tokens[b, n] int64, whose row b has position[b] tokens before it; all inputs are contiguous, on
        the CPU.

        Gives what is `wanted` of the new tokens that logits_index[kept] names (at least one), in memory of the CPU
        that the next step may overwrite. `states` hold room for every row's new tokens and are advanced.
        """
        ...

    def logits(self) -> torch.Tensor:
        """All logits of the last step, whatever was wanted of it, in memory as `step` gives it."""
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
    ) -> StepResult:
        """Raises UsageError."""
        raise UsageError(self.reason)

    def logits(self) -> torch.Tensor:
        """Raises UsageError."""
        raise UsageError(self.reason)

    def close(self) -> None:
        """See `Executor.close`: it holds nothing."""


def narrowed(logits: torch.Tensor, wanted: Wanted) -> torch.Tensor:
    """What is `wanted` of logits[b, kept, vocabulary] on the CPU."""
    if wanted == "logits":
        return logits
    # numpy's operations on a row of logits cost a fraction of PyTorch's.
    scores = (logits if logits.dtype == torch.float32 else logits.float()).numpy()
    if wanted == "ids":
        return torch.from_numpy(scores.argmax(-1))
    count = min(TOP, scores.shape[-1])
    found = np.empty((*scores.shape[:-1], 2, count), np.int32)
    for place in np.ndindex(*scores.shape[:-1]):
        row = scores[place]
        least = np.partition(row, len(row) - count)[len(row) - count]
        ids = np.flatnonzero(~(row < least))  # and what is level with the last, of which the first stay
        ids = np.sort(ids[np.argsort(-row[ids], kind="stable")[:count]])
        found[place] = row[ids].view(np.int32), ids
    return torch.from_numpy(found)
