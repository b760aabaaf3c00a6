"""The choice of a token compiled for GPUs that are not here, at the vocabularies of real models."""

from __future__ import annotations

import re

import pytest
import torch

from burnish.codegen.triton.compile import compile_kernel
from burnish.codegen.triton.kernels.argmax import argmax_spec
from tests.codegen.machine_code import disassembly, spill_bytes


@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("size", [1024, 128_256, 262_144])
def test_vocabularies(size: int, dtype: torch.dtype, architecture: int) -> None:
    binary = compile_kernel(argmax_spec(dtype, size), architecture)
    assert spill_bytes(binary) == 0
    assert re.search(r"LDG\.E[.\w]*\.128", disassembly(binary)), "no 16-byte loads"
