"""Layers that were not traced, written down: each as a copy of the operations of one that it is like."""

from __future__ import annotations

import logging
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

from burnish.frontend.alike_layers import ALIKE, BEGINS, ENDS, LayerCall

_log = logging.getLogger(__name__)


class NotACopy(Exception):
    """The graph shows that a layer is not another one's copy: all of them have to be traced."""


def write_layers(graph: fx.Graph, calls: Sequence[LayerCall], model: nn.Module, exported: ExportedProgram) -> None:
    """Replace the ops that stand for layers in `graph`, a functional one of `exported`, which is a trace of `model`.

    Raises NotACopy.
    """
    weights = _weights(graph, model, exported)
    begins = {node.args[1]: node for node in graph.nodes if node.target is BEGINS}
    traced: dict[int, _Traced] = {}
    for node in [node for node in graph.nodes if node.target is ALIKE]:
        number, like = node.args[1:]
        if like not in begins:
            raise NotACopy(f"the mark in front of {calls[like].path} is gone")
        first = traced[like] = traced.get(like) or _Traced(begins[like])
        own = _own_weights(calls[like], calls[number], weights)
        first.write(node, own, (calls[like].path, calls[number].path))
    for node in [node for node in graph.nodes if node.target in (BEGINS, ENDS)]:
        graph.erase_node(node)
    graph.eliminate_dead_code()
    copies = sum(call.like is not None for call in calls)
    if copies:
        _log.info("%d layers are traced, and %d written down as copies of these", len(calls) - copies, copies)


class _Traced:
    """The operations of a traced layer: those between its two marks."""

    def __init__(self, begins: fx.Node) -> None:
        self.begins = begins
        self.inside: list[fx.Node] = []
        node = begins.next
        while not (node.target is ENDS and node.args[1] == begins.args[1]):
            if node.op == "output":
                raise NotACopy(f"the mark behind the layer of {begins.name} is gone")
            self.inside.append(node)
            node = node.next
        self.ends = node
        self._check()

    def _check(self) -> None:
        """NotACopy where a layer has more to do with the rest than by its inputs and outputs."""
        inside = {*self.inside, self.ends}
        outputs = set(_nodes(self.ends.args[0]))
        for node in self.inside:
            val = node.meta.get("val")
            if any(torch.fx.experimental.symbolic_shapes.free_unbacked_symbols(each) for each in _values(val)):
                raise NotACopy(f"{node.name} depends on values")
            if _is_size(node) or node in outputs:
                continue
            if any(user not in inside for user in node.users):
                raise NotACopy(f"{node.name} is read outside of its layer")

    def write(self, call: fx.Node, weights: Mapping[fx.Node, fx.Node], paths: tuple[str, str]) -> None:
        """The layer once more, in place of `call`, on its inputs and the `weights` that it has in place of others."""
        made = dict(weights)
        for old, new in zip(_nodes(self.begins.args[0]), _nodes(call.args[0]), strict=True):
            if made.setdefault(old, new) is not new:
                raise NotACopy(f"{old.name} comes into its layer twice, and is two values in {paths[1]}")
        graph = call.graph
        with graph.inserting_before(call):
            for node in self.inside:
                if _is_size(node) or node.target in (BEGINS, ENDS):
                    continue  # a number of rows or tokens is the same in all layers
                copied = graph.node_copy(node, lambda each: made.get(each, each))
                copied.meta = _renamed(node.meta, *paths)
                made[node] = copied
        outputs = [made.get(each, each) for each in _nodes(self.ends.args[0])]
        for user in list(call.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(outputs[user.args[1]])  # type: ignore[index]
            graph.erase_node(user)
        graph.erase_node(call)


def _weights(graph: fx.Graph, model: nn.Module, exported: ExportedProgram) -> dict[int, fx.Node]:
    """The nodes of parameters and buffers, by the identity of what the model has."""
    targets = {
        spec.arg.name: str(spec.target)
        for spec in exported.graph_signature.input_specs
        if spec.kind in (InputKind.PARAMETER, InputKind.BUFFER)
    }
    tensors = _tensors(model)
    return {
        id(tensors[targets[node.name]]): node
        for node in graph.nodes
        if node.op == "placeholder" and node.name in targets
    }


def _own_weights(first: LayerCall, other: LayerCall, nodes: Mapping[int, fx.Node]) -> dict[fx.Node, fx.Node]:
    """What `other` has in place of each of the weights of `first`."""
    own = _tensors(other.layer)
    found: dict[fx.Node, fx.Node] = {}
    for name, tensor in _tensors(first.layer).items():
        if id(tensor) not in nodes:
            continue  # nothing reads it
        if id(own[name]) not in nodes:
            raise NotACopy(f"{other.path}.{name} is not in the graph")
        found[nodes[id(tensor)]] = nodes[id(own[name])]
    return found


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by all of their names."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    return {**parameters, **dict(module.named_buffers(remove_duplicate=False))}


def _renamed(meta: Mapping[str, Any], before: str, after: str) -> dict[str, Any]:
    """What is noted of a node, of a layer at another path."""
    stack = {
        key: (_moved(path, before, after), kind) for key, (path, kind) in (meta.get("nn_module_stack") or {}).items()
    }
    return {**meta, "nn_module_stack": stack}


def _moved(path: str, before: str, after: str) -> str:
    rest = path.removeprefix(before)
    return after + rest if rest != path and rest[:1] in ("", ".", "@") else path


def _is_size(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymFloat | torch.SymBool)


def _values(val: Any) -> list[Any]:
    return list(val) if isinstance(val, tuple | list) else [] if val is None else [val]


def _nodes(argument: Any) -> list[fx.Node]:
    return list(argument)
