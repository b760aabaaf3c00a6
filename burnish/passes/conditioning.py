"""How far rounding alone moves a model's logits: nothing that adds in another order can be nearer than that."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from burnish.ir.program import Program
from burnish.ir.weights import Stored, Weight, Weights
from burnish.passes.verify import logits_of, relative_difference

_UNIT = 2.0**-24  # half of float32's step at 1: what a rounded number is off by, at most


def rounding_noise(program: Program, tokens: Tensor, logits: Tensor) -> float:
    """The largest difference of `logits`, relative to the largest, when each weight is off by half a unit in its last
    place, up or down at random: about what another order of additions does.
    """
    generator = torch.Generator().manual_seed(0)

    def moved(weight: Weight) -> Weight:
        values = weight.materialize()
        if values.dtype != torch.float32:
            return weight
        signs = torch.randint(0, 2, values.shape, generator=generator) * 2 - 1
        return Stored(values * (1 + _UNIT * signs))

    weights = {name: moved(weight) for name, weight in program.weights.items()}
    found = logits_of(replace(program, weights=Weights(weights)), tokens)
    return float(relative_difference(found.float(), logits).max())
