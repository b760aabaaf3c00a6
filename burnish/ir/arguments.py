"""A node's arguments through its op's schema: positional, keyword and default are one."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import fx

NO_DEFAULT = object()

# What these say is where and how a value is computed and stored, never what the value is.
_ABOUT_STORAGE = frozenset({"device", "layout", "memory_format", "pin_memory", "non_blocking", "copy", "cudnn_enable"})


@cache
def signature(target: Any) -> tuple[tuple[str, Any], ...]:
    """Name and default (NO_DEFAULT if it has none) of each argument of an op, in order; () if it has no schema."""
    if not isinstance(target, torch._ops.OpOverload):
        return ()
    return tuple(
        (argument.name, argument.default_value if argument.has_default_value() else NO_DEFAULT)
        for argument in target._schema.arguments
    )


def arguments(node: fx.Node) -> dict[str, Any]:
    """The node's arguments by name, defaults filled in; those about storage are left out.

    A Python function (`operator.getitem`) has no schema: its arguments are named "0", "1" and so on.
    """
    names = signature(node.target)
    if not names:
        return {**{str(index): value for index, value in enumerate(node.args)}, **node.kwargs}
    found: dict[str, Any] = {}
    for index, (name, default) in enumerate(names):
        if name in _ABOUT_STORAGE:
            continue
        if index < len(node.args):
            found[name] = node.args[index]
        else:
            found[name] = node.kwargs.get(name, default)
    return found


def argument(node: fx.Node, name: str) -> Any:
    """One argument of a node, by its name in the schema; its default if it is not given."""
    return arguments(node)[name]
