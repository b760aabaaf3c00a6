"""What runs the step graph."""

from __future__ import annotations

from typing import Protocol

import torch

from burnish.runtime.states import States


class Executor(Protocol):
    """Runs one step of a compiled model."""

    def step(
        self, tokens: torch.Tensor, position: torch.Tensor, logits_index: torch.Tensor, states: States
    ) -> torch.Tensor:
        """Feed tokens[b, n] int64, whose row b has position[b] tokens before it; all inputs are contiguous.

        Gives logits[b, kept, vocabulary] of the new tokens that logits_index[kept] names (at least one), in memory
        that the next step may overwrite. `states` hold room for every row's new tokens and are advanced.
        """
        ...

    def close(self) -> None:
        """Free what the executor holds. It cannot step afterwards."""
        ...
