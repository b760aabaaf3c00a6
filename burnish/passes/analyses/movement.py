"""What a chain of ops that only move and negate elements does, found by running it on numbered elements.

Halves by slice, chunk, split, unbind or stride, joined by cat or stack: there are many ways to write one movement. They
are all the same when elements 1, 2, 3, ... are sent through.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.program import Program, value
from burnish.ir.traits import having

aten = torch.ops.aten

MOVEMENTS = having("moves")
_LONGEST = 16  # nodes; a movement that somebody writes for a rotary embedding has at most 8
_BATCH, _TOKENS = 2, 3  # sizes to run with: different from one another, so that an exchange of the two would show


def concrete_shape(program: Program, node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's value for two rows of three tokens."""
    return tuple(_concrete(program, each) for each in value(node).shape)


def _concrete(program: Program, size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    values = {program.batch: _BATCH, program.sequence: _TOKENS, **program.details.get("examples", {})}
    if str(expression) in values:
        return int(values[str(expression)])
    return int(expression.subs({symbol: values[str(symbol)] for symbol in expression.free_symbols}))


def numbered(program: Program, node: fx.Node, first: int = 1) -> Tensor:
    """A stand-in for the node's value, of its shape for a small input: first, first + 1, first + 2, ..."""
    shape = concrete_shape(program, node)
    return torch.arange(first, first + math.prod(shape), dtype=torch.float64).reshape(shape)


def moved(program: Program, targets: Sequence[fx.Node], sources: Mapping[fx.Node, Tensor]) -> list[Tensor] | None:
    """What `targets` are for these values of `sources`; None if more than movements lies between them."""
    order = _between(targets, set(sources))
    if order is None:
        return None
    values: dict[fx.Node, Any] = dict(sources)

    def argument_value(argument: fx.Node) -> Any:
        if argument in values:
            return values[argument]
        return _concrete(program, argument.meta["val"])

    for node in order:
        args, kwargs = fx.map_arg((node.args, node.kwargs), argument_value)
        assert callable(node.target)
        values[node] = node.target(*args, **kwargs)
    return [values[target] for target in targets]


def _between(targets: Sequence[fx.Node], sources: set[fx.Node]) -> list[fx.Node] | None:
    """The nodes from `sources` (not included) to `targets`, inputs first."""
    order: dict[fx.Node, None] = {}

    def visit(node: fx.Node) -> bool:
        if node in order or node in sources:
            return True
        if node.target not in MOVEMENTS or len(order) >= _LONGEST:
            return False
        if not all(visit(argument) for argument in moved_inputs(node)):
            return False
        order[node] = None
        return True

    return list(order) if all(visit(target) for target in targets) else None


def moved_inputs(node: fx.Node) -> list[fx.Node]:
    """The inputs that are tensors, or tuples of tensors; sizes are not moved."""
    return [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor | tuple | list)]


def common_sources(program: Program, targets: Sequence[fx.Node]) -> list[fx.Node]:
    """The tensors that all of `targets` are moved from, the nearest first."""
    reached = [_reached(target) for target in targets]
    return [
        node
        for node in reached[0]
        if isinstance(node.meta.get("val"), Tensor) and all(node in others for others in reached[1:])
    ]


def _reached(target: fx.Node) -> dict[fx.Node, None]:
    """`target` and what it is moved from, the nearest first."""
    found: dict[fx.Node, None] = {target: None}
    queue = [target]
    while queue and len(found) < _LONGEST:
        node = queue.pop(0)
        if node.target in MOVEMENTS:
            inputs = moved_inputs(node)
            found.update(dict.fromkeys(inputs))
            queue.extend(inputs)
    return found
