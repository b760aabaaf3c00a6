"""A weight with a product of two thin factors added: what an adapter makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from burnish.ir.weights import Stored, Weight


@dataclass(frozen=True, eq=False)
class LowRank:
    """source + scale * up @ down, computed in float32, in the source's dtype; `turned`: of sources [in, out].

    With magnitudes (DoRA, Liu et al., 2024) each output's row of that sum is scaled to have its magnitude as its norm.
    """

    source: Weight
    down: Weight  # [rank, in]
    up: Weight  # [out, rank]
    scale: float
    turned: bool = False
    magnitude: Weight | None = None  # [out]

    @staticmethod
    def of_bias(source: Weight, bias: Weight, scale: float) -> LowRank:
        """source[out] + scale * bias[out]."""
        return LowRank(source, Stored(torch.ones(1)), bias, scale)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.source.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.source.dtype

    def materialize(self) -> torch.Tensor:
        """The sum."""
        source, up, down = (each.materialize().float() for each in (self.source, self.up, self.down))
        added = self.scale * (up * down if source.dim() == 1 else up @ down)
        found = (source.T if self.turned else source) + added
        if self.magnitude is not None:
            norms = torch.linalg.vector_norm(found, dim=1)
            found *= (self.magnitude.materialize().float() / norms).unsqueeze(1)
        return (found.T if self.turned else found).to(self.dtype).contiguous()
