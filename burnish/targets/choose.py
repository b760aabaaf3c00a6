"""The target that the options of a compilation name."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import get_args

import torch

from burnish.ir.errors import NativeBuildError, UsageError
from burnish.runtime.backends import Backend
from burnish.runtime.native.library import best_level, library
from burnish.targets.base import Numbers, Target
from burnish.targets.cpu import CpuTarget
from burnish.targets.native import NativeTarget

_log = logging.getLogger(__name__)


def choose(
    target: str, backend: Backend | None, dtype: torch.dtype | None, quantize: str | None, tiles: Path | str | None
) -> Target:
    """What to compile for. Raises UsageError where the options do not fit together. For them see `burnish.compile`."""
    if quantize is not None and quantize not in get_args(Numbers):
        raise UsageError(f"there is no quantization {quantize!r}: there are int8, int4 and fp8")
    if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise UsageError(f"there is no computing in {dtype}: there are float32, bfloat16 and float16")
    if target == "cpu" and tiles is not None:
        raise UsageError(f"{tiles} has tiles for GPUs: give target='cuda', or leave tiles out")
    if target != "cpu":
        if backend not in (None, "cuda"):
            what = f"target={target!r} is executed by the backend cuda, not by {backend}"
            raise UsageError(f"{what}: leave one of them out")
        from burnish.targets.gpu import GpuTarget  # imports triton, which CPUs do without

        return GpuTarget.named(target, tiles)
    if backend == "cuda":
        raise UsageError("backend='cuda' needs target='cuda', or target='cuda:sm_90' for the GPU of that name")
    if backend == "triton-interpret":
        from burnish.codegen.triton.interpreting import interpret

        interpret()
        from burnish.targets.gpu import GpuTarget  # after that: triton either interprets or compiles

        return GpuTarget(())
    if backend == "native":
        return NativeTarget()
    told = ""
    if backend is None:
        try:
            library(best_level())
            return NativeTarget()
        except (NativeBuildError, UsageError) as error:
            told = f"ONNX Runtime executes it, and not native kernels: {error}"
    if dtype not in (None, torch.float32):
        instead = f"leave dtype={dtype} out, or run it by native kernels or a GPU"
        raise UsageError(f"ONNX Runtime computes in float32: {instead}" + (f" ({told})" if told else ""))
    if told:
        _log.warning("%s", told)
    return CpuTarget(backend or "onnxruntime", told)
