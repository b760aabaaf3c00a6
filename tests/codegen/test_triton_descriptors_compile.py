"""Products through tensor descriptors, compiled for GPUs that are not here: what their machine code does."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from burnish.codegen.triton import compile as compiling
from burnish.codegen.triton.compile import Binary, compile_each, compile_kernel
from burnish.codegen.triton.kernels.fused_linear import fused_linear_spec
from burnish.codegen.triton.spec import KernelSpec
from burnish.codegen.triton.tile_candidates import descriptor_candidates
from burnish.codegen.triton.tiles import ProductTiles, Target, aimed_at
from burnish.ir.errors import UnsupportedError
from tests.codegen.machine_code import disassembly, spill_bytes

TENSOR_CORES = {90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
GATE_AND_UP: dict[str, Any] = {
    **{"norm": "rms", "activation": "silu", "gated": True},
    "has": frozenset({"norm_weight"}),
}
DOWN: dict[str, Any] = {"has": frozenset({"residual"})}


def spec_of(tiles: ProductTiles, **options: Any) -> KernelSpec:
    return fused_linear_spec(torch.bfloat16, 4096, tiles, **options)


@pytest.mark.parametrize("architecture", TENSOR_CORES)
def test_tiles_are_loaded_by_the_tensor_memory_accelerator(architecture: int) -> None:
    spec = spec_of(ProductTiles(128, 128, 64, 8, 3, descriptors=True), **GATE_AND_UP)
    binary = compile_kernel(spec, architecture)
    machine = disassembly(binary)
    assert machine.count("UTMALDG.2D") >= 2 * 3  # x and the weight, in three stages
    assert TENSOR_CORES[architecture] in machine
    assert spill_bytes(binary) <= (24 if architecture == 120 else 0)  # which the ptxas of Triton 3.6 takes
    assert binary.scratch_bytes == 2 * 128
    assert binary.num_warps == 8
    assert "setmaxnreg" not in binary.ptx


def test_a_launch_gives_scratch_memory_behind_the_arguments() -> None:
    """By pointers it is not read. The last parameter, for Triton's profiler, never is."""
    for descriptors in (True, False):
        binary = compile_kernel(spec_of(ProductTiles(128, 128, 64, 8, 3, descriptors=descriptors), **GATE_AND_UP), 90)
        count = len(binary.arguments)
        assert len(re.findall(rf"\.param .*{binary.name}_param_\d+", binary.ptx)) == count + 2
        read = {int(each) for each in re.findall(rf"ld\.param.*{binary.name}_param_(\d+)\]", binary.ptx)}
        assert (count in read) == descriptors
        assert count + 1 not in read
        assert bool(binary.scratch_bytes) == ("UTMALDG" in disassembly(binary)) == descriptors


@pytest.mark.parametrize(
    ("architecture", "options"),
    [(90, GATE_AND_UP), (90, DOWN), (100, GATE_AND_UP)],
    ids=["90, gate and up", "90, down", "100, gate and up"],
)
def test_specialized_candidates_have_warps_that_only_load(architecture: int, options: dict[str, Any]) -> None:
    """Other warps than those asked for, with registers of their own, and loads that are in one place of the program."""
    with aimed_at(Target((architecture,), 132)):
        candidates = descriptor_candidates(512, 4096, options.get("norm", "none"))
    specs = [spec_of(each, **options) for each in candidates if each.warp_specialize]
    found = compile_each(specs, architecture)
    assert len(specs) == {(90, True): 1, (90, False): 2, (100, True): 3}[architecture, "norm" in options]
    for spec in specs:
        binary = found[spec.key]
        assert isinstance(binary, Binary), binary
        assert "setmaxnreg.dec" in binary.ptx
        assert "setmaxnreg.inc" in binary.ptx
        assert binary.num_warps == spec.num_warps + (8 if architecture == 90 else 4)
        machine = disassembly(binary)
        assert TENSOR_CORES[architecture] in machine
        assert 2 <= machine.count("UTMALDG.2D") <= 3  # of stages there is a ring: on sm_90 x's 128 rows come as two


def test_a_kernel_that_tritons_compiler_cannot_make_is_none_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("PassManager::run failed")

    monkeypatch.setattr(compiling.triton, "compile", fails)
    spec = spec_of(ProductTiles(128, 128, 64, 4, 3, descriptors=True, warp_specialize=True), **GATE_AND_UP)
    (found,) = compile_each([spec], 90).values()
    with pytest.raises(UnsupportedError, match=r"fails to compile fused_linear_kernel for an sm_90 with 4 warps"):
        raise found  # type: ignore[misc]
