"""Rows of an operand as products read them: with one stride from each to the next."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true


def rows_of(x: Tensor) -> tuple[Tensor, Any]:
    """x, copied unless one stride leads from each row to the next, and that stride.

    So a part of each row of a product, which is what projections that were packed give, is read where it is.
    """
    steps = [(x.stride(axis), x.stride(axis + 1) * x.shape[axis + 1]) for axis in range(x.dim() - 2)]
    if not all(statically_known_true(step == expected) for step, expected in [(x.stride(-1), 1), *steps]):
        x = x.contiguous()
    return x, x.shape[-1] if x.is_contiguous() else x.stride(-2)
