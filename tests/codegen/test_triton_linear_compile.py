"""Products compiled for GPUs that are not here, at the sizes of real models: what their machine code does."""

from __future__ import annotations

import re

import pytest
import torch

from burnish.codegen.triton.compile import compile_kernel, disassembly, resources
from burnish.codegen.triton.kernels.fused_linear import fused_linear_spec, tiles_for

TENSOR_CORES = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}


@pytest.mark.parametrize("architecture", TENSOR_CORES)
@pytest.mark.parametrize("size_k", [576, 4096], ids=["SmolLM2-135M", "Llama-3-8B"])
@pytest.mark.parametrize("rows", [1, 8, 512])
def test_gate_and_up_of_a_layer(rows: int, size_k: int, architecture: int) -> None:
    spec = fused_linear_spec(
        torch.bfloat16,
        size_k,
        tiles_for(rows, size_k),
        norm="rms",
        activation="silu",
        gated=True,
        has=frozenset({"norm_weight"}),
    )
    binary = compile_kernel(spec, architecture)
    machine = disassembly(binary)
    assert resources(binary).spill_bytes == 0
    wide = re.findall(r"(?:LDG\.E|LDGSTS\.E\.BYPASS)\.128", machine)
    assert len(wide) >= 8  # of the weight, 16 bytes each
    if rows > 8:
        assert TENSOR_CORES[architecture] in machine
    elif rows > 1:
        assert "HMMA" in machine
    else:
        assert not re.search(r"\bH\w*MMA", machine)  # a sum of products: bound by memory


@pytest.mark.parametrize("architecture", TENSOR_CORES)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("rows", [1, 8])
def test_weights_of_8_and_4_bits(rows: int, bits: int, architecture: int) -> None:
    tiles = tiles_for(rows, 4096, bits)
    spec = fused_linear_spec(
        torch.bfloat16, 4096, tiles, norm="rms", has=frozenset({"norm_weight"}), bits=bits, group=32
    )
    binary = compile_kernel(spec, architecture)
    machine = disassembly(binary)
    assert resources(binary).spill_bytes == 0
    assert len(re.findall(r"(?:LDG\.E|LDGSTS\.E\.BYPASS)[.\w]*\.128", machine)) >= (4 if rows == 1 else 1)
    assert bool(re.search(r"\bH\w*MMA", machine)) == (rows > 1)
