"""A program's graph as JSON-able data, and back: data only, whose names are resolved against a closed list.

    {"stage": "incremental", "batch": "s31", "sequence": "s70", "nodes": [
      {"name": "tokens", "op": "input", "type": "i64[batch, new]"},
      {"name": "embed_weight", "op": "weight", "target": "model.embed.weight", "type": "f32[49152, 576]"},
      {"name": "embedding", "op": "call", "target": "aten.embedding.default",
       "args": [{"node": "embed_weight"}, {"node": "tokens"}], "type": "f32[batch, new, 576]"},
      {"name": "output", "op": "output", "args": [[{"node": "embedding"}]]}]}

An argument is a number, a string, true, false, null, a list of arguments, or an object with one key: `node`,
`dtype`, `device`, `layout`, `memory_format`, or `float` (for inf, -inf and nan, which JSON cannot say).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

import msgspec
import torch
from torch import fx

from burnish.ir import code_ops as _code_ops  # noqa: F401  # importing them defines torch.ops.burnish
from burnish.ir import fused_group as _fused_group  # noqa: F401
from burnish.ir import fused_ops as _fused_ops  # noqa: F401
from burnish.ir import ops as _ops
from burnish.ir import panels as _panels  # noqa: F401
from burnish.ir import quantized_ops as _quantized_ops  # noqa: F401
from burnish.ir.dtypes import BYTES
from burnish.ir.errors import ArtifactError, InvalidProgramError
from burnish.ir.origin import Origin
from burnish.ir.program import Program, Stage, describe, operands, origin
from burnish.ir.signature import Interface, Signature
from burnish.ir.states import State
from burnish.ir.text import symbol_names, type_text
from burnish.ir.torch_types import torch_dtype
from burnish.ir.traits import is_known, is_random, traits
from burnish.ir.weights import Weights

_PYTHON_FUNCTIONS: tuple[Callable[..., Any], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    operator.floordiv,
    operator.mod,
    operator.pow,
    operator.neg,
    operator.pos,
    operator.eq,
    operator.ne,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
    operator.and_,
    operator.or_,
    operator.getitem,
    math.ceil,
    math.floor,
    math.trunc,
    torch.sym_float,
    torch.sym_int,
    torch.sym_ite,
    torch.sym_max,
    torch.sym_min,
    torch.sym_not,
)


def _function_name(function: Callable[..., Any]) -> str:
    module = {"_operator": "operator", "math": "math"}.get(function.__module__, "torch")
    return f"{module}.{function.__name__}"


_FUNCTION_OF = {_function_name(function): function for function in _PYTHON_FUNCTIONS}
PYTHON_FUNCTIONS = {function.__name__: function for function in _PYTHON_FUNCTIONS}
"""The functions that are not ops by their names as programs print them: `getitem`."""
_NAMESPACES = {"aten": torch.ops.aten, "burnish": _ops.burnish_ops}

# Functional by schema, and yet they reach out of the graph: to a file, to the terminal.
_FORBIDDEN_OPS = frozenset({"aten::from_file", "aten::_print"})

_UNCHECKED = frozenset({"as_strided", "as_strided_copy", "as_strided_scatter", "empty", "empty_like", "empty_strided"})
"""They give what happens to be in memory."""
_RECURRENT = frozenset({"lstm", "gru", "rnn_tanh", "rnn_relu"})  # random in training alone

_CONSTANTS: dict[str, dict[str, Any]] = {
    "dtype": {name: torch_dtype(name) for name in BYTES},
    "layout": {"strided": torch.strided},
    "memory_format": {name: getattr(torch, name) for name in ("contiguous_format", "preserve_format")},
    "device": {"cpu": torch.device("cpu")},
    "float": {name: float(name) for name in ("inf", "-inf", "nan")},
}
"""Arguments that JSON cannot say, by kind and name."""


class _Node(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    name: str
    op: Literal["input", "weight", "call", "output"]
    target: str = ""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    type: str = ""  # as `burnish.ir.text` prints it; for readers, not needed to run
    module: str = ""  # where in the user's model it comes from
    module_type: str = ""
    source: str = ""  # "file.py:12"
    code: str = ""


class _Graph(msgspec.Struct, forbid_unknown_fields=True):
    stage: Stage
    batch: str
    sequence: str
    nodes: list[_Node]


# ---------------------------------------------------------------- writing


def program_to_data(program: Program) -> dict[str, Any]:
    """The graph of `program` as data of dicts, lists, strings and numbers.

    Weights are named and not included. Raises InvalidProgramError where a node has an op or an argument that
    `program_from_data` would refuse.
    """
    symbols = symbol_names(program)
    graph_like = program.stage is Stage.GRAPH
    nodes = [_node_to_data(node, symbols, graph_like) for node in program.graph.nodes]
    graph = _Graph(program.stage, program.batch, program.sequence, nodes)
    data = msgspec.to_builtins(graph)
    assert isinstance(data, dict)
    return data


_OP_NAMES: dict[str, Literal["input", "weight", "call", "output"]] = {
    "placeholder": "input",
    "get_attr": "weight",
    "call_function": "call",
    "output": "output",
}


def _node_to_data(node: fx.Node, symbols: dict[str, str], of_graph: bool) -> _Node:
    if node.op not in _OP_NAMES:
        raise InvalidProgramError(f"{describe(node)} is a {node.op} node, which no program has")
    place = origin(node)
    called = node.op == "call_function"
    return _Node(
        name=node.name,
        op=_OP_NAMES[node.op],
        target=_target_name(node, of_graph) if called else str(node.target) if node.op == "get_attr" else "",
        args=[_argument_to_data(argument, node) for argument in node.args] if node.op != "placeholder" else [],
        kwargs={key: _argument_to_data(argument, node) for key, argument in node.kwargs.items()},
        type="" if node.meta.get("val") is None else type_text(node.meta["val"], symbols),
        module=place.module,
        module_type=place.module_type,
        source=f"{place.file.rsplit('/', 1)[-1]}:{place.line}" if place.file else "",
        code=place.code,
    )


def is_foreign(target: Any) -> bool:
    """Whether a program that calls `target` cannot be stored: it is no op or function of the language."""
    return _name_of(target) is None


def _target_name(node: fx.Node, of_graph: bool) -> str:
    name = _name_of(node.target, of_graph)
    if name is None:
        raise InvalidProgramError(f"{describe(node)} calls something that an artifact cannot hold")
    return name


@cache
def _name_of(target: Any, of_graph: bool = False) -> str | None:
    """What a stored step, or graph, calls an op or function; None for what it may not call."""
    if isinstance(target, torch._ops.OpOverload):
        refusal = _graph_refusal if of_graph else _step_refusal
        return str(target) if target.namespace in _NAMESPACES and refusal(target) is None else None
    return next((name for name, function in _FUNCTION_OF.items() if function is target), None)


def _argument_to_data(argument: Any, node: fx.Node) -> Any:
    if isinstance(argument, fx.Node):
        return {"node": argument.name}
    if isinstance(argument, list | tuple):
        return [_argument_to_data(item, node) for item in argument]
    if argument is None or isinstance(argument, bool | int | str):
        return argument
    if isinstance(argument, float) and math.isfinite(argument):
        return argument
    name = argument.type if isinstance(argument, torch.device) else str(argument).removeprefix("torch.")
    for kind, known in _CONSTANTS.items():
        if isinstance(argument, type(next(iter(known.values())))) and name in known:
            return {kind: name}
    raise InvalidProgramError(
        f"{describe(node)} has the argument {argument!r} of type {type(argument).__name__}, "
        "which an artifact cannot hold"
    )


# ---------------------------------------------------------------- reading


def program_from_data(
    data: Any, weights: Weights, interface: Signature | Interface, states: Sequence[State] = ()
) -> Program:
    """The program whose graph `program_to_data` gave, over `weights`.

    Raises ArtifactError, with the node's name, for anything that is not in the language: an op outside ATen
    and burnish, an op that writes or reaches outside the graph, a python function that is not on the list, a
    reference to a node that does not come before, a weight that is not there.
    """
    try:
        graph = msgspec.convert(data, _Graph)
        builder = _Builder(weights, graph.stage is Stage.GRAPH)
        for node in graph.nodes:
            builder.add(node)
    except (msgspec.ValidationError, RecursionError) as error:  # RecursionError: arguments in arguments
        raise ArtifactError(f"the stored graph is malformed: {error}") from error
    program = Program(
        graph=builder.finished(),
        weights=weights,
        interface=interface,
        states=tuple(states),
        stage=graph.stage,
        batch=graph.batch,
        sequence=graph.sequence,
    )
    declared = [*(each.name for each in interface.inputs), *(state.name for state in states)]
    if list(program.inputs) != declared:
        raise ArtifactError(
            f"the stored graph takes {', '.join(program.inputs)}, and its manifest says {', '.join(declared)}"
        )
    found, named = len(operands(program.output)[0]), len(interface.outputs) + len(program.states)
    if found != named:
        raise ArtifactError(f"the stored graph gives {found} values, and its manifest names {named}")
    return program


class _Builder:
    """A graph under construction from stored nodes."""

    def __init__(self, weights: Weights, of_graph: bool) -> None:
        self.weights = weights
        self.of_graph = of_graph
        self.graph = fx.Graph()
        self.nodes: dict[str, fx.Node] = {}
        self.complete = False

    def add(self, data: _Node) -> None:
        if self.complete:
            raise ArtifactError(f"the stored graph has the node {data.name!r} after its output")
        if data.name in self.nodes:
            raise ArtifactError(f"the stored graph has two nodes named {data.name!r}")
        if data.op == "input":
            node = self.graph.create_node("placeholder", data.name, name=data.name)
        elif data.op == "weight":
            if data.target not in self.weights:
                raise ArtifactError(
                    f"node {data.name!r} of the stored graph reads the weight {data.target!r}, which the artifact lacks"
                )
            node = self.graph.create_node("get_attr", data.target, name=data.name)
        elif data.op == "call":
            target = _resolve(data, self.of_graph)
            args = tuple(self._argument(argument, data) for argument in data.args)
            kwargs = {key: self._argument(argument, data) for key, argument in data.kwargs.items()}
            node = self.graph.create_node("call_function", target, args, kwargs, name=data.name)
        else:
            if len(data.args) != 1 or not isinstance(data.args[0], list):
                raise ArtifactError("the output of the stored graph is not one list of nodes")
            node = self.graph.output(tuple(self._argument(argument, data) for argument in data.args[0]))
            self.complete = True
        file, _, line = data.source.rpartition(":")
        node.meta["origin"] = Origin(
            data.module, data.module_type, file, int(line) if line.isdecimal() else 0, data.code
        )
        node.meta["type"] = data.type
        self.nodes[data.name] = node

    def finished(self) -> fx.Graph:
        if not self.complete:
            raise ArtifactError("the stored graph has no output")
        return self.graph

    def _argument(self, argument: Any, data: _Node) -> Any:
        if isinstance(argument, list):
            return [self._argument(item, data) for item in argument]
        if not isinstance(argument, dict):
            return argument
        if len(argument) == 1:
            [(kind, name)] = argument.items()
            known = self.nodes if kind == "node" else _CONSTANTS.get(kind, {})
            if isinstance(name, str) and name in known:
                return known[name]
        raise ArtifactError(f"node {data.name!r} of the stored graph has an argument of no known kind: {argument}")


def _resolve(data: _Node, of_graph: bool) -> Callable[..., Any]:
    """The op or function that `data.target` names, if it is one of the language."""
    found = _resolve_of_graph(data.target) if of_graph else resolve_step(data.target)
    if isinstance(found, str):
        raise ArtifactError(
            f"node {data.name!r} of the stored graph calls {data.target!r}, which an artifact may not: {found}"
        )
    return found


def resolve_step(name: str) -> Callable[..., Any] | str:
    """The op or function that a full name names; where passes cannot have left it in a step, why not.

    Steps of strangers run on values of which nobody worked out the types. ATen has ops that check nothing, and read
    outside of their tensors then (`_reshape_alias`); none of those that passes leave does.
    """
    found = _found(name)
    return (_step_refusal(found) or found) if isinstance(found, torch._ops.OpOverload) else found


def _resolve_of_graph(name: str) -> Callable[..., Any] | str:
    """The same for a graph that is no language model's."""
    found = _found(name)
    return (_graph_refusal(found) or found) if isinstance(found, torch._ops.OpOverload) else found


def resolve(name: str) -> Callable[..., Any] | str:
    """The op or function that a full name names; where a program of any stage, all typed, may not call it, why not."""
    found = _found(name)
    if not isinstance(found, torch._ops.OpOverload) or traits(found).asserts:
        return found
    return _refusal(found) or found


def _found(name: str) -> Callable[..., Any] | str:
    """The op or function that a full name names; why not, if there is none."""
    found = _FUNCTION_OF.get(name)
    if found is not None:
        return found
    parts = name.split(".")
    if len(parts) != 3 or parts[0] not in _NAMESPACES or not all(part.isidentifier() for part in parts):
        return "there is no such op"
    packet = getattr(_NAMESPACES[parts[0]], parts[1], None)
    op = getattr(packet, parts[2], None) if isinstance(packet, torch._ops.OpOverloadPacket) else None
    return op if isinstance(op, torch._ops.OpOverload) else "there is no such op"


def _step_refusal(op: torch._ops.OpOverload[..., Any]) -> str | None:
    """Why a stored step may not call `op`; None if it may."""
    return _refusal(op) or (None if is_known(op) else "it is none of those that passes leave in a step")


def _graph_refusal(op: torch._ops.OpOverload[..., Any]) -> str | None:
    """Why a stored graph may not call `op`: ATen's public ops check their arguments, but for a few, its own may not."""
    if (refusal := _refusal(op)) is not None or is_known(op):
        return refusal
    name = op._schema.name.removeprefix("aten::")
    unchecked = name.startswith("_") or name in _UNCHECKED or (is_random(op) and name not in _RECURRENT)
    return "it is none of those that a stored graph calls" if unchecked else None


def _refusal(op: torch._ops.OpOverload[..., Any]) -> str | None:
    """Why no program may call `op`; None if one may."""
    schema = op._schema  # torch has no public name for it
    name = f"{schema.name}.{schema.overload_name}" if schema.overload_name else schema.name
    if not torch._C._dispatch_has_kernel(name):
        return "it is no tensor op"
    if schema.is_mutable:
        return "it writes to its arguments"
    if schema.name in _FORBIDDEN_OPS or not schema.returns:
        return "it reaches outside the graph"
    return None
