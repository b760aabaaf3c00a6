"""Kernels of convolutions and running totals compiled for GPUs that are not here, at the sizes of LFM2 1.2B."""

from __future__ import annotations

import re

import pytest
import torch

from burnish.codegen.triton.compile import compile_kernel
from burnish.codegen.triton.kernels.conv1d import conv1d_spec
from burnish.codegen.triton.kernels.cumsum import cumsum_spec
from burnish.codegen.triton.spec import KernelSpec
from tests.codegen.machine_code import disassembly, spill_bytes


@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize(
    "spec",
    [
        conv1d_spec(torch.bfloat16, (2048, 1, 3), 1, 2048, has_bias=False, one_token=True),
        conv1d_spec(torch.bfloat16, (2048, 1, 3), 1, 2048, has_bias=True, one_token=False),
        conv1d_spec(torch.float16, (1280, 128, 2), 2, 10, has_bias=True, one_token=False),
        cumsum_spec(torch.bool, torch.int64),
        cumsum_spec(torch.bfloat16, torch.bfloat16),
    ],
    ids=["a token", "a prompt", "groups", "bool", "bfloat16"],
)
def test_it_compiles_and_spills_nothing(spec: KernelSpec, architecture: int) -> None:
    binary = compile_kernel(spec, architecture)
    assert spill_bytes(binary) == 0
    assert re.search(r"\bSTG\.E", disassembly(binary))
