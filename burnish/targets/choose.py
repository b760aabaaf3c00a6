"""The target that the options of a compilation name."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from burnish.ir.errors import NativeBuildError, UsageError
from burnish.runtime.backends import Backend
from burnish.runtime.native.library import own_library
from burnish.runtime.target_names import check_options
from burnish.targets.base import Target
from burnish.targets.cpu import CpuTarget
from burnish.targets.native import NativeTarget

_log = logging.getLogger(__name__)


def choose(
    target: str, backend: Backend | None, dtype: torch.dtype | None, quantize: str | None, tiles: Path | str | None
) -> Target:
    """What to compile for. Raises UsageError where the options do not fit together. For them see `burnish.compile`."""
    check_options(target, backend, quantize, tiles)
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise UsageError(f"there is no computing in {dtype}: there are float32, bfloat16 and float16")
    if target.startswith("cpu:"):
        return NativeTarget.named(target)
    if target != "cpu":
        from burnish.targets.gpu import GpuTarget  # imports triton, which CPUs do without

        return GpuTarget.named(target, tiles)
    if backend == "triton-interpret":
        from burnish.codegen.triton.interpreting import interpret

        interpret()
        from burnish.targets.gpu import GpuTarget  # after that: triton either interprets or compiles

        return GpuTarget(())
    if backend == "native":
        return NativeTarget()
    assert backend != "cuda"  # check_options refused it
    told = ""
    if backend is None:
        try:
            own_library()
            return NativeTarget()
        except (NativeBuildError, UsageError) as error:
            told = f"ONNX Runtime executes it, and not native kernels: {error}"
    if dtype not in (None, torch.float32):
        instead = f"leave dtype={dtype} out, or run it by native kernels or a GPU"
        raise UsageError(f"ONNX Runtime computes in float32: {instead}" + (f" ({told})" if told else ""))
    if told:
        _log.warning("%s", told)
    return CpuTarget(backend or "onnxruntime", told)
