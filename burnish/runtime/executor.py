"""What runs the step graph."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar

import numpy as np

from burnish.ir.dtypes import name_of
from burnish.ir.errors import InvalidInputError, UsageError
from burnish.ir.signature import STEP_INPUTS
from burnish.runtime.memory import NUMPY, Memory
from burnish.runtime.states import States

if TYPE_CHECKING:  # it takes numpy a while
    from numpy.typing import NDArray

    from burnish.ir.torch_types import Tensor

Wanted: TypeAlias = Literal["logits", "ids", "top"]
"""What a step gives: logits[b, kept, vocabulary], or ids int64[b, kept], those of the greatest logits, or the top.

That is int32[b, kept, 2, TOP or the vocabulary], in the order of ids: bits of the greatest logits as float32, ids.
"""

Found = TypeVar("Found")

TOP = 128  # twice the most that sampling asks for: what is level with the last of them has to be there, too


@dataclass(frozen=True, eq=False)
class Step:
    """What is fed at once: tokens[b, n], whose row b has position[b] tokens before it. All contiguous, on the CPU.

    Results are wanted of those of the new tokens that logits_index[kept] names, at least one. Arrays of numpy's, or
    tensors of PyTorch's.
    """

    tokens: Any
    position: Any
    logits_index: Any
    wanted: Wanted = "logits"

    @property
    def inputs(self) -> dict[str, Any]:
        """The inputs of a step program by name."""
        return {each.name: getattr(self, each.name) for each in STEP_INPUTS}

    def sizes(self) -> dict[str, int]:
        """The sizes of its inputs by the names of their axes. Raises InvalidInputError where they are no step's."""
        inputs, sizes = self.inputs, dict[int | str, int]()
        for each in STEP_INPUTS:
            found = inputs[each.name]
            if name_of(found.dtype) != each.dtype_name:
                kind = each.dtype_name
                raise InvalidInputError(f"{each.name} are {kind}, not {found.dtype}: give them as .to(torch.{kind})")
            fits = found.ndim == len(each.axes) and math.prod(found.shape) > 0
            if not fits or any(sizes.setdefault(*pair) != pair[1] for pair in zip(each.axes, found.shape, strict=True)):
                takes = ", ".join(f"{known.name} [{', '.join(map(str, known.axes))}]" for known in STEP_INPUTS)
                given = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
                raise InvalidInputError(f"a step takes {takes}, none of them empty, not {given}")
        return {str(axis): size for axis, size in sizes.items()}


@dataclass(frozen=True, eq=False)
class StepResult:
    """What a step gave: `kind` says what the values are, an array of numpy's or a tensor of PyTorch's."""

    kind: Wanted
    values: Any

    @property
    def array(self) -> NDArray[Any]:
        """The values as numpy has them, in the same memory; of bfloat16, which it lacks, as float32."""
        if isinstance(self.values, np.ndarray):
            return self.values
        from burnish.runtime.torch_memory import array_of  # it came from there

        return array_of(self.values)

    @property
    def tensor(self) -> Tensor:
        """The values as PyTorch has them, in the same memory."""
        from burnish.runtime.torch_memory import tensor_of

        return tensor_of(self.values)

    def narrowed(self, wanted: Wanted) -> StepResult:
        """What is `wanted` of it: itself, or chosen here from its logits."""
        if self.kind == wanted:
            return self
        assert self.kind == "logits", f"{wanted} cannot be had of {self.kind}"
        return StepResult(wanted, narrowed(self.array, wanted))


class Executor(Protocol):
    """Runs one step of a compiled model."""

    memory: Memory  # where the states are
    in_place: bool  # new states are written over the old ones, never beside them

    def step(self, step: Step, states: States) -> StepResult:
        """Feed it, and give what it wants, in memory of the CPU that the next step may overwrite.

        `states` hold room for every row's new tokens and are advanced.
        """
        ...

    def logits(self, states: States) -> StepResult:
        """All logits of the last step on `states`, whatever was wanted of it, in memory as `step` gives it.

        Raises UsageError where there was none.
        """
        ...

    def close(self) -> None:
        """Free what the executor holds. It cannot step afterwards."""
        ...


class UnavailableExecutor:
    """For an artifact that was compiled for another machine: it says so when it is asked to run."""

    memory: Memory = NUMPY
    in_place = False

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def step(self, step: Step, states: States) -> StepResult:
        """Raises UsageError."""
        raise UsageError(self.reason)

    def logits(self, states: States) -> StepResult:
        """Raises UsageError."""
        raise UsageError(self.reason)

    def close(self) -> None:
        """See `Executor.close`: it holds nothing."""


def of_last_step(known: Mapping[States, Found], states: States) -> Found:
    """What is known of the last step on `states`. Raises UsageError if there was none."""
    found = known.get(states)
    if found is None:
        raise UsageError("there are no logits: this session has taken no step, or none since it grew")
    return found


def narrowed(logits: NDArray[Any], wanted: Wanted) -> NDArray[Any]:
    """What is `wanted` of logits[b, kept, vocabulary]."""
    if wanted == "logits":
        return logits
    scores = logits.astype(np.float32, copy=False)
    if wanted == "ids":
        chosen: NDArray[np.int64] = scores.argmax(-1)
        return chosen
    count = min(TOP, scores.shape[-1])
    found = np.empty((*scores.shape[:-1], 2, count), np.int32)
    for place in np.ndindex(*scores.shape[:-1]):
        row = scores[place]
        least = np.partition(row, len(row) - count)[len(row) - count]
        ids = np.flatnonzero(~(row < least))  # and what is level with the last, of which the first stay
        ids = np.sort(ids[np.argsort(-row[ids], kind="stable")[:count]])
        found[place] = row[ids].view(np.int32), ids
    return found
