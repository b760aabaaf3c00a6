"""Times the trials of a problem on this machine's GPU, on memory that looks like a model's."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import torch

from burnish.codegen.triton.compile import compile_each
from burnish.codegen.triton.tune import CONTEXT, Trial
from burnish.ir.dtypes import BYTES
from burnish.ir.errors import UnsupportedError
from burnish.ir.torch_types import torch_dtype
from burnish.runtime.cuda_launcher import CudaLauncher
from burnish.runtime.device_memory import room_for
from burnish.runtime.plan import Kernel, TensorReference, evaluate
from burnish.runtime.plan_runner import Launcher, Operands, bind
from burnish.runtime.torch_memory import TorchMemory

_WARM, _ROUNDS = 3, 21
_FLUSHED = 512 * 2**20  # bytes that are written between two launches: more than any cache holds


class GpuTimer:
    """A `Measure`: medians of launches in turns, each on a cold cache."""

    def __init__(self, architecture: int) -> None:
        self._architecture = architecture
        self._device = torch.device("cuda", torch.cuda.current_device())
        with room_for("what empties the cache", _FLUSHED, self._device):
            self._flush = torch.empty(_FLUSHED, dtype=torch.uint8, device=self._device)
        torch.cuda.synchronize(self._device)  # from here on this thread has the device's context

    def __call__(self, trials: Sequence[Trial]) -> list[float | None]:
        """The seconds of each; None for one that takes more shared memory than there is, or that cannot be compiled."""
        specs = {key: spec for trial in trials for key, spec in trial.kernels.items()}
        built = compile_each(specs.values(), self._architecture)
        compiled = {key: each.compiled for key, each in built.items() if not isinstance(each, UnsupportedError)}
        kernels = {key: specs[key].data() for key in compiled}
        fitting = [trial for trial in trials if trial.kernels.keys() <= compiled.keys()]
        if not fitting:
            return [None] * len(trials)
        launcher = CudaLauncher(kernels, compiled, self._device)
        runs = prepared(fitting, kernels, launcher, self._device)
        seconds: list[list[float]] = [[] for _ in runs]
        for number in range(_WARM + _ROUNDS):
            for run, found in zip(runs, seconds, strict=True):
                took = self._once(run)
                if number >= _WARM:
                    found.append(took)
        medians = iter([statistics.median(each) for each in seconds])
        return [next(medians) if trial in fitting else None for trial in trials]

    def _once(self, run: Callable[[], None]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        self._flush.zero_()  # takes the GPU longer than this thread takes to queue what follows
        start.record()
        run()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000


def prepared(
    trials: Sequence[Trial], kernels: Mapping[str, Kernel], launcher: Launcher, device: torch.device
) -> list[Callable[[], None]]:
    """What runs each trial of one problem, all on the same memory."""
    references = [
        (trial, each)
        for trial in trials
        for launch in trial.launches
        for each in launch.arguments
        if isinstance(each, TensorReference)
    ]
    needed: dict[str, int] = {}
    dtypes: dict[str, torch.dtype] = {}
    for trial, each in references:
        needed[each.buffer] = max(needed.get(each.buffer, 0), _extent(each, trial.sizes))
        dtypes[each.buffer] = torch_dtype(each.dtype)
    with room_for(f"the operands of {trials[0].problem.key}", sum(needed.values()), device):
        buffers = {
            name: torch.zeros(-(-size // 16) * 16, dtype=torch.uint8, device=device) for name, size in needed.items()
        }
    most = _choices(references)
    for name, buffer in buffers.items():
        if not name.startswith("zeros "):
            _fill(buffer.view(dtypes[name]), most)
    if "input position" in buffers:
        buffers["input position"].view(torch.int64).fill_(CONTEXT)
    return [
        bind(trial.launches, Operands(buffers, trial.sizes, TorchMemory(device)), launcher, kernels) for trial in trials
    ]


def _choices(references: Sequence[tuple[Trial, TensorReference]]) -> int:
    """Below what numbers in temporaries are, such as those of experts: the first size of the largest weight."""
    weights = [
        [evaluate(size, trial.sizes) for size in each.shape]
        for trial, each in references
        if each.buffer.startswith("weight ") and each.shape
    ]
    return max(weights, key=math.prod, default=[1])[0]


def _fill(tensor: torch.Tensor, most: int) -> None:
    """Numbers whose products are neither zero nor infinite; indices that are all different, as far as there are."""
    if tensor.is_floating_point():
        tensor.normal_()
    elif tensor.dtype in (torch.uint8, torch.int8):  # packed weights
        tensor.random_(0, 128)
    elif tensor.dtype == torch.bool:
        tensor.fill_(True)
    else:
        tensor.copy_(torch.arange(tensor.numel(), device=tensor.device) % most)


def _extent(reference: TensorReference, sizes: Mapping[str, int]) -> int:
    """The bytes up to the end of a tensor in its buffer."""
    shape, stride = ([evaluate(each, sizes) for each in given] for given in (reference.shape, reference.stride))
    last = evaluate(reference.offset, sizes) + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return (last + 1) * BYTES[reference.dtype]
