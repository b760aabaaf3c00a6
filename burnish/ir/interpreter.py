"""The reference executor: the graph, node by node, in plain PyTorch. Slow, always there, always right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import fx

from burnish.ir.errors import InvalidInputError, InvalidProgramError
from burnish.ir.ops import burnish_ops
from burnish.ir.position_table import PositionTable
from burnish.ir.program import Program, describe
from burnish.ir.traits import traits
from burnish.ir.weights import Weight


def last_uses(nodes: Iterable[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """For each node, the nodes whose values nobody reads after it."""
    last: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        last[node] = node
        for argument in node.all_input_nodes:
            last[argument] = node
    dying: dict[fx.Node, list[fx.Node]] = {}
    for node, user in last.items():
        dying.setdefault(user, []).append(node)
    return dying


def _is_looked_up(node: fx.Node, weight: Weight) -> bool:
    """Whether only rows of a table are read, which can be made one by one."""
    return isinstance(weight, PositionTable) and all(
        user.target is burnish_ops.lookup.default and user.args[0] is node for user in node.users
    )


def without_assertions(program: Program) -> Program:
    """A copy that runs for any number of rows and tokens: export asserts what it took for granted of the sizes."""
    copy = program.copy()
    for node in reversed(list(copy.graph.nodes)):
        if traits(node.target).asserts:
            copy.graph.erase_node(node)
    return copy


@torch.no_grad()
def run(
    program: Program,
    inputs: Sequence[torch.Tensor],
    watch: Callable[[fx.Node, Any], None] | None = None,
) -> tuple[Any, ...]:
    """The outputs of `program` for `inputs`, one tensor a placeholder in order.

    `watch` is called with each node and its value. A value is freed after its last use.
    """
    placeholders = program.placeholders
    if len(inputs) != len(placeholders):
        raise InvalidInputError(f"the program takes {len(placeholders)} inputs, not {len(inputs)}")
    values: dict[fx.Node, Any] = dict(zip(placeholders, inputs, strict=True))
    dying = last_uses(program.graph.nodes)
    for node in program.graph.nodes:
        if node.op == "output":
            outputs = fx.map_arg(node.args[0], values.__getitem__)
            return outputs if isinstance(outputs, tuple) else tuple(outputs)
        if node.op == "get_attr":
            weight = program.weights[str(node.target)]
            values[node] = weight if _is_looked_up(node, weight) else weight.materialize()
        elif node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            try:
                if isinstance(args[0] if args else None, PositionTable):
                    values[node] = args[0].at(args[1])
                else:
                    values[node] = node.target(*args, **kwargs)
            except Exception as error:
                raise InvalidProgramError(f"{describe(node)} failed: {error}") from error
        if watch is not None:
            watch(node, values[node])
        for dead in dying.get(node, ()):
            del values[dead]
    raise InvalidProgramError("the graph has no output node")
