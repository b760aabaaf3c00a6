"""A GPU that is none: `cuda.core`, `cuda.bindings.driver` and `torch.cuda` as the executor uses them.

Signatures and types are those of cuda-core 1.2 and cuda-bindings 12.9 to 13.5. A launch is handed to Triton's
interpreter, which finds its tensors by the addresses that the launch was given.
"""

from __future__ import annotations

import ctypes
import enum
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from burnish.codegen.triton import tile_timer
from burnish.codegen.triton.interpreted import InterpretedLauncher
from burnish.ir.program import Program
from burnish.runtime import cuda_launcher, device_memory, executor_cuda
from burnish.runtime.executor_cuda import CudaExecutor
from burnish.runtime.kernel_files import CompiledKernel
from burnish.runtime.plan import Kernel, Plan

_C = {"i32": ctypes.c_int32, "i64": ctypes.c_int64, "fp32": ctypes.c_float}
_DTYPES = {
    **{"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16},
    **{"i64": torch.int64, "i32": torch.int32, "i8": torch.int8, "u8": torch.uint8, "i1": torch.bool},
}
SHARED = 64 * 1024  # bytes that each kernel claims to take: more than is given without asking
SCRATCH = 256  # bytes of global memory that a program with tensor descriptors takes


class CUresult(enum.IntEnum):
    """Of the driver's results, some."""

    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222


class CUfunction_attribute(enum.IntEnum):
    """Of the driver's attributes, one."""

    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8


@dataclass
class FakeKernel:
    """A `cuda.core.Kernel`."""

    symbol: str
    key: str
    handle: object = field(default_factory=object)
    allowed: int = 48 * 1024
    loaded: bool = False


@dataclass(frozen=True)
class FakeStream:
    """A `cuda.core.Stream`."""

    handle: int

    @staticmethod
    def from_handle(handle: int) -> FakeStream:
        """As the real one."""
        assert type(handle) is int
        return FakeStream(handle)


@dataclass
class FakeEvent:
    """A `torch.cuda.Event`, on a GPU on which a launch takes a millisecond."""

    gpu: FakeGpu
    launches: int = 0

    def record(self) -> None:
        """How many launches there were."""
        self.launches = len(self.gpu.launched)

    def synchronize(self) -> None:
        """Nothing is waited for."""

    def elapsed_time(self, end: FakeEvent) -> float:
        """In milliseconds."""
        return float(end.launches - self.launches)


class FakeConfig:
    """A `cuda.core.LaunchConfig`."""

    def __init__(
        self, grid: Any = None, cluster: Any = None, block: Any = None, shmem_size: Any = None, is_cooperative: Any = 0
    ) -> None:
        assert cluster is None
        assert not is_cooperative
        for sizes in (grid, block):
            assert len(sizes) == 3
            assert all(type(size) is int and size >= 1 for size in sizes)
        assert max(grid[1], grid[2]) < 2**16
        self.grid, self.block, self.shmem_size = grid, block, shmem_size


@dataclass
class FakeGraph:
    """A `torch.cuda.CUDAGraph`: the launches that were noted."""

    launches: list[Callable[[], None]] = field(default_factory=list)
    replays: int = 0

    def replay(self) -> None:
        """Run them."""
        self.replays += 1
        for each in self.launches:
            each()


@dataclass
class FakeGpu:
    """What was loaded, launched and captured."""

    kernels: Mapping[str, Kernel]
    driver_version: int = 13040
    refused: str = ""  # what `get_kernel` raises, if anything
    shared: int = 227 * 1024  # bytes that a kernel can have
    free: int = 80 * 10**9
    fails_after: int | None = None  # launches
    loaded: list[FakeKernel] = field(default_factory=list)
    launched: list[str] = field(default_factory=list)
    graphs: list[FakeGraph] = field(default_factory=list)
    capturing: FakeGraph | None = None
    allocated: dict[int, int] = field(default_factory=dict)  # bytes, by address, that `torch.empty` gave
    scratch: list[int] = field(default_factory=list)  # addresses that launches were given

    def __post_init__(self) -> None:
        self.interpreter = InterpretedLauncher(self.kernels)

    def compiled(self) -> dict[str, tuple[CompiledKernel, bytes]]:
        """Machine code, as an artifact has it."""
        return {
            key: (CompiledKernel(kernel.function, SHARED, kernel.num_warps, _scratch_of(kernel), "13.4"), key.encode())
            for key, kernel in self.kernels.items()
        }

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be the GPU of this process."""
        core: Any = ModuleType("cuda.core")
        core.LaunchConfig, core.Stream, core.launch = FakeConfig, FakeStream, self._launch
        core.ObjectCode = SimpleNamespace(from_cubin=self._from_cubin)
        driver: Any = ModuleType("cuda.bindings.driver")
        driver.CUresult, driver.CUfunction_attribute = CUresult, CUfunction_attribute
        driver.cuDriverGetVersion = lambda: (CUresult.CUDA_SUCCESS, self.driver_version)
        driver.cuKernelGetFunction, driver.cuKernelSetAttribute = self._get_function, self._set_attribute
        bindings: Any = ModuleType("cuda.bindings")
        bindings.driver = driver
        for name, module in {
            "cuda": ModuleType("cuda"),
            "cuda.core": core,
            "cuda.bindings": bindings,
            "cuda.bindings.driver": driver,
        }.items():
            monkeypatch.setitem(sys.modules, name, module)
        for user in (executor_cuda, cuda_launcher, device_memory, tile_timer):
            monkeypatch.setattr(user, "torch", _Torch(self))
        monkeypatch.setattr(executor_cuda, "this_architecture", lambda: 90)

    def _from_cubin(self, module: bytes, *, name: str = "", symbol_mapping: dict[str, str] | None = None) -> Any:
        assert type(module) is bytes

        def get_kernel(name: str) -> FakeKernel:
            if self.refused:
                raise RuntimeError(self.refused)
            self.loaded.append(FakeKernel(name, module.decode()))
            return self.loaded[-1]

        return SimpleNamespace(get_kernel=get_kernel)

    def _of(self, handle: object) -> FakeKernel:
        return next(each for each in self.loaded if each.handle is handle)

    def _get_function(self, kernel: object) -> tuple[CUresult, object]:
        self._of(kernel).loaded = True
        return CUresult.CUDA_SUCCESS, object()

    def _set_attribute(self, attrib: CUfunction_attribute, val: int, kernel: object, dev: int) -> tuple[CUresult]:
        assert attrib is CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        assert type(dev) is int
        if val > self.shared:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        self._of(kernel).allowed = val
        return (CUresult.CUDA_SUCCESS,)

    def _launch(self, stream: FakeStream, config: FakeConfig, kernel: FakeKernel, *kernel_args: Any) -> None:
        """Each argument takes as many bytes as its C type; a Python int is an address."""
        facts = self.kernels[kernel.key]
        assert stream.handle == (7 if self.capturing else 0)
        assert kernel.loaded
        assert config.shmem_size <= kernel.allowed
        assert config.block == (32 * facts.num_warps, 1, 1)
        *own, scratch, profile = kernel_args
        assert profile == 0
        needed = _scratch_of(facts) * math.prod(config.grid)
        assert (scratch > 0) == (needed > 0)
        if needed:
            assert scratch % 128 == 0
            assert self.allocated[scratch] == needed
            self.scratch.append(scratch)
        types = list(facts.arguments.values())
        assert len(own) == len(types)
        assert [type(each) for each in own] == [int if kind[0] == "*" else _C[kind] for kind in types]

        def run() -> None:
            if self.fails_after is not None and len(self.launched) >= self.fails_after:
                raise RuntimeError("CUDA_ERROR_LAUNCH_FAILED")
            self.launched.append(kernel.key)
            arguments = [
                _tensor_at(each, kind) if kind[0] == "*" else each.value for each, kind in zip(own, types, strict=True)
            ]
            self.interpreter.launch(kernel.key, config.grid, arguments)

        if self.capturing:
            self.capturing.launches.append(run)
        else:
            run()

    @contextmanager
    def graph(self, cuda_graph: FakeGraph, *, capture_error_mode: str) -> Iterator[None]:
        """`torch.cuda.graph`."""
        assert capture_error_mode == "thread_local"
        self.capturing = cuda_graph
        yield
        self.capturing = None
        self.graphs.append(cuda_graph)


def executor_on(gpu: FakeGpu, model: tuple[Program, Plan]) -> CudaExecutor:
    """What runs a program by its plan on that GPU."""
    program, launches = model
    names = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    weights = {name: program.weights[name].materialize() for name in names}
    return CudaExecutor(launches, {90: gpu.compiled()}, weights)


def _scratch_of(kernel: Kernel) -> int:
    return SCRATCH if kernel.constants.get("DESCRIPTORS") else 0


def _tensor_at(address: int, kind: str) -> torch.Tensor:
    """A tensor of that type whose first element lies there; the interpreter asks for no more."""
    dtype = _DTYPES[kind[1:]]
    memory = (ctypes.c_uint8 * dtype.itemsize).from_address(address)
    return torch.frombuffer(memory, dtype=dtype)


class _Torch:
    """PyTorch, with a GPU whose memory is the CPU's."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.allocated = gpu.allocated
        stream = SimpleNamespace(synchronize=lambda: None)

        def current_stream(device: Any = None) -> Any:
            stream.cuda_stream = 7 if gpu.capturing else 0
            return stream

        @contextmanager
        def device(device: torch.device) -> Iterator[None]:
            yield

        self.cuda = SimpleNamespace(
            CUDAGraph=FakeGraph,
            Event=lambda enable_timing: FakeEvent(gpu),
            current_device=lambda: 0,
            current_stream=current_stream,
            device=device,
            graph=gpu.graph,
            mem_get_info=lambda device: (gpu.free, 80 * 10**9),
            memory_allocated=lambda device: 0,
            memory_reserved=lambda device: 0,
            synchronize=lambda device: None,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, *_: Any) -> torch.device:
        """The CPU, whatever it is called."""
        return torch.device("cpu")

    def zeros(self, *size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        """Memory that cannot be pinned here."""
        return torch.zeros(*size, **options)

    def empty(self, size: int, **options: Any) -> torch.Tensor:
        """At multiples of 512 bytes, as PyTorch's allocator gives them on GPUs."""
        whole = torch.empty(size + 512, **options)
        start = -whole.data_ptr() % 512
        self.allocated[whole.data_ptr() + start] = size
        return whole[start : start + size]

    def empty_like(self, like: torch.Tensor, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        """Memory that cannot be pinned here."""
        return torch.empty_like(like, **options)
