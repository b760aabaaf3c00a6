"""The numeric check of graphs that are no language models': what runs by what was captured, at several sizes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from burnish.ir.errors import InvalidProgramError, VerificationError
from burnish.ir.graph_inputs import Tensors, difference_of, inputs_of, several_sizes, told
from burnish.ir.interpreter import run_by_name, without_assertions
from burnish.ir.program import Program
from burnish.ir.trace import Check

_log = logging.getLogger(__name__)

TOLERANCES = {torch.bfloat16: 2e-2, torch.float16: 4e-3}  # of an output's largest number, by the narrowest floats
TOLERANCE = 1e-4  # of wider ones


class GraphVerifier:
    """Compares what runs with the captured program, whose outputs are computed once."""

    def __init__(self, captured: Program, examples: Tensors) -> None:
        program = without_assertions(captured)
        found = {val.dtype for node in program.graph.nodes if isinstance(val := node.meta.get("val"), Tensor)}
        self._tolerance = next((allowed for dtype, allowed in TOLERANCES.items() if dtype in found), TOLERANCE)
        self._runs: list[tuple[dict[str, int], dict[str, Tensor], dict[str, Tensor]]] = []
        for sizes in several_sizes(program):
            inputs = inputs_of(program, sizes, examples)
            if inputs is None:
                continue
            try:
                expected = run_by_name(program, inputs, program.interface.outputs)
            except (
                InvalidProgramError
            ) as error:  # ids that stand for places in an axis, and are outside of a shorter one
                if not self._runs:  # the examples themselves
                    raise
                _log.warning("the module itself does not take %s made of example_inputs: %s", told(sizes), error)
                continue
            self._runs.append((sizes, inputs, expected))

    def checks(self, by: str) -> list[Check]:
        """What is compared, in words."""
        return [Check(told(sizes), by) for sizes, _, _ in self._runs]

    def verify(self, run: Callable[[dict[str, Tensor]], Mapping[str, Tensor]], by: str) -> float:
        """The largest difference, of an output's largest number. VerificationError for one above the tolerance."""
        worst = 0.0
        for sizes, inputs, expected in self._runs:
            found = run(inputs)
            for name, wanted in expected.items():
                difference = difference_of(found[name], wanted)
                if not difference <= self._tolerance:  # also true for NaN
                    raise VerificationError(
                        f"{by} gives another {name} than the module for {told(sizes)}: it is "
                        f"{list(found[name].shape)}, and the relative difference {difference:.2e} (allowed: "
                        f"{self._tolerance:.0e})"
                    )
                worst = max(worst, difference)
        return worst
