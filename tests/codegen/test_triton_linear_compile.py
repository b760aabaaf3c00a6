"""Products compiled for GPUs that are not here, at the sizes of real models: what their machine code does."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from burnish.codegen.triton.compile import compile_kernel
from burnish.codegen.triton.kernels.fused_linear import fused_linear_spec
from burnish.codegen.triton.tiles import ProductTiles, Target, aimed_at, product_tiles
from burnish.ir.errors import UnsupportedError
from burnish.runtime.target_names import MULTIPROCESSORS_OF
from tests.codegen.machine_code import disassembly, spill_bytes

TENSOR_CORES = {80: "HMMA", 90: "HGMMA", 100: "UTCHMMA"}


def tiles_on(architecture: int, *sizes: int, **options: Any) -> ProductTiles:
    """Those of the table."""
    with aimed_at(Target((architecture,), MULTIPROCESSORS_OF[architecture])):
        return product_tiles(*sizes, **options)


@pytest.mark.parametrize("architecture", TENSOR_CORES)
@pytest.mark.parametrize(("size_n", "size_k"), [(3072, 576), (28672, 4096)], ids=["SmolLM2-135M", "Llama-3-8B"])
@pytest.mark.parametrize("rows", [1, 8, 32, 512])
def test_gate_and_up_of_a_layer(rows: int, size_n: int, size_k: int, architecture: int) -> None:
    spec = fused_linear_spec(
        torch.bfloat16,
        size_k,
        tiles_on(architecture, rows, size_n, size_k, norm="rms"),
        norm="rms",
        activation="silu",
        gated=True,
        has=frozenset({"norm_weight"}),
    )
    binary = compile_kernel(spec, architecture)
    machine = disassembly(binary)
    assert spill_bytes(binary) == 0
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
    tiles = tiles_on(architecture, rows, 4096, 4096, norm="rms", bits=bits, group=32)
    spec = fused_linear_spec(
        torch.bfloat16, 4096, tiles, norm="rms", has=frozenset({"norm_weight"}), bits=bits, group=32
    )
    binary = compile_kernel(spec, architecture)
    machine = disassembly(binary)
    assert spill_bytes(binary) == 0
    assert len(re.findall(r"(?:LDG\.E|LDGSTS\.E\.BYPASS)[.\w]*\.128", machine)) >= (4 if rows == 1 else 1)
    assert bool(re.search(r"\bH\w*MMA", machine)) == (rows > 1)


@pytest.mark.parametrize("architecture", [*TENSOR_CORES, 86, 120])
@pytest.mark.parametrize("rows", [32, 512])
def test_down_and_its_residual(rows: int, architecture: int) -> None:
    tiles = tiles_on(architecture, rows, 4096, 14336, residual=True)
    binary = compile_kernel(fused_linear_spec(torch.bfloat16, 14336, tiles, has=frozenset({"residual"})), architecture)
    assert spill_bytes(binary) == 0
    assert TENSOR_CORES.get(architecture, "HMMA") in disassembly(binary)


def test_large_tiles_are_for_many_rows_of_wide_weights() -> None:
    def shape(architecture: int, *sizes: int, **options: Any) -> tuple[int, int, int]:
        tiles = tiles_on(architecture, *sizes, **options)
        return tiles.rows, tiles.block_n, tiles.block_k

    assert shape(90, 512, 28672, 4096) == (128, 256, 64)
    assert shape(90, 512, 4096, 4096) == (128, 128, 64)  # by wide tiles, 64 programs for 132 multiprocessors
    assert shape(90, 512, 28672, 4096, residual=True) == (128, 128, 64)
    assert shape(80, 512, 28672, 4096) == (128, 128, 64)
    assert shape(86, 512, 28672, 4096) == (128, 128, 32)
    assert shape(90, 32, 28672, 4096) == (64, 64, 64)
    assert shape(90, 32, 4096, 4096) == (64, 32, 64)
    assert shape(90, 512, 4096, 4096, bits=4, group=128) == (64, 64, 128)  # a group is taken whole
    with aimed_at(Target((86, 90), 132)):
        assert product_tiles(512, 28672, 4096) == tiles_on(86, 512, 28672, 4096)


def test_what_does_not_fit_an_architecture_is_refused() -> None:
    spec = fused_linear_spec(torch.bfloat16, 4096, ProductTiles(128, 256, 64, 8, 4))
    with pytest.raises(UnsupportedError, match=r"shared memory, and a program on an sm_86 has 101,376"):
        compile_kernel(spec, 86)
