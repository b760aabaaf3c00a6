"""What is wrong with a file, told before anything is made of it.

Whatever a file says is bounded here: names are there, graphs have no cycles, bodies and functions are not nested
without end, tensors have the bytes that they claim, and functions do not grow into more than can be worked with.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import onnx

from burnish.frontend.onnx.tensors import check_tensor
from burnish.ir.errors import InvalidModelError, UnsupportedError

FIRST_OPSET, LAST_OPSET = 7, onnx.defs.onnx_opset_version()
STANDARD = ("", "ai.onnx")
_MOST_DEPTH = 16  # of bodies in bodies, and of functions in functions
_LONGEST_NAME = 4096
_MOST_GROWTH = 50_000  # nodes that functions may add to what a file has written out
_Key = tuple[str, str, str]


def check_model(proto: onnx.ModelProto, folder: Path) -> None:
    """Raises unless a model is sound, as far as that is seen without running it.

    Raises:
        InvalidModelError: it is no ONNX, or hostile; the node or tensor is named.
        UnsupportedError: it is ONNX of a kind that is not read: another version, sequences, texts.
        WeightError: a tensor has not the bytes that its shape and type say.
    """
    if not proto.HasField("graph") or not proto.graph.output:
        raise InvalidModelError("the file has no graph with outputs: it is no ONNX model")
    if proto.ir_version < 1 or proto.ir_version > onnx.IR_VERSION:
        raise UnsupportedError(
            f"the file is of version {proto.ir_version} of ONNX's format: 1 to {onnx.IR_VERSION} are"
        )
    opsets = _opsets(proto.opset_import, "the model")
    functions = _functions(proto)
    for key, function in functions.items():
        if len(function.opset_import):
            _opsets(function.opset_import, f"the function {_name(key)}")
    _check_graph(proto.graph, "the graph", ChainMap(), folder, 0, {*opsets, *(key[0] for key in functions)}, functions)
    for key, function in functions.items():
        _check_function(key, function, folder, functions, {*opsets, *(key[0] for key in functions)})
    _check_growth(proto, functions)
    for info in (*proto.graph.input, *proto.graph.output):
        kind = info.type.WhichOneof("value")
        if kind not in ("tensor_type", None):
            raise UnsupportedError(f"{info.name!r} is a {kind.removesuffix('_type')}: tensors are supported")


def _opsets(imports: Iterable[onnx.OperatorSetIdProto], where: str) -> dict[str, int]:
    found = {"" if each.domain in STANDARD else each.domain: each.version for each in imports}
    version = found.get("")
    if version is not None and not FIRST_OPSET <= version <= LAST_OPSET:
        raise UnsupportedError(f"{where} is of opset {version}: {FIRST_OPSET} to {LAST_OPSET} are supported")
    return found


def _functions(proto: onnx.ModelProto) -> dict[_Key, onnx.FunctionProto]:
    found: dict[_Key, onnx.FunctionProto] = {}
    for function in proto.functions:
        key = (function.domain, function.name, function.overload)
        if key in found:
            raise InvalidModelError(f"there are two functions {_name(key)}")
        found[key] = function
    return found


def _name(key: _Key) -> str:
    return ".".join(part for part in key if part)


def _label(node: onnx.NodeProto) -> str:
    return f"the node {node.name or (node.output[0] if node.output else '')!r} ({node.op_type})"


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH or attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _check_graph(
    graph: onnx.GraphProto,
    where: str,
    outer: ChainMap[str, int],
    folder: Path,
    depth: int,
    domains: set[str],
    functions: Mapping[_Key, onnx.FunctionProto],
) -> None:
    if depth > _MOST_DEPTH:
        raise InvalidModelError(f"{where}: it is nested more than {_MOST_DEPTH} deep")
    if graph.sparse_initializer:
        raise UnsupportedError(f"{where}: it has a sparse tensor")
    known: dict[str, int] = {}
    _check_names(where, (value.name for value in (*graph.input, *graph.initializer, *graph.output)))
    for info in graph.input:
        if not info.name or info.name in known:
            raise InvalidModelError(f"{where}: an input has no name, or that of another one: {info.name!r}")
        known[info.name] = -1
    tensors: set[str] = set()
    for tensor in graph.initializer:
        if not tensor.name or tensor.name in tensors:
            raise InvalidModelError(f"{where}: a tensor has no name, or that of another one: {tensor.name!r}")
        check_tensor(tensor, f"the tensor {tensor.name!r}", folder)
        tensors.add(tensor.name)
        known[tensor.name] = -1
    _check_nodes(list(graph.node), where, known, outer, folder, depth, domains, functions)
    for info in graph.output:
        if info.name not in known and info.name not in outer:
            raise InvalidModelError(f"{where}: its output {info.name!r} is made by no node")


def _check_names(where: str, names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(name, str):  # protobuf gives bytes for what is no UTF-8
            raise InvalidModelError(f"{where}: the name {name[:40]!r} is no text")
        if len(name) > _LONGEST_NAME:
            raise InvalidModelError(f"{where}: a name has {len(name)} characters ({name[:40]!r}...)")


def _check_function(
    key: _Key,
    function: onnx.FunctionProto,
    folder: Path,
    functions: Mapping[_Key, onnx.FunctionProto],
    domains: set[str],
) -> None:
    where = f"the function {_name(key)}"
    known = dict.fromkeys(function.input, -1)
    own = {"" if each.domain in STANDARD else each.domain for each in function.opset_import}
    _check_nodes(list(function.node), where, known, ChainMap(), folder, 0, domains | own, functions)
    for name in function.output:
        if name not in known:
            raise InvalidModelError(f"{where}: its output {name!r} is made by no node")


def _check_nodes(
    nodes: list[onnx.NodeProto],
    where: str,
    known: dict[str, int],
    outer: ChainMap[str, int],
    folder: Path,
    depth: int,
    domains: set[str],
    functions: Mapping[_Key, onnx.FunctionProto],
) -> None:
    """Adds to `known` who makes each value."""
    for index, node in enumerate(nodes):
        _check_names(where, (node.name, node.op_type, node.domain, *node.output))
        if not node.op_type:
            raise InvalidModelError(f"{where}: {_label(node)} has no operator")
        if ("" if node.domain in STANDARD else node.domain) not in domains:
            raise InvalidModelError(f"{_label(node)} is of the domain {node.domain!r}, which the file does not import")
        for name in node.output:
            if name and name in known:
                raise InvalidModelError(f"{_label(node)} makes {name!r}, which is there already")
            if name:
                known[name] = index
    reads = [[name for name in node.input if name] for node in nodes]
    for index, node in enumerate(nodes):
        for name in reads[index]:
            if name not in known and name not in outer:
                raise InvalidModelError(f"{_label(node)} reads {name!r}, which is no input, no tensor and no output")
        for attribute in node.attribute:
            if attribute.HasField("t"):
                check_tensor(attribute.t, f"the tensor {attribute.name!r} of {_label(node)}", folder)
            if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
                raise UnsupportedError(f"{_label(node)} has a sparse tensor")
        for body in _bodies(node):
            _check_graph(
                body, f"a body of {_label(node)}", outer.new_child(known), folder, depth + 1, domains, functions
            )
            reads[index] += [name for name in _free_names(body) if known.get(name, -1) >= 0]
    _check_order(nodes, where, known, reads)


def _free_names(body: onnx.GraphProto) -> set[str]:
    """What a body reads and does not have itself."""
    own = {info.name for info in body.input} | {tensor.name for tensor in body.initializer}
    own |= {name for node in body.node for name in node.output}
    found = {name for node in body.node for name in node.input if name} | {info.name for info in body.output}
    for node in body.node:
        for inner in _bodies(node):
            found |= _free_names(inner)
    return found - own


def _check_order(nodes: list[onnx.NodeProto], where: str, known: Mapping[str, int], reads: list[list[str]]) -> None:
    """Raises InvalidModelError if a node needs what is made of its own output."""
    waits = [{known[name] for name in names if known.get(name, -1) >= 0} for names in reads]
    if all(not before or max(before) < index for index, before in enumerate(waits)):
        return
    users: dict[int, list[int]] = {}
    for index, before in enumerate(waits):
        for each in before:
            users.setdefault(each, []).append(index)
    left = [len(before) for before in waits]
    ready = [index for index, count in enumerate(left) if count == 0]
    done = 0
    while ready:
        done += 1
        for user in users.get(ready.pop(), ()):
            left[user] -= 1
            if left[user] == 0:
                ready.append(user)
    if done < len(nodes):
        stuck = next(index for index, count in enumerate(left) if count)
        raise InvalidModelError(f"{where}: {_label(nodes[stuck])} is in a cycle: it needs what is made of its output")


def _check_growth(proto: onnx.ModelProto, functions: Mapping[_Key, onnx.FunctionProto]) -> None:
    """Raises InvalidModelError if functions call themselves, or are too many nodes once they are written out."""
    sizes: dict[_Key, int] = {}

    def size(nodes: Iterable[onnx.NodeProto], stack: tuple[_Key, ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, node.overload)
            total += of_function(key, stack) if key in functions else 1
            for body in _bodies(node):
                total += size(body.node, stack)
            if total > 100 * _MOST_GROWTH:
                break
        return total

    def of_function(key: _Key, stack: tuple[_Key, ...]) -> int:
        if key in stack:
            raise InvalidModelError(f"the function {_name(key)} calls itself")
        if len(stack) > _MOST_DEPTH:
            raise InvalidModelError(f"the function {_name(key)} is called more than {_MOST_DEPTH} deep")
        if key not in sizes:
            sizes[key] = size(functions[key].node, (*stack, key))
        return sizes[key]

    for key in functions:
        of_function(key, ())
    total = size(proto.graph.node, ())
    written = len(proto.graph.node) + sum(len(function.node) for function in functions.values())
    if total > 20 * written + _MOST_GROWTH:
        raise InvalidModelError(f"the functions of the file are {total} nodes once they are written out: {written} are")
