"""Programs as text: one node a line, typed, with the user's source.

Repeated layers are printed once, `*` standing for the layer's number. Names are made from the module and the op, so
that the texts of a model with 2 layers and of one with 30 differ in their counts alone, and plain diff shows what a
pass did.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx

from burnish.ir.dtypes import SHORT, name_of
from burnish.ir.folding import NUMBER, READ, Folding, Line
from burnish.ir.parse_line import PLAIN_NAME
from burnish.ir.program import Program, Stage, origin


def dtype_name(dtype: torch.dtype) -> str:
    """The short name of a dtype: f32, bf16, i64."""
    return SHORT.get(name_of(dtype), name_of(dtype))


def type_text(val: Any, symbols: dict[str, str]) -> str:
    """The type of a node's value: `f32[batch, sequence, 576]`."""
    if isinstance(val, torch.Tensor):
        sizes = ", ".join(size_text(size, symbols) for size in val.shape)
        return f"{dtype_name(val.dtype)}[{sizes}]"
    if isinstance(val, tuple | list):
        return "(" + ", ".join(type_text(item, symbols) for item in val) + ")"
    if isinstance(val, torch.SymInt):
        return f"size {size_text(val, symbols)}"
    return type(val).__name__


def size_text(size: int | torch.SymInt, symbols: Mapping[str, str]) -> str:
    """A size by the names of its symbols."""
    if isinstance(size, int):
        return str(size)
    return re.sub(r"\w+", lambda word: symbols.get(word[0], word[0]), str(size))


def target_text(node: fx.Node) -> str:
    """The op's name: `aten.linear`, `burnish.attention`; the overload is left out where it is `default`."""
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return str(target).removesuffix(".default")
    return target if isinstance(target, str) else f"{getattr(target, '__name__', target)}"


def own_name(node: fx.Node) -> str:
    """A node as it is called when nothing is folded: `%x`, or `@name` for a weight."""
    return weight_name(str(node.target)) if node.op == "get_attr" else f"%{node.name}"


def weight_name(name: str) -> str:
    """A weight as it is called: `@layers.0.weight`; an odd name in quotes."""
    return f"@{name}" if PLAIN_NAME.fullmatch(name) else f"@{json.dumps(name)}"


def argument_text(argument: Any, name: Callable[[fx.Node], str] = own_name) -> str:
    """An argument as it prints: `%x`, `[%a, 1]`, `0.125`; `name` says what nodes are called."""
    if isinstance(argument, fx.Node):
        return name(argument)
    if isinstance(argument, list | tuple):
        return "[" + ", ".join(argument_text(item, name) for item in argument) + "]"
    if isinstance(argument, torch.dtype):
        return dtype_name(argument)
    return repr(argument)


def call_text(node: fx.Node, name: Callable[[fx.Node], str] = own_name) -> str:
    """What a `call_function` node computes: `aten.add(%x, 1)`."""
    arguments = [argument_text(argument, name) for argument in node.args]
    arguments += [f"{key}={argument_text(argument, name)}" for key, argument in node.kwargs.items()]
    return f"{target_text(node)}({', '.join(arguments)})"


def node_text(node: fx.Node, symbols: dict[str, str]) -> str:
    """One node as one line."""
    kind = type_text(node.meta.get("val"), symbols)
    if node.op == "placeholder":
        return f"input %{node.name}: {kind}"
    if node.op == "output":
        return f"return {argument_text(node.args[0])}"
    line = f"%{node.name}: {kind} = {call_text(node)}"
    place = str(origin(node))
    return f"{line}  # {place}" if place else line


def symbol_names(program: Program) -> dict[str, str]:
    """What the sizes' symbols are called in print."""
    own = {} if program.stage is Stage.GRAPH else {program.batch: "batch", program.sequence: "sequence"}
    return {**own, **program.details.get("symbols", {})}


def heading(program: Program) -> str:
    """The first line of a program's text."""
    calls = sum(node.op == "call_function" for node in program.graph.nodes)
    return f"# {program.stage.value}: {calls} operations, {len(program.weights)} weights, {len(program.states)} states"


def program_text(program: Program) -> str:
    """The whole program, repeated layers folded, weights first: for people. `burnish.ir.full_text` has all of it.

    What several layers read and no token's value goes into (tables, positions) comes ahead of the layers, though the
    graph may have it in the first of them.
    """
    symbols = symbol_names(program)
    states = {state.name for state in program.states}
    calls = shared_first([node for node in program.graph.nodes if node.op == "call_function"])
    folding = Folding.of(call_lines(calls, symbols))
    text = [
        heading(program),
        *Folding.of(_weight_lines(program)).render(),
        *(node_text(node, symbols) for node in program.placeholders if node.name not in states),
        *Folding.of(_state_lines(program)).render(),
        *folding.render(),
        f"return {_results(program, calls, folding)}",
    ]
    return "\n".join(text) + "\n"


# A number that stands alone in a name: the 3 of `layers.3.mlp` and of `past_3_key`, not that of `conv1d`.
_NUMBER = re.compile(r"(?<![A-Za-z0-9])[0-9]+(?![A-Za-z0-9])")
# What reads tokens for their number only, and what reads how many tokens came before.
_OF_POSITIONS = ("aten.sym_size.int", "burnish.positions", "burnish.ring_positions")
# A path up to its first number: `model.layers.3` of `model.layers.3.mlp`.
_LAYER = re.compile(r"(?:[^.]+\.)*?[0-9]+(?=\.|$)")


def _without_numbers(name: str, numbers: list[int]) -> str:
    """`name` with marks in place of its numbers, which go to `numbers`."""
    numbers += [int(number) for number in _NUMBER.findall(name)]
    return _NUMBER.sub(NUMBER, name)


def _layer(path: str) -> str:
    found = _LAYER.match(path)
    return found[0] if found else ""


def _weight_lines(program: Program) -> list[Line]:
    lines = []
    for name, weight in program.weights.items():
        numbers: list[int] = []
        sizes = ", ".join(str(size) for size in weight.shape)
        kind = f"{dtype_name(weight.dtype)}[{sizes}] {type(weight).__name__}"
        text = f"weight @{_without_numbers(name, numbers)}: {kind}"
        lines.append(Line(text, tuple(numbers), layer=_layer(name)))
    return lines


def _state_lines(program: Program) -> list[Line]:
    lines = []
    for state in program.states:
        numbers: list[int] = []
        sizes = ", ".join(str(size) for size in state.shape)
        kind = f"{state.kind.value} {dtype_name(state.dtype)}[{sizes}] axis {state.axis}"
        text = f"state %{_without_numbers(state.name, numbers)}: {kind}"
        if state.module:
            text += f"  # {_without_numbers(state.module, numbers)}"
        lines.append(Line(text, tuple(numbers), layer=_layer(state.module)))
    return lines


def shared_first(calls: Sequence[fx.Node]) -> list[fx.Node]:
    """The calls in another order that they could run in: what does not depend on any token's value and is read outside
    of its own layer comes first, with what it reads.
    """
    layers = {node: _layer(origin(node).module) for node in calls}
    free: set[fx.Node] = set()
    for node in calls:
        reads = node.all_input_nodes
        if target_text(node) in _OF_POSITIONS or all(read in free or read.op == "get_attr" for read in reads):
            free.add(node)
    shared: set[fx.Node] = set()
    for node in reversed(calls):
        if node in free and any(user in shared or layers.get(user, "") != layers[node] for user in node.users):
            shared.add(node)
    return [*(node for node in calls if node in shared), *(node for node in calls if node not in shared)]


def call_lines(calls: Sequence[fx.Node], symbols: dict[str, str]) -> list[Line]:
    """A line for each call; it defines `module.op`, where module is the last name in the module's path."""
    index = {node: number for number, node in enumerate(calls)}
    lines = []
    for node in calls:
        numbers: list[int] = []
        reads: list[int] = []

        def name(read: fx.Node, numbers: list[int] = numbers, reads: list[int] = reads) -> str:
            if read not in index:
                return _without_numbers(own_name(read), numbers)
            reads.append(index[read])
            return READ

        place = origin(node)
        text = f": {type_text(node.meta.get('val'), symbols)} = {call_text(node, name)}"
        if str(place):
            text += f"  # {_without_numbers(place.module, numbers)}{str(place).removeprefix(place.module)}"
        module = [part for part in place.module.split(".") if part and not part.isdigit()][-1:]
        op = target_text(node).split(".")[:2][-1]
        lines.append(Line(text, tuple(numbers), tuple(reads), ".".join((*module, op)), _layer(place.module)))
    return lines


def _results(program: Program, calls: Sequence[fx.Node], folding: Folding) -> str:
    """What the program gives; new states are listed once for all layers."""
    index = {node: number for number, node in enumerate(calls)}
    outputs = program.output.args[0]
    items: list[int | str] = []
    for output in outputs if isinstance(outputs, list | tuple) else (outputs,):
        known = index.get(output) if isinstance(output, fx.Node) else None
        items.append(argument_text(output) if known is None else known)
    return "[" + ", ".join(folding.render_list(items)) + "]"
