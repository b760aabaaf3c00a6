"""A launch plan on real memory: sizes become numbers, references tensors, and the steps run in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Protocol

from burnish.ir.dtypes import BYTES
from burnish.ir.errors import ArtifactError
from burnish.runtime.arena import Lifetime, place
from burnish.runtime.executor import Step, Wanted
from burnish.runtime.memory import Memory
from burnish.runtime.plan import Call, Kernel, Launch, Plan, Size, TensorReference, Variant, evaluate
from burnish.runtime.position_rows import PositionRows, RowTable
from burnish.runtime.states import States

ALIGNMENT = 16  # bytes or elements: what `Kernel.aligned` promises


@dataclass(frozen=True)
class BoundLaunch:
    """The kernel with that key, on these tensors and numbers."""

    kernel: str
    grid: tuple[int, int, int]
    arguments: Sequence[Any]  # views of a `Memory`, int, float


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
    result: Any  # a view
    logits: Callable[[], Any]  # makes all of them behind a run, whatever that gave
    arena: object  # kept alive
    launches: int


class PlanRunner:
    """Binds the variants of a plan to memory."""

    def __init__(
        self,
        plan: Plan,
        weights: Mapping[str, Any],
        memory: Memory,
        launcher: Launcher,
        tables: Mapping[str, RowTable] | None = None,
    ) -> None:
        """`weights` in `memory`."""
        self._plan = plan
        self._tables = PositionRows(tables or {}, memory)
        self._weights = weights
        self._memory = memory
        self._launcher = launcher

    def bind(self, step: Step, states: States) -> BoundStep:
        """A step on this very memory."""
        sizes = {**step.sizes(), "capacity": states.capacity}
        variant = self._plan.variant(sizes)
        arena, buffers = _own_buffers(variant, sizes, self._memory)
        buffers |= {f"input {name}": tensor for name, tensor in step.inputs.items()}
        buffers |= {f"state {name}": tensor for name, tensor in states.named.items()}
        weights = {**self._weights, **self._tables.for_capacity(states.capacity)}
        buffers |= {f"weight {name}": tensor for name, tensor in weights.items()}
        operands = Operands(buffers, sizes, self._memory)
        kind: Wanted = step.wanted if step.wanted in variant.results else "logits"
        planned = [*variant.steps, *variant.results[kind].steps]
        all_of_them = variant.results["logits"]
        run, widen = (
            bind(steps, operands, self._launcher, self._plan.kernels) for steps in (planned, all_of_them.steps)
        )
        all_logits = operands.tensor(all_of_them.tensor)

        def logits() -> Any:
            widen()
            return all_logits

        launches = sum(isinstance(step, Launch) for step in planned)
        return BoundStep(run, kind, operands.tensor(variant.results[kind].tensor), logits, arena, launches)


def _own_buffers(variant: Variant, sizes: Mapping[str, int], memory: Memory) -> tuple[Any, dict[str, Any]]:
    """The arena of a variant, and its temporaries and zeros by name."""
    temporaries = [Lifetime(evaluate(each.bytes, sizes), each.first, each.last) for each in variant.temporaries]
    offsets, total = place(temporaries)
    zeros = [evaluate(size, sizes) for size in variant.zeros]
    needed = f"the temporaries of a step of {sizes['batch']} rows of {sizes['sequence']} tokens"
    with memory.room(needed, total + sum(zeros)):
        arena = memory.empty((total,), "uint8")
        buffers = {f"zeros {number}": memory.zeros((size,), "uint8") for number, size in enumerate(zeros)}
    for number, (offset, buffer) in enumerate(zip(offsets, temporaries, strict=True)):
        buffers[f"temporary {number}"] = arena[offset : offset + buffer.size]
    return arena, buffers


@dataclass(frozen=True)
class Operands:
    """Buffers by name, and the numbers that sizes are."""

    buffers: Mapping[str, Any]
    sizes: Mapping[str, int]
    memory: Memory

    def number(self, value: Size | float) -> int | float:
        """A scalar argument."""
        return evaluate(value, self.sizes) if isinstance(value, str) else value

    def tensor(self, reference: TensorReference) -> Any:
        """The tensor that is meant, as a view."""
        base = self.buffers.get(reference.buffer)
        if base is None:
            raise ArtifactError(f"the launch plan reads {reference.buffer!r}, which the artifact does not have")
        if reference.dtype not in BYTES:
            raise ArtifactError(f"the launch plan has the dtype {reference.dtype!r}, which does not exist")
        shape, stride = (
            [evaluate(each, self.sizes) for each in sizes] for sizes in (reference.shape, reference.stride)
        )
        offset = evaluate(reference.offset, self.sizes)
        try:
            return self.memory.view(base, reference.dtype, shape, stride, offset)
        except (ValueError, RuntimeError, TypeError, OverflowError) as error:
            raise ArtifactError(
                f"there is no tensor of {shape} by {stride} from {offset} in {reference.buffer!r}: "
                f"{str(error).splitlines()[0]}"
            ) from error


def bind(
    steps: Sequence[Launch | Call], operands: Operands, launcher: Launcher, kernels: Mapping[str, Kernel]
) -> Callable[[], None]:
    """What runs these steps in order. Raises ArtifactError where they are none that can be run."""
    bound: list[Callable[[], None]] = []
    for launches, group in groupby(steps, key=lambda step: isinstance(step, Launch)):
        part = list(group)
        if launches:
            bound.append(launcher.prepare([_bound_launch(step, operands, kernels) for step in part]))  # type: ignore[arg-type]
        else:
            from burnish.runtime.plan_calls import bound_call  # by PyTorch

            bound += [bound_call(step, operands) for step in part]  # type: ignore[arg-type]

    def run() -> None:
        for each in bound:
            each()

    return run


def _bound_launch(step: Launch, operands: Operands, kernels: Mapping[str, Kernel]) -> BoundLaunch:
    """A kernel on its operands."""
    grid = [evaluate(each, operands.sizes) for each in step.grid]
    arguments = [
        operands.tensor(each) if isinstance(each, TensorReference) else operands.number(each.value)
        for each in step.arguments
    ]
    _check(step, grid, arguments, operands.memory, kernels)
    return BoundLaunch(step.kernel, (grid[0], grid[1], grid[2]), arguments)


def _check(
    step: Launch, grid: Sequence[int], arguments: Sequence[Any], memory: Memory, kernels: Mapping[str, Kernel]
) -> None:
    """Raise ArtifactError where machine code would do something else than what the plan says."""
    kernel = kernels.get(step.kernel)
    if kernel is None or len(kernel.arguments) != len(arguments) or len(grid) != 3:
        raise ArtifactError(f"the launch plan starts the kernel {step.kernel} as it cannot be started")
    for (name, kind), value in zip(kernel.arguments.items(), arguments, strict=True):
        what = f"{step.node} gives the argument {name} of the kernel {step.kernel}"
        is_tensor = not isinstance(value, int | float)
        if is_tensor != kind.startswith("*"):
            raise ArtifactError(f"{what}, a {kind}, {'a tensor' if is_tensor else value}")
        place = memory.address(value) if is_tensor else value
        if name in kernel.aligned and place % ALIGNMENT:
            raise ArtifactError(f"{what}, which is compiled for multiples of {ALIGNMENT}, {place}")
        if kind == "i32" and not -(2**31) <= place < 2**31:
            raise ArtifactError(f"{what}, a 32-bit number, {place}: ask for fewer rows or tokens at a time")
