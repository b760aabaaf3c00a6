"""How far results may be from what is right, by dtype, relative to the largest value: on any processor.

Wider vectors add in another order; what is the same up to that differs by a few units in the last place of the largest.
"""

from __future__ import annotations

import torch
from torch import Tensor

RELATIVE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


def assert_near(found: Tensor, expected: Tensor) -> None:
    """`found` is `expected`, up to the order of additions."""
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=RELATIVE[expected.dtype] * largest)
