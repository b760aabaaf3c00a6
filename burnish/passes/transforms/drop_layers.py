"""Fewer layers: those that the model misses least, or those that are named, leave the residual stream as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, fx

from burnish.ir.errors import UsageError
from burnish.ir.program import Program, operands
from burnish.ir.weights import Stored
from burnish.passes.analyses.head_rows import VIEWS
from burnish.passes.analyses.layers import Layer, added, find_layers
from burnish.passes.base import Effect, Log
from burnish.passes.transforms.calibration import Calibration
from burnish.passes.transforms.drop_states import drop_states
from burnish.passes.transforms.layer_choice import Choice, Method, choose, leave_out
from burnish.passes.transforms.refit import refit
from burnish.passes.transforms.stream import Stream

aten = torch.ops.aten


@dataclass(frozen=True)
class DropLayers:
    """The model without some of its layers: `layers` by number from 0 or by module ("model.layers.3"), or `count` of
    them, chosen by calibration text.

    "divergence" drops one after the other, each time the one without which the model's predictions change least.
    "influence" drops those that turn the residual stream least (ShortGPT, Men et al., 2024), "block" the neighbours
    that together turn it least (Gromov et al., 2024). `refit`: the product in front of dropped layers is refit on
    calibration text, by least squares, so that the stream behind it comes nearest to what the layers made of it.
    """

    layers: Sequence[int | str] = ()
    count: int | None = None
    method: Method | None = None  # None: "divergence"
    refit: bool = False
    calibration: Calibration | None = field(default=None, repr=False, compare=False)
    name: ClassVar[str] = "drop-layers"
    effect: ClassVar[Effect] = Effect.LOSSY
    atomic: ClassVar[bool] = False
    place: ClassVar[int] = 0

    def run(self, program: Program, log: Log) -> Program:
        """Drop layers, in place, of a whole program or of one that has states.

        Raises UsageError where there are no such layers, or no text that is needed.
        """
        whole = not program.stage.is_step
        if not whole and (self.count is not None or self.refit):
            raise UsageError("layers are chosen and refit before states are inserted: afterwards, give them by layers=")
        self.check(self.calibration is not None)
        layers = find_layers(program)
        if not layers:
            raise UsageError("the model has no layers: no residual stream of sums leads through numbered modules")
        chosen = self._chosen(program, layers)
        for each in chosen:
            self._check_layer(each.layer)
        original = program.copy()
        for each in chosen[::-1]:  # from behind: what a layer gives can be what the next one reads
            leave_out(program, each.layer)
            if not whole:
                drop_states(program)
            log.rewrite(each.layer.end, f"{each.layer} left out" + (f": {each.reason}" if each.reason else ""))
        if self.refit:
            assert self.calibration is not None
            _refit(program, original, [each.layer for each in chosen], self.calibration.tokens, log)
        return program

    def check(self, calibrated: bool) -> None:
        """See `Transform.check`."""
        if self.count is None and not self.layers:
            raise UsageError("which layers to drop? Give layers= by number or name, or count=")
        if self.count is not None and self.layers:
            raise UsageError("layers to drop are either given by layers=, or count= of them are chosen")
        if self.count is None and self.method is not None:
            raise UsageError(f"method={self.method!r} chooses layers: give count= with it, not layers=")
        if self.count is not None and self.count < 1:
            raise UsageError(f"at least one layer is dropped, not {self.count}")
        if self.method not in (None, "divergence", "influence", "block"):
            raise UsageError(f"there is no method {self.method!r}: there are divergence, influence and block")
        if (self.count is not None or self.refit) and not calibrated:
            raise UsageError(f"{self} needs calibration text: give calibration=, or layers= and no refit")

    def _chosen(self, program: Program, layers: Sequence[Layer]) -> list[Choice]:
        """What to drop, in the order of the model."""
        if self.count is not None:
            _check_count(self.count, layers)
            assert self.calibration is not None
            found = choose(program, layers, self.count, self.method or "divergence", self.calibration.tokens)
            return sorted(found, key=lambda choice: choice.layer.number)
        wanted: set[Layer] = set()
        for each in self.layers:
            same = [layer for layer in layers if each in (layer.number, layer.module) and each != ""]
            if not same:
                modules = [layer.module for layer in layers if layer.module]
                known = f", {modules[0]} to {modules[-1]}" if modules else ""
                raise UsageError(f"the model has no layer {each!r}: it has layers 0 to {len(layers) - 1}{known}")
            wanted.update(same)
        _check_count(len(wanted), layers)
        return [Choice(layer, "") for layer in layers if layer in wanted]

    def _check_layer(self, layer: Layer) -> None:
        """UsageError for a layer whose output cannot be its input."""
        start, end = layer.start.meta["val"], layer.end.meta["val"]
        if not isinstance(start, Tensor) or start.shape != end.shape or start.dtype != end.dtype:
            raise UsageError(
                f"{layer} gives other than what it reads, and cannot be left out: {tuple(start.shape)} {start.dtype} "
                f"becomes {tuple(end.shape)} {end.dtype}"
            )


def _check_count(count: int, layers: Sequence[Layer]) -> None:
    if count >= len(layers):
        raise UsageError(f"{count} layers cannot be dropped of {len(layers)}: at least one has to stay")


def _refit(program: Program, original: Program, dropped: Sequence[Layer], tokens: Tensor, log: Log) -> None:
    """Refit the product in front of each stretch of dropped layers; UsageError if there is none that can be."""
    done = 0
    behind = {layer.start.name: layer for layer in dropped}
    for layer in dropped:
        if any(other.end.name == layer.start.name for other in dropped):
            continue  # within a stretch
        last = layer
        while last.end.name in behind:
            last = behind[last.end.name]
        start = _named(program, layer.start)
        linear = _product_before(start)
        if linear is None:
            log.refuse(start, f"nothing to refit in front of {layer}: the stream takes in no product of its own there")
            continue
        name = _refit_product(program, linear, start, original, _named(original, last.end), tokens)
        log.rewrite(linear, f"{name} refit for {layer}" + (f" to {last}" if last is not layer else ""))
        done += 1
    if not done:
        raise UsageError("refit=True found nothing to refit: the stream in front of the layers takes in no product")


def _named(program: Program, node: fx.Node) -> fx.Node:
    """The node of this name: in a copy it is another one."""
    found: fx.Node = next(each for each in program.graph.nodes if each.name == node.name)
    return found


def _product_before(stream: fx.Node) -> fx.Node | None:
    """The last linear whose result goes into `stream`, and nowhere else, by sums and views alone."""
    found: list[fx.Node] = []
    stack = [stream]
    while stack:
        node = stack.pop()
        reads = added(node) or ([operands(node)[0]] if node.target in VIEWS else [])
        if node.target is aten.linear.default and all(each.op == "get_attr" for each in _parameters(node)):
            found.append(node)
        stack += [read for read in reads if len(read.users) == 1]
    free = [node for node in found if all(len(each.users) == 1 for each in _parameters(node))]
    return max(free, default=None)


def _parameters(linear: fx.Node) -> list[fx.Node]:
    return [each for each in operands(linear)[1:] if each is not None]


def _refit_product(
    program: Program, linear: fx.Node, stream: fx.Node, original: Program, wanted: fx.Node, tokens: Tensor
) -> str:
    """Refit a linear so that `stream` comes nearest to what `wanted` is in the original; its weight's name."""
    read = operands(linear)[0]
    run = Stream(program, tokens)
    inputs = [_rows(each).clone() for each in run.each(read)]
    results = [_rows(each).clone() for each in run.each(linear)]
    targets = [
        result + _rows(better) - _rows(now)
        for result, now, better in zip(results, run.each(stream), Stream(original, tokens).each(wanted), strict=True)
    ]
    weights = {node: program.weights[program.weight_of(node)].materialize().float() for node in _parameters(linear)}
    fitted = refit([linear], weights, {}, read, inputs, targets, steps=0)
    for node, values in fitted.items():
        program.weights = program.weights.replaced(program.weight_of(node), Stored(values))
    return program.weight_of(_parameters(linear)[0])


def _rows(x: Tensor) -> Tensor:
    """x[..., size] as [1, tokens, size]."""
    return x.reshape(1, -1, x.shape[-1])
