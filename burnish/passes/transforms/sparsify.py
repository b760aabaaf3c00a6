"""Weights of which two in each four are zero."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.errors import UsageError
from burnish.ir.program import Program
from burnish.ir.quantization import as_quantized
from burnish.ir.weights import Stored
from burnish.passes.base import Effect, Log
from burnish.passes.transforms.calibration import Calibration
from burnish.passes.transforms.quantize_readers import head_of
from burnish.passes.transforms.stream import Stream

aten = torch.ops.aten


@dataclass(frozen=True)
class Sparsify:
    """Of each four neighbours in a row of a linear's weight, the two that matter least become zero ("2:4").

    "wanda" goes by |w| times the norm of what the weight is multiplied by on calibration text, each linear seeing what
    those before it have become (Sun et al., 2023); "magnitude" by |w| alone. The head of the model stays as it is. The
    weights are stored dense: there is no kernel that makes use of their zeros yet.
    """

    pattern: Literal["2:4"] = "2:4"
    method: Literal["wanda", "magnitude"] | None = None  # None: "wanda" with calibration text, else "magnitude"
    calibration: Calibration | None = field(default=None, repr=False, compare=False)
    name: ClassVar[str] = "sparsify"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = False
    place: ClassVar[int] = 1

    def check(self, calibrated: bool) -> None:
        """See `Transform.check`."""
        if self.pattern != "2:4":
            raise UsageError(f"there is no pattern {self.pattern!r}: there is 2:4")
        if self.method not in (None, "wanda", "magnitude"):
            raise UsageError(f"there is no method {self.method!r}: there are wanda and magnitude")
        if self.method == "wanda" and not calibrated:
            raise UsageError(f"{self} needs calibration text: give calibration=, or method='magnitude'")

    def run(self, program: Program, log: Log) -> Program:
        """Sparsify the weight of every linear, in place. Raises UsageError for options that there are not."""
        self.check(self.calibration is not None)
        method = self.method or ("magnitude" if self.calibration is None else "wanda")
        stream = None if self.calibration is None or method == "magnitude" else Stream(program, self.calibration.tokens)
        head = head_of(program)
        editor = Editor(program)
        norms: dict[fx.Node, Tensor] = {}  # of each value that linears read
        for linear in [node for node in program.graph.nodes if node.target is aten.linear.default]:
            read, leaf = linear.args[:2]
            assert isinstance(read, fx.Node)
            assert isinstance(leaf, fx.Node)
            reason = _obstacle(program, leaf, linear is head)
            if reason:
                log.refuse(linear, reason)
                continue
            if stream is not None and read not in norms:
                norms = {read: _channel_norms(stream, read)}  # linears of one value stand side by side
            name = program.weight_of(leaf)
            weight = program.weights[name].materialize()
            sparse = two_of_four(weight, norms.get(read, torch.ones(weight.shape[1])))
            linear.update_arg(1, editor.weight(f"{name}.2_4", Stored(sparse)))
            log.rewrite(linear, f"2 of each 4 weights are zero, by {method}")
        remove_dead(program)
        return program


def two_of_four(weight: Tensor, norms: Tensor) -> Tensor:
    """weight[N, K], in which of each four along a row the two of least |weight| * norms[K] are zero; 4 divides K."""
    scores = (weight.abs() * norms).reshape(len(weight), -1, 4)
    # Equal scores: the first stay, on every machine.
    order = scores.argsort(dim=-1, descending=True, stable=True)
    kept = torch.zeros_like(scores).scatter_(-1, order[..., :2], 1.0)
    return weight * kept.flatten(1)


def _obstacle(program: Program, leaf: fx.Node, is_head: bool) -> str:
    """Why a weight stays as it is; nothing if it need not."""
    if leaf.op != "get_attr":
        return "its weight is computed"
    if is_head:
        return "it gives the logits, which suffer most"
    weight = program.weights[program.weight_of(leaf)]
    if as_quantized(weight) is not None:
        return "its weight is of integers already"
    return f"its rows of {weight.shape[1]} are no whole groups of 4" if weight.shape[1] % 4 else ""


def _channel_norms(stream: Stream, read: fx.Node) -> Tensor:
    """The norm [K] of each channel of a value over all tokens."""
    total: Tensor | None = None
    for each in stream.each(read):
        squares = each.flatten(0, -2).double().square().sum(0)
        total = squares if total is None else total + squares
    assert total is not None
    return total.sqrt().float()
