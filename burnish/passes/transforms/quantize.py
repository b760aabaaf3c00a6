"""Weights of products in 8 or 4 bits, with a scale for each group of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.errors import UsageError
from burnish.ir.program import Program
from burnish.ir.quantization import Quantized, as_quantized
from burnish.passes.base import Effect, Log
from burnish.passes.transforms.calibration import Calibration
from burnish.passes.transforms.quantize_rounding import Grid, gptq, nearest
from burnish.passes.transforms.stream import Stream

aten = torch.ops.aten

Method = Literal["nearest", "gptq"]
BITS = {"int8": 8, "int4": 4}
GROUPS = (32, 64, 128)


@dataclass(frozen=True)
class Quantize:
    """Weights of linears in `numbers`, with a scale for each `group` along a row.

    "nearest" rounds each weight to the nearest integer. "gptq" (Frantar et al., 2022) rounds them one column after the
    other, and changes those to come so that they make up for the error on calibration text; each linear sees what
    the model quantized so far gives it.
    """

    numbers: Literal["int8", "int4"] = "int4"
    group: int | None = None  # weights of a row that share a scale: 32, 64, 128; None: 32 of int4, a row of int8
    method: Method | None = None  # None: "gptq" with calibration text, else "nearest"
    symmetric: bool = False  # int4 without zero points, as int8 is always
    calibration: Calibration | None = field(default=None, repr=False, compare=False)
    name: ClassVar[str] = "quantize"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = False
    place: ClassVar[int] = 2

    def run(self, program: Program, log: Log) -> Program:
        """Quantize the weight of every linear, in place.

        Raises UsageError for options that there are not, and where there is no text that is needed.
        """
        self._check()
        method = self.method or ("nearest" if self.calibration is None else "gptq")
        editor = Editor(program)
        stream = None if self.calibration is None or method == "nearest" else Stream(program, self.calibration.tokens)
        for linears in _by_input(program):
            grids = self._grids(program, linears, log)
            gram = None if stream is None or not grids else _gram(stream, linears[0].args[0])
            for linear, grid in grids.items():
                leaf = linear.args[1]
                assert isinstance(leaf, fx.Node)
                name = program.weight_of(leaf)
                weight = program.weights[name].materialize()
                quantized: Quantized = nearest(weight, grid) if gram is None else gptq(weight, gram, grid)
                editor.replace(leaf, editor.weight(f"{name}.{grid.name}", quantized))
                log.rewrite(linear, f"{grid}, {method}")
        remove_dead(program)
        return program

    def _check(self) -> None:
        """UsageError for options that there are not."""
        if self.numbers not in BITS:
            raise UsageError(f"there are no weights of {self.numbers!r}: there are {' and '.join(BITS)}")
        if self.group is not None and self.group not in GROUPS:
            raise UsageError(f"there are no groups of {self.group}: there are {', '.join(map(str, GROUPS))}")
        if self.method not in (None, "nearest", "gptq"):
            raise UsageError(f"there is no method {self.method!r}: there are nearest and gptq")
        if self.method == "gptq" and self.calibration is None:
            raise UsageError(f"{self} needs calibration text: give calibration=, or method='nearest'")

    def _grids(self, program: Program, linears: Sequence[fx.Node], log: Log) -> dict[fx.Node, Grid]:
        """What each weight is rounded to, by the first linear that reads it."""
        found: dict[fx.Node, Grid] = {}
        for linear in linears:
            leaf = linear.args[1]
            if not isinstance(leaf, fx.Node) or any(each.args[1] is leaf for each in found):
                continue
            reason = _obstacle(program, leaf)
            if reason:
                log.refuse(linear, reason)
                continue
            size = int(leaf.meta["val"].shape[1])
            bits = BITS[self.numbers]
            group = self.group or (size if bits == 8 else GROUPS[0])
            if size % group:
                log.refuse(linear, f"its rows of {size} are no whole groups of {group}")
                continue
            found[linear] = Grid(bits, group, symmetric=self.symmetric or bits == 8)
        return found


def _by_input(program: Program) -> list[list[fx.Node]]:
    """The linears that read one value, in the order of the graph."""
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if node.target is aten.linear.default:
            found.setdefault(node.args[0], []).append(node)
    return list(found.values())


def _obstacle(program: Program, leaf: fx.Node) -> str:
    """Why a weight stays as it is; nothing if it need not."""
    if leaf.op != "get_attr":
        return "its weight is computed in the graph"
    if as_quantized(program.weights[program.weight_of(leaf)]) is not None:
        return "its weight is of integers already"
    if leaf.meta["val"].dtype != torch.float32:
        return f"its weight is of {leaf.meta['val'].dtype}, and integers are multiplied with float32"
    return ""


def _gram(stream: Stream, x: object) -> Tensor:
    """X^T X of all rows X of x[..., K] on the calibration text, float64[K, K]."""
    assert isinstance(x, fx.Node)
    size = int(x.meta["val"].shape[-1])
    gram = torch.zeros(size, size, dtype=torch.float64)
    for batch in stream.each(x):
        rows = batch.reshape(-1, size).float()
        gram += (rows.T @ rows).double()
    return gram
