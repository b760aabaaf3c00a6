"""A launch plan on an NVIDIA GPU: machine code from the artifact, launched without Triton or a compiler."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch

from burnish.ir.errors import ArtifactError, UsageError
from burnish.runtime.executor import Wanted
from burnish.runtime.kernel_files import CompiledKernel, architecture_for
from burnish.runtime.plan import Kernel, Plan
from burnish.runtime.plan_runner import BoundStep, PlanRunner
from burnish.runtime.states import States

_WARP = 32  # threads
_SHARED_WITHOUT_ASKING = 48 * 1024  # bytes; a kernel that takes more has to be allowed to


def this_architecture() -> int:
    """90 for sm_90. Raises UsageError where there is no GPU, or no driver for it."""
    if not torch.cuda.is_available():
        built = torch.version.cuda is not None
        why = "PyTorch finds no NVIDIA GPU" if built else "this PyTorch was built without CUDA"
        raise UsageError(
            f'{why}: run on a machine with one, or on any by backend="reference" or backend="triton-interpret"'
        )
    major, minor = torch.cuda.get_device_capability()
    return 10 * major + minor


class CudaLauncher:
    """Loads machine code, and launches it on PyTorch's current stream."""

    def __init__(
        self, kernels: Mapping[str, Kernel], compiled: Mapping[str, tuple[CompiledKernel, bytes]], device: torch.device
    ) -> None:
        """Raises ArtifactError where the driver refuses a kernel, UsageError where cuda-core is not installed."""
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
                _allow_shared_memory(found, facts.shared_bytes, device)
            except Exception as error:  # cuda-core's errors have no common base
                raise ArtifactError(f"the driver does not take the kernel {key}: {error}") from error
            if facts.scratch_bytes:
                raise ArtifactError(f"the kernel {key} takes scratch memory, which launches do not give")
            self._ready[key] = _Ready(found, facts, tuple(kernel.arguments.values()))

    def launch(self, kernel: str, grid: tuple[int, int, int], arguments: Sequence[torch.Tensor | int | float]) -> None:
        """See `Launcher.launch`."""
        from cuda.core import LaunchConfig, Stream, launch

        ready = self._ready[kernel]
        passed = [_passed(kind, value) for kind, value in zip(ready.types, arguments, strict=True)]
        config = LaunchConfig(
            grid=grid, block=(_WARP * ready.facts.num_warps, 1, 1), shmem_size=ready.facts.shared_bytes
        )
        stream = Stream.from_handle(torch.cuda.current_stream(self._device).cuda_stream)
        # Behind its own arguments Triton's code takes two of Triton's: memory for scratch and for profiling.
        launch(stream, config, ready.kernel, *passed, 0, 0)


@dataclass(frozen=True)
class _Ready:
    kernel: Any
    facts: CompiledKernel
    types: tuple[str, ...]


@dataclass
class _Decoding:
    """A step of one token a row on fixed memory, as a CUDA graph."""

    inputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    step: BoundStep
    graph: torch.cuda.CUDAGraph | None = None  # from the second step on: the first loads what it needs


class CudaExecutor:
    """Steps of a plan on a GPU. Steps of one token a row are CUDA graphs, one for a batch's states and a result."""

    in_place = True

    def __init__(
        self,
        plan: Plan,
        kernels: Mapping[int, Mapping[str, tuple[CompiledKernel, bytes]]],
        weights: Mapping[str, torch.Tensor],
    ) -> None:
        """`kernels` by architecture; `weights` on the CPU, which are copied.

        Raises UsageError where there is no GPU, or not one that the kernels are for, or too little memory.
        """
        here = this_architecture()
        found = architecture_for(here, sorted(kernels))
        if found is None:
            held = ", ".join(f"sm_{each}" for each in sorted(kernels)) or "no architecture"
            raise UsageError(
                f"the artifact has kernels for {held}, and this GPU is an sm_{here}: "
                f"compile the model with target='cuda:sm_{here}'"
            )
        self.device = torch.device("cuda", torch.cuda.current_device())
        _check_memory(sum(tensor.nbytes for tensor in weights.values()), "the weights", self.device)
        on_device = {name: tensor.to(self.device) for name, tensor in weights.items()}
        launcher = CudaLauncher(plan.kernels, kernels[found], self.device)
        self._runner: PlanRunner | None = PlanRunner(plan, on_device, self.device, launcher)
        self._decoding: WeakKeyDictionary[States, dict[Wanted, _Decoding]] = WeakKeyDictionary()

    def step(
        self,
        tokens: torch.Tensor,
        position: torch.Tensor,
        logits_index: torch.Tensor,
        states: States,
        wanted: Wanted = "logits",
    ) -> torch.Tensor:
        """See `Executor.step`."""
        if self._runner is None:
            raise UsageError("this compiled model was closed")
        given = (tokens, position, logits_index)
        if tokens.shape[1] > 1:
            step = self._bind(tuple(each.to(self.device) for each in given), states, wanted)
            step.run()
            return step.result.cpu()
        known = self._decoding.setdefault(states, {})
        decoding = known.get(wanted)
        if decoding is None:
            inputs = (tokens.to(self.device), position.to(self.device), logits_index.to(self.device))
            decoding = known[wanted] = _Decoding(inputs, self._bind(inputs, states, wanted))
            decoding.step.run()
            return decoding.step.result.cpu()
        for static, each in zip(decoding.inputs, given, strict=True):
            static.copy_(each, non_blocking=True)
        if decoding.graph is None:
            decoding.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(decoding.graph):  # notes the launches, and runs none
                decoding.step.run()
        decoding.graph.replay()
        return decoding.step.result.cpu()

    def close(self) -> None:
        """See `Executor.close`."""
        self._decoding.clear()
        self._runner = None

    def _bind(self, inputs: Sequence[torch.Tensor], states: States, wanted: Wanted) -> BoundStep:
        assert self._runner is not None
        named = {spec.name: tensor for spec, tensor in zip(states.specs, states.past, strict=True)}
        return self._runner.bind(inputs, named, states.capacity, wanted)


def _passed(kind: str, value: torch.Tensor | int | float) -> Any:
    """An argument as the launch takes it: C's type for Triton's."""
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    return {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}[kind](value)  # type: ignore[arg-type]


def _allow_shared_memory(kernel: Any, size: int, device: torch.device) -> None:
    if size <= _SHARED_WITHOUT_ASKING:
        return
    from cuda.bindings import driver

    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    (result,) = driver.cuKernelSetAttribute(attribute, size, kernel.handle, device.index or 0)
    if result != driver.CUresult.CUDA_SUCCESS:
        raise ArtifactError(f"this GPU does not have the {size:,} bytes of shared memory that it takes ({result.name})")


def _check_memory(size: int, what: str, device: torch.device) -> None:
    free, _ = torch.cuda.mem_get_info(device)
    if size > free:
        raise UsageError(f"{what} take {size / 1e9:.1f} GB, and the GPU has {free / 1e9:.1f} GB free")
