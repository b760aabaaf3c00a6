"""What a transform is, and how several are applied: in an order that makes sense, each with its cost on text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol, cast

from torch import fx

from burnish.ir.errors import InvalidProgramError, UsageError
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, value
from burnish.ir.quantization import as_quantized
from burnish.ir.quantized_ops import stored_bytes
from burnish.ir.trace import QualityRecord, Trace
from burnish.ir.weights import nbytes
from burnish.passes.base import Effect
from burnish.passes.pipeline import Observer, run_passes
from burnish.passes.transforms.calibration import Calibration
from burnish.passes.transforms.memory import give_back
from burnish.passes.transforms.quality import measure
from burnish.passes.transforms.quantize_cache import coded


class Transform(Protocol):
    """A lossy pass over a whole raised program: a frozen dataclass, whose fields are its options.

    Its program maps tokens to logits, before there are states. It raises UsageError where it finds nothing to do.
    `place` orders transforms: one does not follow another of a higher place.
    """

    effect: ClassVar[Effect]
    atomic: ClassVar[bool]
    place: ClassVar[int]

    @property
    def name(self) -> str: ...
    @property
    def calibration(self) -> Calibration | None: ...
    def check(self, calibrated: bool) -> None:
        """UsageError for options that there are not or that do not fit together, before any program is there."""
        ...

    def run(self, program: Program, log: Any) -> Program: ...


def check_order(transforms: Sequence[Transform]) -> None:
    """UsageError for transforms in an order that would undo one's work or blur it, or for one that is given twice."""
    for number, later in enumerate(transforms):
        for earlier in transforms[:number]:
            if later == earlier:
                raise UsageError(f"{later} is given twice")
            if later.place < earlier.place:
                raise UsageError(
                    f"{later} comes after {earlier}, and should see the model before that changed it: give them the "
                    "other way (layers and heads first, then numbers of weights, then those of caches)"
                )


def apply(
    program: Program,
    transforms: Sequence[Transform],
    calibration: Calibration | None,
    trace: Trace,
    observer: Observer | None = None,
) -> Program:
    """The whole raised `program` after all transforms; into the trace goes what each costs on held-out text."""
    check_order(transforms)
    programs = [program]
    for each in transforms:
        bound = replace(cast(Any, each), calibration=calibration)
        programs.append(run_passes(programs[-1], [bound], trace, observer))
        give_back()
        changes = trace.passes[-1].rewrites
        if not changes:
            reasons = "; ".join(dict.fromkeys(entry.text for entry in trace.passes[-1].refusals)) or "nothing like it"
            raise UsageError(f"{each} found nothing to do: {reasons}")
    names = ["original", *map(str, transforms)]
    if calibration is not None:
        for name, each_program, quality in zip(names, programs, measure(programs, calibration.held_out), strict=True):
            trace.quality.append(
                QualityRecord(
                    name=name,
                    parameters=parameters(each_program),
                    weight_bytes=weight_bytes(each_program),
                    cache_bytes_a_token=cache_bytes_a_token(each_program),
                    perplexity=quality.perplexity,
                    divergence=quality.divergence,
                    agreement=quality.agreement,
                    tokens=quality.tokens,
                )
            )
    return programs[-1]


def parameters(program: Program) -> int:
    """How many numbers the weights have, tied ones counted once."""
    return sum(math.prod(weight.shape) for weight in program.weights.values() if weight.dtype.is_floating_point)


def weight_bytes(program: Program) -> int:
    """Bytes of the weights as an artifact for CPUs stores them."""
    found = [(weight, as_quantized(weight)) for weight in program.weights.values()]
    return sum(nbytes(weight) if quantized is None else stored_bytes(quantized) for weight, quantized in found)


def cache_bytes_a_token(program: Program) -> int:
    """Bytes of the keys and values that one token of one row adds, of all layers together.

    2 x layers x KV heads x (head size x bytes of an element + bytes of its scale, in 8 bits); what several attentions
    share counts once.
    """
    seen: set[fx.Node] = set()
    for node in program.graph.nodes:
        if node.target is burnish_ops.attention.default:
            for operand in node.args[1:3]:
                seen.update(coded(operand) or [operand])
    total = 0
    for read in seen:
        found = value(read)
        sizes = [size for size in found.shape if isinstance(size, int)]
        if len(sizes) != found.dim() - 2:
            raise InvalidProgramError(f"{read.name} has other sizes than of rows and tokens: {list(found.shape)}")
        total += math.prod(sizes) * found.dtype.itemsize
    return total
