"""Which layers a model misses least, by what calibration text says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.program import Program
from burnish.passes.analyses.layers import Layer
from burnish.passes.transforms.quality import measure
from burnish.passes.transforms.stream import Stream

Method = Literal["divergence", "influence", "block"]

_WINDOWS = 4  # of the calibration text: the whole model runs on them for nearly every layer
_TOGETHER = 6  # candidates that are measured at once, next to the original


@dataclass(frozen=True)
class Choice:
    """A layer to leave out, and why."""

    layer: Layer
    reason: str


def choose(program: Program, layers: Sequence[Layer], count: int, method: Method, tokens: Tensor) -> list[Choice]:
    """`count` of `layers` to leave out, by calibration tokens int64[windows, length], of which the first few are used.

    "divergence": one after the other, the one without which the model's next-token distributions are nearest to the
    original's (Kullback-Leibler divergence), given those that are out already.
    "influence": those of least block influence, 1 - cos(input, output), the mean over tokens (ShortGPT, Men et al.,
    2024).
    "block": neighbours, such that the angle between the input of the first and the output of the last is least, the
    mean over tokens (Gromov et al., 2024).
    """
    few = tokens[:_WINDOWS]
    if method == "divergence":
        return _by_divergence(program, layers, count, few)
    if method == "influence":
        return _by_influence(program, layers, count, few)
    return _by_angle(program, layers, count, few)


def leave_out(program: Program, layer: Layer) -> None:
    """Let what reads a layer's output read its input, in place. The layer may be one of a copy of the program."""
    nodes = {node.name: node for node in program.graph.nodes}
    Editor(program).replace(nodes[layer.end.name], nodes[layer.start.name])
    remove_dead(program)


def _without(program: Program, layers: Sequence[Layer]) -> Program:
    small = program.copy()
    for layer in sorted(layers, key=lambda each: -each.number):  # from behind: an output can be the next one's input
        leave_out(small, layer)
    return small


def _by_divergence(program: Program, layers: Sequence[Layer], count: int, tokens: Tensor) -> list[Choice]:
    chosen: list[Choice] = []
    # What a layer costs grows with those that are out already: what it cost before is a bound, and once a layer costs
    # less than all others' bounds, these need no measuring (lazy greedy choice; Minoux, 1978).
    bounds = dict.fromkeys(layers, 0.0)
    while len(chosen) < count:
        out = [choice.layer for choice in chosen]
        costs: dict[Layer, float] = {}
        waiting = sorted(bounds, key=lambda layer: (bounds[layer], layer.number))
        while waiting and min(costs.values(), default=math.inf) > bounds[waiting[0]]:
            some, waiting = waiting[:_TOGETHER], waiting[_TOGETHER:]
            found = measure([program, *(_without(program, [*out, layer]) for layer in some)], tokens)
            costs |= {layer: quality.divergence for layer, quality in zip(some, found[1:], strict=True)}
        best = min(costs, key=lambda layer: (costs[layer], layer.number))
        chosen.append(Choice(best, f"divergence {costs[best]:.4f} nats a token with those before it"))
        bounds |= costs
        del bounds[best]
    return chosen


def _by_influence(program: Program, layers: Sequence[Layer], count: int, tokens: Tensor) -> list[Choice]:
    stream = Stream(program, tokens)
    influence: dict[Layer, float] = {}
    for layer in layers:
        before = [each.clone() for each in stream.each(layer.start)]
        influence[layer] = 1 - _mean([_cosine(x, y) for x, y in zip(before, stream.each(layer.end), strict=True)])
    chosen = sorted(layers, key=lambda layer: (influence[layer], layer.number))[:count]
    return [Choice(layer, f"block influence {influence[layer]:.4f}") for layer in chosen]


def _by_angle(program: Program, layers: Sequence[Layer], count: int, tokens: Tensor) -> list[Choice]:
    stream = Stream(program, tokens)
    inputs: list[list[Tensor]] = []  # of the last `count` layers
    angles: dict[int, float] = {}
    for place, layer in enumerate(layers):
        inputs = [*inputs[-(count - 1) :], []] if count > 1 else [[]]
        inputs[-1] = [each.clone() for each in stream.each(layer.start)]
        if len(inputs) == count:
            cosines = zip(inputs[0], stream.each(layer.end), strict=True)
            angles[place + 1 - count] = _mean([_cosine(x, y).clamp(-1, 1).acos() / math.pi for x, y in cosines])
    first = min(angles, key=lambda place: (angles[place], place))
    reason = f"angle {angles[first]:.4f} pi over layers {first} to {first + count - 1}"
    return [Choice(layer, reason) for layer in layers[first : first + count]]


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return F.cosine_similarity(x.double(), y.double(), dim=-1)


def _mean(parts: Sequence[Tensor]) -> float:
    return float(torch.cat([part.flatten() for part in parts]).mean())
