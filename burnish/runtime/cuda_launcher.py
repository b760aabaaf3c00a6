"""Kernels on an NVIDIA GPU: machine code that is loaded and launched without Triton or a compiler."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from burnish.ir.errors import ArtifactError, UsageError
from burnish.runtime.device_memory import room_for
from burnish.runtime.kernel_files import CompiledKernel
from burnish.runtime.plan import Kernel
from burnish.runtime.plan_runner import BoundLaunch

_WARP = 32  # threads
_SHARED_WITHOUT_ASKING = 48 * 1024  # bytes; a kernel that takes more has to be allowed to


class CudaLauncher:
    """Loads machine code, and launches it on PyTorch's current stream."""

    def __init__(
        self, kernels: Mapping[str, Kernel], compiled: Mapping[str, tuple[CompiledKernel, bytes]], device: torch.device
    ) -> None:
        """`device` has a context in this thread.

        Raises ArtifactError where the driver refuses a kernel, UsageError where cuda-core is not installed.
        """
        try:
            from cuda.core import ObjectCode
        except ImportError as error:
            raise UsageError(f"running on a GPU needs cuda-core: pip install 'burnish[gpu]' ({error})") from error
        missing = sorted(kernels.keys() - compiled.keys())
        if missing:
            raise ArtifactError(f"the artifact lacks the machine code of {missing[0]}: compile the model again")
        self._device = device
        self._ready: dict[str, _Ready] = {}
        for key, kernel in kernels.items():
            facts, cubin = compiled[key]
            try:
                found = ObjectCode.from_cubin(cubin).get_kernel(facts.symbol)
                _load(found, facts.shared_bytes, device)
            except ArtifactError:
                raise
            except Exception as error:  # cuda-core's errors have no common base
                raise ArtifactError(_refused(key, facts, error)) from error
            self._ready[key] = _Ready(found, facts, tuple(kernel.arguments.values()))

    def prepare(self, launches: Sequence[BoundLaunch]) -> Callable[[], None]:
        """See `Launcher.prepare`."""
        ready = [self._prepared(each) for each in launches]

        def run() -> None:
            for each in ready:
                each()

        return run

    def _prepared(self, bound: BoundLaunch) -> Callable[[], None]:
        from cuda.core import LaunchConfig, Stream, launch

        ready, kept = self._ready[bound.kernel], list(bound.arguments)
        scratch = self._scratch(bound.kernel, ready.facts.scratch_bytes * math.prod(bound.grid))
        # Behind its own arguments Triton's code takes two of Triton's: memory for scratch and for profiling.
        passed = (*(_passed(kind, value) for kind, value in zip(ready.types, kept, strict=True)), _address(scratch), 0)
        config = LaunchConfig(
            grid=bound.grid, block=(_WARP * ready.facts.num_warps, 1, 1), shmem_size=ready.facts.shared_bytes
        )

        def run() -> None:
            stream = Stream.from_handle(torch.cuda.current_stream(self._device).cuda_stream)
            launch(stream, config, ready.kernel, *passed)

        run.kept = (kept, scratch)  # type: ignore[attr-defined]  # whose addresses are passed: they must not go
        return run

    def _scratch(self, kernel: str, size: int) -> torch.Tensor | None:
        """Memory that one launch's programs write to, and no other launch, which may be on another stream."""
        if not size:
            return None
        with room_for(f"the tensor descriptors of the kernel {kernel}", size, self._device):
            return torch.empty(size, dtype=torch.uint8, device=self._device)  # PyTorch's blocks are multiples of 512


@dataclass(frozen=True)
class _Ready:
    kernel: Any
    facts: CompiledKernel
    types: tuple[str, ...]


def _address(memory: torch.Tensor | None) -> int:
    return 0 if memory is None else memory.data_ptr()


def _passed(kind: str, value: torch.Tensor | int | float) -> Any:
    """An argument as the launch takes it: C's type for Triton's, and a Python int for an address."""
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    return {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}[kind](value)  # type: ignore[arg-type]


def _load(kernel: Any, shared_bytes: int, device: torch.device) -> None:
    """Bring a kernel into the device's context, which the driver else does at its first launch."""
    from cuda.bindings import driver

    result, _ = driver.cuKernelGetFunction(kernel.handle)
    if result != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(result.name)
    if shared_bytes <= _SHARED_WITHOUT_ASKING:
        return
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (result,) = driver.cuKernelSetAttribute(attribute, shared_bytes, kernel.handle, device.index or 0)
    if result != driver.CUresult.CUDA_SUCCESS:
        raise ArtifactError(
            f"a kernel takes {shared_bytes:,} bytes of shared memory, which this GPU does not have ({result.name}): "
            "compile the model for this GPU"
        )


def _refused(key: str, facts: CompiledKernel, error: Exception) -> str:
    """What to say where the driver does not take a kernel."""
    from cuda.bindings import driver

    result, version = driver.cuDriverGetVersion()
    known = result == driver.CUresult.CUDA_SUCCESS
    here = f"for CUDA {version // 1000}.{version % 1000 // 10}" if known else "of an unknown version"
    return (
        f"the driver, {here}, does not take the kernel {key}, which ptxas {facts.ptxas} built ({error}): install a "
        f"driver for CUDA {facts.ptxas} or later, or compile the model with a ptxas that is not newer than the driver "
        "(an older Triton brings one; TRITON_PTXAS_PATH or, for later GPUs, TRITON_PTXAS_BLACKWELL_PATH names another)"
    )
