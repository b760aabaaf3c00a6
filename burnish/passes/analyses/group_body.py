"""The nodes of a group as the body of one `burnish::fused_elementwise`.

Equal layers give equal bodies, so that they share a kernel: names count within the group, and places in the model
have a star for the number of the layer.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from burnish.ir.full_text import node_line
from burnish.ir.fused_group import parse_group
from burnish.ir.fused_ops import fused_ops
from burnish.ir.program import operands, origin
from burnish.ir.text import argument_text, call_text, type_text

_NUMBER = re.compile(r"(?<![A-Za-z0-9])[0-9]+(?![A-Za-z0-9])")

_LAYER = re.compile(r"(?:[^.]+\.)*?[0-9]+(?=\.|$)")


@dataclass(frozen=True)
class Body:
    """A body, and the nodes that it is given."""

    text: str
    inputs: tuple[fx.Node, ...]
    sizes: tuple[fx.Node, ...]


def body_of(nodes: Sequence[fx.Node], results: Sequence[fx.Node], symbols: dict[str, str]) -> Body:
    """The body that computes `nodes`, which are in order, and returns `results`."""
    inside = set(nodes)
    read = list(dict.fromkeys(argument for node in nodes for argument in node.all_input_nodes))
    outside = [node for node in read if node not in inside]
    inputs = tuple(node for node in outside if isinstance(node.meta["val"], torch.Tensor))
    sizes = tuple(node for node in outside if node not in inputs)
    layer = _layer(nodes[-1])
    names = _named([*((node, _input_name(node, layer)) for node in inputs), *((node, "size") for node in sizes)])
    names |= _named(((node, _op_name(node)) for node in nodes), set(names.values()))

    def name(node: fx.Node) -> str:
        return f"%{names[node]}"

    lines = [f"input {name(node)}: {type_text(node.meta['val'], symbols)}" for node in inputs]
    lines += [f"size {name(node)}: {type_text(node.meta['val'], symbols)}" for node in sizes]
    for node in nodes:
        place = origin(node)
        place = replace(place, module=_NUMBER.sub("*", place.module))
        kind = type_text(node.meta["val"], symbols)
        lines.append(node_line(node.op, names[node], kind, call_text(node, name), place))
    lines.append(f"return {argument_text(list(results), name)}")
    return Body("\n".join(lines), inputs, sizes)


def _named(wanted: Iterable[tuple[fx.Node, str]], taken: set[str] | None = None) -> dict[fx.Node, str]:
    """Each node with its name, with a number where others have that."""
    used = set(taken or ())
    names: dict[fx.Node, str] = {}
    for node, hint in wanted:
        name, count = hint, 1
        while name in used:
            name, count = f"{hint}_{count}", count + 1
        used.add(name)
        names[node] = name
    return names


def _input_name(node: fx.Node, layer: str) -> str:
    """What a value from outside is called: by its weight, its state, or the module that gives it.

    What another layer gives is x: for the first layer, that is the embedding.
    """
    if node.op == "get_attr":
        text = "_".join(str(node.target).split(".")[-2:])
    elif node.op == "placeholder":
        text = node.name
    elif _layer(node) != layer:
        return "x"
    else:
        modules = [part for part in origin(node).module.split(".") if part and not part.isdigit()]
        text = "_".join(modules[-1:]) if _is_product(node) else _op_name(node)
    return _identifier(_NUMBER.sub("", text.replace("_", " ")).replace(" ", "_"))


def _is_product(node: fx.Node) -> bool:
    return _op_name(node) in ("linear", "fused_linear")


def _layer(node: fx.Node) -> str:
    """The path of the node's module up to its first number."""
    found = _LAYER.match(origin(node).module)
    return found[0] if found else ""


def _op_name(node: fx.Node) -> str:
    target: Any = node.target
    if target is operator.getitem:
        source, place = operands(node)
        if source.target is fused_ops.fused_elementwise.default:
            return re.sub(r"_\d+$", "", parse_group(str(source.kwargs["body"])).results[place])
        return f"{_op_name(source)}_part"
    return _identifier(target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else str(target))


def _identifier(text: str) -> str:
    cleaned = re.sub(r"\W+", "_", text, flags=re.ASCII)
    cleaned = re.sub(r"__+", "_", cleaned).strip("_")
    return cleaned if cleaned.isidentifier() else f"value_{cleaned}".strip("_")
