"""The best of a vocabulary compiled for GPUs that are not here, each round of it."""

from __future__ import annotations

import re

import pytest
import torch

from burnish.codegen.triton.compile import compile_kernel
from burnish.codegen.triton.kernels.top_scores import top_scores_spec
from tests.codegen.machine_code import disassembly, spill_bytes


@pytest.mark.parametrize(
    ("dtype", "size", "architecture"),
    [
        (torch.bfloat16, 128_256, 80),
        (torch.bfloat16, 128_256, 90),
        (torch.bfloat16, 128_256, 100),
        (torch.float32, 8192, 80),
        (torch.int64, 4096, 80),
    ],
    ids=str,
)
def test_rounds(dtype: torch.dtype, size: int, architecture: int) -> None:
    binary = compile_kernel(top_scores_spec(dtype, size, 128), architecture)
    assert spill_bytes(binary) == 0
    assert re.search(r"LDG\.E[.\w]*\.128", disassembly(binary)), "no 16-byte loads"
