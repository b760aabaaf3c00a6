"""Kernels compiled ahead of time for GPUs that are not here; what the machine code shows."""

from __future__ import annotations

import pytest
import torch

from burnish.codegen.triton.compile import compile_all, compile_kernel
from burnish.codegen.triton.kernels.rms_norm import rms_norm_spec
from burnish.ir.errors import UsageError
from burnish.runtime.target_names import ARCHITECTURES
from tests.codegen.machine_code import disassembly, spill_bytes


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_kernel_compiles_without_a_gpu(architecture: int) -> None:
    binary = compile_kernel(rms_norm_spec(torch.bfloat16, torch.bfloat16, 4096), architecture)
    assert binary.cubin[:4] == b"\x7fELF"
    assert f"sm_{architecture}" in binary.ptx
    assert binary.name == "rms_norm_kernel"
    assert [name for name, _ in binary.arguments] == ["x_ptr", "weight_ptr", "out_ptr", "eps", "size"]
    assert spill_bytes(binary) == 0
    assert ".128" in disassembly(binary)  # 16 bytes a load


def test_without_the_promise_of_alignment_loads_are_narrow() -> None:
    """What the check for wide loads is worth: it can fail."""
    binary = compile_kernel(rms_norm_spec(torch.bfloat16, torch.bfloat16, 4097), 90)
    assert "LDG.E.128" not in disassembly(binary)


def test_equal_kernels_are_compiled_once() -> None:
    specs = [rms_norm_spec(torch.float16, torch.float16, size) for size in (256, 512, 256, 256)]
    binaries = compile_all(specs, 80)
    assert len(binaries) == 2
    assert set(binaries) == {spec.key for spec in specs}


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(UsageError, match="there is no target sm_42; known are sm_80"):
        compile_kernel(rms_norm_spec(torch.float16, None, 64), 42)
