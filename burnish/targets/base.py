"""What a target is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from burnish.ir.errors import UsageError
from burnish.ir.full_text import declarations
from burnish.ir.program import Program, Stage
from burnish.ir.text import program_text
from burnish.ir.trace import Trace
from burnish.passes.base import Pass
from burnish.passes.transforms.quantize import Quantize
from burnish.passes.transforms.transform import Transform
from burnish.runtime.backends import Backend
from burnish.runtime.kernel_files import PlannedCode
from burnish.runtime.weights_writer import WeightLayout

Numbers = Literal["int8", "int4", "fp8"]


@dataclass(frozen=True)
class Lowered:
    """What a target makes of a step program, beside the program itself and its weights."""

    kind: Literal["onnxruntime", "native", "reference", "triton"]  # what the artifact says that it is for
    model: bytes | None = None
    code: PlannedCode | None = None


class Target(Protocol):
    """One machine, and one way of running on it."""

    @property
    def backend(self) -> Backend:
        """Who executes what is compiled."""
        ...

    @property
    def unavailable(self) -> str | None:
        """Why it cannot be executed here; None if it can."""
        ...

    def quantization(self, program: Program, numbers: Numbers) -> Quantize:
        """The transform that `quantize=` stands for: what the target's products read."""
        ...

    def passes(self, program: Program, dtype: torch.dtype | None, transforms: Sequence[Transform]) -> list[Pass]:
        """All passes, in order. `dtype`: what to compute in; None for the target's own choice."""
        ...

    def legal(self, step: Program) -> dict[str, str]:
        """What a lowered program is: UnsupportedError for a node that the target cannot run.

        Gives the nodes that it leaves to PyTorch, and why, which `claim_lowered` tells.
        """
        ...

    def lower(self, step: Program, layout: WeightLayout, trace: Trace) -> Lowered:
        """A lowered program in the target's own form; into the trace goes what there is to tell."""
        ...


def otherwise(node: str, reason: str) -> str:
    """The note about a node that a target leaves to PyTorch."""
    return f"{node} runs by PyTorch: {reason}"


def claim_lowered(step: Program, target: Target, trace: Trace) -> None:
    """Check, in place, that a step program is one that the target runs; the last pass of the trace has reached that.

    Raises UsageError for a program that is no step program, UnsupportedError for one that the target cannot run.
    """
    if not step.stage.is_step:
        raise UsageError("these passes leave the model without states: insert-states has to be among them")
    notes = [otherwise(node, reason) for node, reason in target.legal(step).items()]
    step.stage = Stage.LOWERED
    last = trace.passes[-1]
    trace.passes[-1] = replace(
        last,
        stage=step.stage.value,
        text=program_text(step),
        declarations=declarations(step),
        notes=(*last.notes, *notes),
    )
