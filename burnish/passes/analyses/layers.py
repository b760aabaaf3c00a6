"""The layers of a model: stretches of its residual stream, found in the graph.

The stream is the way from the embedding through additions that leads on longest; scalings, norms, casts and views may
stand in it, products with a matrix and what mixes tokens may not. So it makes no difference whether attention and
feed-forward follow one another or stand side by side, nor whether norms come before them, behind them, or both.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import fx

from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, origin
from burnish.passes.analyses.head_rows import VIEWS
from burnish.passes.analyses.position_only import PositionOnly

aten = torch.ops.aten

_SUMS = {aten.add.Tensor, aten.sub.Tensor}
_SCALINGS = {aten.mul.Tensor, aten.div.Tensor}
# Of their first argument, or of all in a list of them.
_ON_ELEMENTS = VIEWS | {
    burnish_ops.rms_norm.default,
    aten.layer_norm.default,
    aten._to_copy.default,
    aten.to.dtype,
    aten.clone.default,
    aten.contiguous.default,
    aten.cat.default,  # several streams side by side
    aten.stack.default,
}
# A path up to its first number: `model.layers.3` of `model.layers.3.mlp`.
_NUMBERED = re.compile(r"(?:[^.]+\.)*?[0-9]+(?=\.|$)")


@dataclass(frozen=True)
class Layer:
    """One layer: without it, `end` would be `start`."""

    number: int  # from 0
    module: str  # "model.layers.3"; empty where modules do not tell layers apart
    start: fx.Node  # the stream in front of it
    end: fx.Node  # the stream behind it

    def __str__(self) -> str:
        return f"layer {self.number}" + (f" ({self.module})" if self.module else "")


def find_layers(program: Program) -> list[Layer]:
    """The layers of a program in order; none where it has no residual stream.

    A layer is the stretch of the stream within one numbered module; where no two such modules are on the stream, it
    goes from what one attention reads to what the next one reads.
    """
    data = _of_tokens(program)
    sums = _residual_sums(program, data)
    stream = _stream(program, data, sums)
    modules = [_module_at(stream, place, data) for place in range(len(stream))]
    found = _by_module(stream, modules, sums)
    return found if len({layer.module for layer in found}) > 1 else _by_attention(program, stream, data)


def added(stream: fx.Node) -> list[fx.Node]:
    """The two values whose sum `stream` is; none if it is no sum."""
    if stream.target not in _SUMS:
        return []
    return [read for read in stream.args[:2] if isinstance(read, fx.Node)]


def _of_tokens(program: Program) -> set[fx.Node]:
    """The nodes that depend on tokens, and not on positions alone."""
    positions = PositionOnly(program)
    return {node for node in program.graph.nodes if node.op == "call_function" and node not in positions}


def _carried(node: fx.Node, data: set[fx.Node]) -> list[fx.Node]:
    """What `node` carries on: none if it makes something new."""
    reads = [read for read in node.all_input_nodes if read in data]
    if node.target in _SUMS or (node.target in _SCALINGS and len(reads) == 1):
        return reads
    return reads if node.target in _ON_ELEMENTS else []


def _residual_sums(program: Program, data: set[fx.Node]) -> set[fx.Node]:
    """The sums of a value and something made from it. What experts add up, or positions and tokens, are others."""
    numbers = {node: number for number, node in enumerate(program.graph.nodes)}
    before: dict[fx.Node, int] = {}  # the nodes that go into one, a bit each
    found: set[fx.Node] = set()
    for node, number in numbers.items():
        before[node] = 1 << number if node in data else 0
        for read in node.all_input_nodes:
            before[node] |= before[read]
        reads = [read for read in added(node) if read in data]
        if len(reads) == 2 and any(before[a] >> numbers[b] & 1 for a, b in (reads, reads[::-1])):
            found.add(node)
    return found


def _stream(program: Program, data: set[fx.Node], sums: set[fx.Node]) -> list[fx.Node]:
    """The nodes of the residual stream in order: with the most sums, and then from the earliest node."""
    ways: dict[fx.Node, tuple[int, int, fx.Node | None]] = {}  # minus how many sums, number of the first node, before
    for number, node in enumerate(program.graph.nodes):
        if node in data:
            ways[node] = (0, number, None)
            for read in _carried(node, data):
                ways[node] = min(ways[node], (*ways[read][:2], read), key=lambda way: way[:2])
            ways[node] = (ways[node][0] - (node in sums), *ways[node][1:])
    stream: list[fx.Node] = []
    # The last of the best: what stands behind the last sum is of the stream.
    node = min(reversed(ways), key=lambda each: ways[each][:2], default=None)
    while node is not None:
        stream.append(node)
        node = ways[node][2]
    return stream[::-1]


def _module_at(stream: Sequence[fx.Node], place: int, data: set[fx.Node]) -> str:
    """The numbered module that a node of the stream is in, or, for a sum outside of any, that of what it adds."""
    node = stream[place]
    branches = [read for read in added(node) if read in data and place and read is not stream[place - 1]]
    for each in (node, *branches):
        found = _NUMBERED.match(origin(each).module)
        if found:
            return found[0]
    return ""


def _by_module(stream: Sequence[fx.Node], modules: Sequence[str], sums: set[fx.Node]) -> list[Layer]:
    found: list[Layer] = []
    place = 1  # the first node has nothing in front of it
    while place < len(stream):
        end = place
        while end + 1 < len(stream) and modules[end + 1] == modules[place]:
            end += 1
        if modules[place] and not sums.isdisjoint(stream[place : end + 1]):
            found.append(Layer(len(found), modules[place], stream[place - 1], stream[end]))
        place = end + 1
    return found


def _by_attention(program: Program, stream: Sequence[fx.Node], data: set[fx.Node]) -> list[Layer]:
    places = {node: place for place, node in enumerate(stream)}
    latest: dict[fx.Node, int] = {}  # the last place of the stream that goes into a node
    starts: list[int] = []
    for node in program.graph.nodes:
        latest[node] = places.get(node, max((latest[read] for read in node.all_input_nodes), default=-1))
        if node.target is burnish_ops.attention.default and latest[node] >= 0:
            starts.append(latest[node])
    sums = [place for place, node in enumerate(stream) if data.issuperset(added(node)) and added(node)]
    edges = sorted({*starts, *sums[-1:]}) if starts else []
    return [Layer(number, "", stream[start], stream[end]) for number, (start, end) in enumerate(pairwise(edges))]
