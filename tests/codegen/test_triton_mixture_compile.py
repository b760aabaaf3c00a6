"""Kernels of mixtures of experts compiled for GPUs that are not here, at the sizes of Mixtral 8x7B."""

from __future__ import annotations

import re

import pytest
import torch

from burnish.codegen.triton.compile import compile_kernel
from burnish.codegen.triton.kernels.gather import gather_spec
from burnish.codegen.triton.kernels.moe_linear import moe_linear_spec
from burnish.codegen.triton.kernels.scatter import scatter_spec
from burnish.codegen.triton.kernels.topk import topk_spec
from burnish.codegen.triton.kernels.zeros_like import zeros_like_spec
from burnish.codegen.triton.spec import KernelSpec
from burnish.codegen.triton.tiles import expert_tiles
from tests.codegen.machine_code import disassembly, spill_bytes

ARCHITECTURES = (80, 90, 100)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("in_contiguous", [True, False], ids=["[experts, out, in]", "[experts, in, out]"])
@pytest.mark.parametrize(("size_n", "size_k", "shared_x"), [(2 * 14336, 4096, True), (4096, 14336, False)])
def test_experts_read_16_bytes_at_a_time(
    size_n: int, size_k: int, shared_x: bool, in_contiguous: bool, architecture: int
) -> None:
    spec = moe_linear_spec(
        torch.bfloat16,
        torch.int64,
        size_n,
        size_k,
        expert_tiles(size_n, size_k, in_contiguous),
        shared_x=shared_x,
        has_bias=not in_contiguous,
        in_contiguous=in_contiguous,
    )
    binary = compile_kernel(spec, architecture)
    wide = re.findall(r"(?:LDG\.E|LDGSTS\.E\.BYPASS)[.\w]*\.128", disassembly(binary))
    assert spill_bytes(binary) == 0
    assert len(wide) >= 8


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "spec",
    [
        topk_spec(torch.float32, 8, 2),
        topk_spec(torch.bfloat16, 256, 8),
        topk_spec(torch.float32, 1024, 64, largest=False),
        gather_spec(torch.float32),
        gather_spec(torch.bool),
        scatter_spec(torch.float32, 256, has_source=False),
        scatter_spec(torch.bfloat16, 256, has_source=False),
        scatter_spec(torch.bool, 256, has_source=False),
        scatter_spec(torch.bfloat16, 2000, has_source=True),
        zeros_like_spec(torch.bfloat16),
        zeros_like_spec(torch.bool),
    ],
    ids=lambda spec: f"{spec.name}-{next(iter(spec.arguments.values()))}",
)
def test_the_choice_of_experts_does_not_spill(spec: KernelSpec, architecture: int) -> None:
    assert spill_bytes(compile_kernel(spec, architecture)) == 0
