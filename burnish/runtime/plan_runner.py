"""A launch plan on real memory: sizes become numbers, references tensors, and the steps run in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

import msgspec
import torch

from burnish.ir.errors import ArtifactError
from burnish.ir.position_table import PositionTable
from burnish.ir.serialize import resolve
from burnish.runtime.arena import Lifetime, place
from burnish.runtime.device_memory import room_for
from burnish.runtime.executor import Step, Wanted
from burnish.runtime.plan import Call, Kernel, Launch, Plan, Size, TensorReference, Variant, dtype_named, evaluate
from burnish.runtime.position_rows import PositionRows
from burnish.runtime.states import States

ALIGNMENT = 16  # bytes or elements: what `Kernel.aligned` promises


@dataclass(frozen=True)
class BoundLaunch:
    """The kernel with that key, on these tensors and numbers."""

    kernel: str
    grid: tuple[int, int, int]
    arguments: Sequence[torch.Tensor | int | float]


class Launcher(Protocol):
    """Starts kernels of a plan."""

    def prepare(self, launches: Sequence[BoundLaunch]) -> Callable[[], None]:
        """What runs these, one behind the other, as often as it is called."""
        ...


@dataclass
class BoundStep:
    """A variant on given memory: run it as often as wanted, whatever the inputs contain by then."""

    run: Callable[[], None]
    kind: Wanted  # what the result is: what was wanted, or the logits where the plan has no such result
    result: torch.Tensor
    logits: Callable[[], torch.Tensor]  # makes all of them behind a run, whatever that gave
    arena: torch.Tensor  # kept alive
    launches: int


class PlanRunner:
    """Binds the variants of a plan to memory."""

    def __init__(
        self,
        plan: Plan,
        weights: Mapping[str, torch.Tensor],
        device: torch.device,
        launcher: Launcher,
        tables: Mapping[str, PositionTable] | None = None,
    ) -> None:
        self._plan = plan
        self._tables = PositionRows(tables or {}, device)
        self._weights = weights
        self._device = device
        self._launcher = launcher

    def bind(self, step: Step, states: States) -> BoundStep:
        """A step on this very memory."""
        sizes = {**step.sizes(), "capacity": states.capacity}
        variant = self._plan.variant(sizes)
        arena, buffers = _own_memory(variant, sizes, self._device)
        buffers |= {f"input {name}": tensor for name, tensor in step.inputs.items()}
        buffers |= {f"state {name}": tensor for name, tensor in states.named.items()}
        weights = {**self._weights, **self._tables.for_capacity(states.capacity)}
        buffers |= {f"weight {name}": tensor for name, tensor in weights.items()}
        memory = Memory(buffers, sizes, self._device)
        kind: Wanted = step.wanted if step.wanted in variant.results else "logits"
        planned = [*variant.steps, *variant.results[kind].steps]
        all_of_them = variant.results["logits"]
        run, widen = (bind(steps, memory, self._launcher, self._plan.kernels) for steps in (planned, all_of_them.steps))
        all_logits = memory.tensor(all_of_them.tensor)

        def logits() -> torch.Tensor:
            widen()
            return all_logits

        launches = sum(isinstance(step, Launch) for step in planned)
        return BoundStep(run, kind, memory.tensor(variant.results[kind].tensor), logits, arena, launches)


def _own_memory(
    variant: Variant, sizes: Mapping[str, int], device: torch.device
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The arena of a variant, and its temporaries and zeros by name."""
    temporaries = [Lifetime(evaluate(each.bytes, sizes), each.first, each.last) for each in variant.temporaries]
    offsets, total = place(temporaries)
    zeros = [evaluate(size, sizes) for size in variant.zeros]
    needed = f"the temporaries of a step of {sizes['batch']} rows of {sizes['sequence']} tokens"
    with room_for(needed, total + sum(zeros), device):
        arena = torch.empty(total, dtype=torch.uint8, device=device)
        buffers = {
            f"zeros {number}": torch.zeros(size, dtype=torch.uint8, device=device) for number, size in enumerate(zeros)
        }
    for number, (offset, buffer) in enumerate(zip(offsets, temporaries, strict=True)):
        buffers[f"temporary {number}"] = arena[offset : offset + buffer.size]
    return arena, buffers


@dataclass(frozen=True)
class Memory:
    """Buffers by name, and the numbers that sizes are."""

    buffers: Mapping[str, torch.Tensor]
    sizes: Mapping[str, int]
    device: torch.device

    def number(self, value: Size | float) -> int | float:
        """A scalar argument."""
        return evaluate(value, self.sizes) if isinstance(value, str) else value

    def tensor(self, reference: TensorReference) -> torch.Tensor:
        """The tensor that is meant."""
        base = self.buffers.get(reference.buffer)
        if base is None:
            raise ArtifactError(f"the launch plan reads {reference.buffer!r}, which the artifact does not have")
        dtype = dtype_named(reference.dtype)
        shape, stride = (
            [evaluate(each, self.sizes) for each in sizes] for sizes in (reference.shape, reference.stride)
        )
        offset = evaluate(reference.offset, self.sizes)
        try:  # PyTorch refuses what is outside of the memory
            if base.dtype != dtype:
                base = base.view(dtype)
            return base.as_strided(shape, stride, base.storage_offset() + offset)
        except (RuntimeError, TypeError, OverflowError) as error:
            raise ArtifactError(
                f"there is no tensor of {shape} by {stride} from {offset} in {reference.buffer!r}: "
                f"{str(error).splitlines()[0]}"
            ) from error


def bind(
    steps: Sequence[Launch | Call], memory: Memory, launcher: Launcher, kernels: Mapping[str, Kernel]
) -> Callable[[], None]:
    """What runs these steps in order. Raises ArtifactError where they are none that can be run."""
    bound: list[Callable[[], None]] = []
    for launches, group in groupby(steps, key=lambda step: isinstance(step, Launch)):
        part = list(group)
        if launches:
            bound.append(launcher.prepare([_bound_launch(step, memory, kernels) for step in part]))  # type: ignore[arg-type]
        else:
            bound += [_bound_call(step, memory) for step in part]  # type: ignore[arg-type]

    def run() -> None:
        for each in bound:
            each()

    return run


def _bound_launch(step: Launch, memory: Memory, kernels: Mapping[str, Kernel]) -> BoundLaunch:
    """A kernel on its operands."""
    grid = [evaluate(each, memory.sizes) for each in step.grid]
    arguments = [
        memory.tensor(each) if isinstance(each, TensorReference) else memory.number(each.value)
        for each in step.arguments
    ]
    _check(step, arguments, kernels)
    return BoundLaunch(step.kernel, (grid[0], grid[1], grid[2]), arguments)


def _check(step: Launch, arguments: Sequence[torch.Tensor | int | float], kernels: Mapping[str, Kernel]) -> None:
    """Raise ArtifactError where machine code would do something else than what the plan says."""
    kernel = kernels.get(step.kernel)
    if kernel is None or len(kernel.arguments) != len(arguments):
        raise ArtifactError(f"the launch plan starts the kernel {step.kernel} as it cannot be started")
    for (name, kind), value in zip(kernel.arguments.items(), arguments, strict=True):
        what = f"{step.node} gives the argument {name} of the kernel {step.kernel}"
        is_tensor = isinstance(value, torch.Tensor)
        if is_tensor != kind.startswith("*"):
            raise ArtifactError(f"{what}, a {kind}, {'a tensor' if is_tensor else value}")
        place = value.data_ptr() if isinstance(value, torch.Tensor) else value
        if name in kernel.aligned and place % ALIGNMENT:
            raise ArtifactError(f"{what}, which is compiled for multiples of {ALIGNMENT}, {place}")
        if kind == "i32" and not -(2**31) <= place < 2**31:
            raise ArtifactError(f"{what}, a 32-bit number, {place}: ask for fewer rows or tokens at a time")


def _bound_call(step: Call, memory: Memory) -> Callable[[], None]:
    """An op on its operands, whose results go where the plan wants them."""
    op = resolve(step.op)
    if isinstance(op, str):
        raise ArtifactError(f"{step.node} in the launch plan calls {step.op!r}, which an artifact may not: {op}")
    arguments = [_decoded(each, memory) for each in step.arguments]
    options = {name: _decoded(each, memory) for name, each in step.options.items()}
    if "device" in options:
        options["device"] = memory.device
    results = [memory.tensor(each) for each in step.results]

    def call() -> None:
        found = op(*arguments, **options)
        made = found if isinstance(found, (tuple, list)) else [found]
        for target, result in zip(results, made, strict=True):
            target.copy_(result)

    return call


def _decoded(value: Any, memory: Memory) -> Any:
    """An argument of an op from data."""
    if isinstance(value, list):
        return [_decoded(each, memory) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return memory.tensor(msgspec.convert(content, TensorReference))
    if kind == "float":
        return float(content)
    if kind == "size":
        return evaluate(content, memory.sizes)
    if kind == "dtype":
        return dtype_named(content)
    if kind == "memory_format":
        return getattr(torch, content)
    raise ArtifactError(f"the launch plan has an argument of the kind {kind!r}, which does not exist")
