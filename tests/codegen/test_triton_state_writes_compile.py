"""Kernels that write states, and what rings hold, compiled for GPUs that are not here."""

from __future__ import annotations

import pytest
import torch

from burnish.codegen.triton.compile import compile_kernel
from burnish.codegen.triton.kernels.cache_write import cache_write_spec
from burnish.codegen.triton.kernels.paged_write import paged_write_spec
from burnish.codegen.triton.kernels.ring_positions import ring_positions_spec
from tests.codegen.machine_code import spill_bytes

ARCHITECTURES = [80, 90, 100]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize(("size", "block_tokens"), [(128, 1), (128, 16), (80, 16), (4096, 1)])
def test_states_are_written_without_spills(size: int, block_tokens: int, ring: bool, architecture: int) -> None:
    spec = cache_write_spec(torch.bfloat16, torch.bfloat16, size, block_tokens, ring)
    assert spill_bytes(compile_kernel(spec, architecture)) == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(("size", "block_tokens"), [(128, 1), (80, 16)])
def test_pages_are_written_without_spills(size: int, block_tokens: int, architecture: int) -> None:
    spec = paged_write_spec(torch.bfloat16, torch.bfloat16, torch.int32, size, block_tokens)
    assert spill_bytes(compile_kernel(spec, architecture)) == 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("size", [128, 4096])
def test_ring_positions_without_spills(size: int, architecture: int) -> None:
    block = min(1024, 2 * size)  # as the host function chooses it
    assert spill_bytes(compile_kernel(ring_positions_spec(size, block), architecture)) == 0
