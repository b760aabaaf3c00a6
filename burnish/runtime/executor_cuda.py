"""A launch plan on an NVIDIA GPU: one CUDA graph for each step of one token a row, and launches for prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch

from burnish.ir.errors import InvalidInputError, UsageError
from burnish.ir.position_table import PositionTable
from burnish.runtime.cuda_launcher import CudaLauncher
from burnish.runtime.device_memory import check_room, room_for
from burnish.runtime.executor import Step, StepResult, Wanted, of_last_step
from burnish.runtime.kernel_files import CompiledKernel, architecture_for
from burnish.runtime.memory import Memory
from burnish.runtime.plan import Plan
from burnish.runtime.plan_runner import ALIGNMENT, BoundStep, PlanRunner
from burnish.runtime.states import States
from burnish.runtime.torch_memory import TorchMemory, inputs_of


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


class CudaExecutor:
    """Steps of a plan on a GPU, on PyTorch's current stream; each is done when its result is given."""

    in_place = True

    def __init__(
        self,
        plan: Plan,
        kernels: Mapping[int, Mapping[str, tuple[CompiledKernel, bytes]]],
        weights: Mapping[str, torch.Tensor],
        tables: Mapping[str, PositionTable] | None = None,
    ) -> None:
        """`kernels` by architecture; `weights` on the CPU, which are copied; `tables` of positions.

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
        self.memory: Memory = TorchMemory(self.device)
        torch.cuda.synchronize(self.device)  # from here on this thread has the device's context
        launcher = CudaLauncher(plan.kernels, kernels[found], self.device)
        size = sum(tensor.nbytes for tensor in weights.values())
        check_room("the weights", size, self.device)
        with room_for("the weights", size, self.device):
            on_device = {name: tensor.to(self.device) for name, tensor in weights.items()}
        self._runner: PlanRunner | None = PlanRunner(plan, on_device, self.memory, launcher, tables)
        # Of each batch's states: a graph for each result, and the last prompt's step, which its next piece may take.
        self._tokens: WeakKeyDictionary[States, dict[Wanted, _FixedStep]] = WeakKeyDictionary()
        self._prompts: WeakKeyDictionary[States, dict[tuple[int, int, Wanted], _FixedStep]] = WeakKeyDictionary()
        self._last: WeakKeyDictionary[States, ReferenceType[_FixedStep]] = WeakKeyDictionary()  # in one of these

    def step(self, step: Step, states: States) -> StepResult:
        """See `Executor.step`; the inputs may be on the GPU as well."""
        if self._runner is None:
            raise UsageError("this compiled model was closed")
        step = Step(**inputs_of(step), wanted=step.wanted)
        sizes = _check_sizes(step, states)
        with torch.cuda.device(self.device):
            key = (sizes["sequence"], sizes["kept"], step.wanted)
            if key[:2] == (1, 1):
                known = self._tokens.setdefault(states, {})
                fixed = known.pop(step.wanted, None) or self._fixed(step, states)
                result = fixed.token(step)
                known[step.wanted] = fixed  # not where it failed: its counters may not be zero then
            else:
                fixed = self._prompts.pop(states, {}).get(key) or self._fixed(step, states)
                result = fixed.prompt(step)
                self._prompts[states] = {key: fixed}
            self._last[states] = ref(fixed)
            return StepResult(fixed.step.kind, result).narrowed(step.wanted)

    def logits(self, states: States) -> StepResult:
        """See `Executor.logits`."""
        last = of_last_step(self._last, states)()
        assert last is not None, "it is kept until the next step, or until the model is closed"
        with torch.cuda.device(self.device):
            return StepResult("logits", last.step.logits().cpu())

    def close(self) -> None:
        """See `Executor.close`."""
        self._tokens.clear()
        self._prompts.clear()
        self._last.clear()
        self._runner = None

    def _fixed(self, step: Step, states: States) -> _FixedStep:
        """A step on memory of its own for inputs like these, and on `states`."""
        assert self._runner is not None
        _check_places(step, states, self.device)
        given = _Inputs.like(step, self.device)
        return _FixedStep(given, self._runner.bind(Step(**given.parts, wanted=step.wanted), states))


@dataclass
class _Inputs:
    """A step's inputs on the GPU, and on the CPU in pinned memory, from which one copy brings all."""

    pinned: torch.Tensor
    on_device: torch.Tensor
    pinned_parts: dict[str, torch.Tensor]
    parts: dict[str, torch.Tensor]

    @staticmethod
    def like(step: Step, device: torch.device) -> _Inputs:
        """Room for inputs of these types and shapes, each at a multiple of 16 bytes."""
        inputs = step.inputs
        starts = [0, *accumulate(-(-each.nbytes // ALIGNMENT) * ALIGNMENT for each in inputs.values())]
        pinned = torch.zeros(starts[-1], dtype=torch.uint8, pin_memory=True)
        on_device = torch.zeros(starts[-1], dtype=torch.uint8, device=device)
        pinned_parts, parts = (
            {
                name: whole[start : start + each.nbytes].view(each.dtype).view(each.shape)
                for start, (name, each) in zip(starts, inputs.items(), strict=False)  # the last start is the end
            }
            for whole in (pinned, on_device)
        )
        return _Inputs(pinned, on_device, pinned_parts, parts)

    def take(self, step: Step) -> None:
        """Bring new values. The step before is over, so nothing reads the old ones."""
        inputs = step.inputs
        for name, each in inputs.items():
            if not each.is_cuda:
                self.pinned_parts[name].copy_(each)
        self.on_device.copy_(self.pinned, non_blocking=True)
        for name, each in inputs.items():
            if each.is_cuda:
                self.parts[name].copy_(each, non_blocking=True)


class _FixedStep:
    """A step on fixed memory."""

    def __init__(self, inputs: _Inputs, step: BoundStep) -> None:
        self.inputs = inputs
        self.step = step
        self.graph: torch.cuda.CUDAGraph | None = None
        self.result: torch.Tensor | None = None  # pinned
        self.warm = False

    def prompt(self, step: Step) -> torch.Tensor:
        """One step by launches; its result on the CPU."""
        self.inputs.take(step)
        self.step.run()
        result: torch.Tensor = self.step.result.cpu()
        return result

    def token(self, step: Step) -> torch.Tensor:
        """One step by a CUDA graph, from the second on: the first loads what it needs. The result is overwritten."""
        self.inputs.take(step)
        if not self.warm:
            self.step.run()
            self.warm = True
            first: torch.Tensor = self.step.result.cpu()
            return first
        if self.graph is None:
            self.result = torch.empty_like(self.step.result, device="cpu", pin_memory=True)
            graph = torch.cuda.CUDAGraph()
            # Notes the launches, and runs none. Other threads may use the GPU meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                self.step.run()
            self.graph = graph
        assert self.result is not None
        self.graph.replay()
        self.result.copy_(self.step.result, non_blocking=True)
        torch.cuda.current_stream().synchronize()
        return self.result


def _check_sizes(step: Step, states: States) -> dict[str, int]:
    """The sizes of a step. Raises InvalidInputError for what would be read or written outside of its memory."""
    sizes = step.sizes()
    if sizes["batch"] != states.batch:
        raise InvalidInputError(f"there are tokens for {sizes['batch']} rows, and states for {states.batch}")
    if sizes["sequence"] > states.capacity:
        raise InvalidInputError(
            f"{sizes['sequence']} tokens are more than the {states.capacity} that the states have room for: "
            "feed fewer at a time, or make a session with a larger capacity"
        )
    return sizes


def _check_places(step: Step, states: States, device: torch.device) -> None:
    """Raise InvalidInputError for tensors that kernels on `device` cannot reach."""
    inputs = [each for each in step.inputs.values() if each.is_cuda]
    for what, tensors in (("an input", inputs), ("a state", states.past)):
        elsewhere = next((each.device for each in tensors if each.device != device), None)
        if elsewhere is not None:
            raise InvalidInputError(f"{what} is on {elsewhere}, and the model is on {device}: make it there")
