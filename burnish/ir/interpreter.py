"""The reference executor: the graph, node by node, in plain PyTorch. Slow, always there, always right."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, cast

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


def needed_only_for(program: Program, results: Collection[str]) -> set[fx.Node]:
    """The calls whose values nothing would read if the program did not give these results."""
    found: set[fx.Node] = set()
    if not results:
        return found
    given = {node for name, node in program.outputs.items() if name not in results}
    for node in reversed(program.graph.nodes):
        readers = [user for user in node.users if user.op != "output"]
        if node.op == "call_function" and node.users and node not in given and found.issuperset(readers):
            found.add(node)
    return found


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
    outputs = program.output.args[0]
    assert isinstance(outputs, list | tuple)
    values = dict(zip(placeholders, inputs, strict=True))
    return tuple(_evaluated(program, program.graph.nodes, values, outputs, watch))


@torch.no_grad()
def run_by_name(
    program: Program,
    inputs: Mapping[str, torch.Tensor],
    results: Collection[str] = ("logits",),
    watch: Callable[[fx.Node, Any], None] | None = None,
) -> dict[str, torch.Tensor]:
    """Of what `program` gives, those of `results` that it has and the new states, by name. `inputs`: states, too.

    What only other results need is not computed.
    """
    placeholders = {node.name: node for node in program.placeholders}
    if inputs.keys() != placeholders.keys():
        raise InvalidInputError(f"the program takes {', '.join(placeholders)}, and was given {', '.join(inputs)}")
    skipped = program.results.keys() - set(results)
    wanted = {name: node for name, node in program.outputs.items() if name not in skipped}
    unneeded = needed_only_for(program, skipped)
    nodes = [node for node in program.graph.nodes if node not in unneeded]
    values = {node: inputs[name] for name, node in placeholders.items()}
    return dict(zip(wanted, _evaluated(program, nodes, values, list(wanted.values()), watch), strict=True))


def _evaluated(
    program: Program,
    nodes: Iterable[fx.Node],
    values: dict[fx.Node, Any],
    outputs: Sequence[Any],
    watch: Callable[[fx.Node, Any], None] | None,
) -> list[Any]:
    """What `outputs` are after `nodes` ran in order; `values` are those of the placeholders."""
    nodes = [node for node in nodes if node.op != "output"]
    dying = last_uses(nodes)
    kept = {output for output in outputs if isinstance(output, fx.Node)}
    for node in nodes:
        if node.op == "get_attr":
            weight = program.weights[str(node.target)]
            values[node] = weight if _is_looked_up(node, weight) else weight.materialize()
        elif node.op == "call_function":
            target: Any = node.target
            args, kwargs = cast(tuple[Any, Any], fx.map_arg((node.args, node.kwargs), values.__getitem__))
            try:
                if isinstance(args[0] if args else None, PositionTable):
                    values[node] = args[0].at(args[1])
                else:
                    values[node] = target(*args, **kwargs)
            except Exception as error:
                raise InvalidProgramError(f"{describe(node)} failed: {error}") from error
        if watch is not None:
            watch(node, values[node])
        for dead in dying.get(node, ()):
            if dead not in kept:
                del values[dead]
    return [fx.map_arg(output, values.__getitem__) for output in outputs]
