"""Changing a program's graph: new nodes are typed at once and keep the place in the user's source."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from burnish.ir.infer import fake_mode, fake_weight, infer
from burnish.ir.program import Program, origin
from burnish.ir.signature import Input
from burnish.ir.weights import Weight


class Editor:
    """Inserts typed nodes into `program.graph`, in place. Work on a copy: `Editor(program.copy())`."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.graph = program.graph
        self.mode = fake_mode(program)

    @contextmanager
    def before(self, node: fx.Node) -> Iterator[None]:
        """New nodes go in front of `node`."""
        with self.graph.inserting_before(node):
            yield

    @contextmanager
    def after(self, node: fx.Node) -> Iterator[None]:
        """New nodes go right behind `node` (the first one created is the nearest)."""
        following = node.next
        with self.graph.inserting_before(following):
            yield

    def call(self, target: Any, *args: Any, like: fx.Node, name: str | None = None, **kwargs: Any) -> fx.Node:
        """A new node that calls `target`, typed, with the origin of `like`."""
        node = self.graph.create_node("call_function", target, args, kwargs, name=name)
        node.meta["origin"] = origin(like)
        node.meta["history"] = like.meta.get("history", ())
        infer(node, self.mode)
        self.program.made.append(node)
        return node

    def weight(self, name: str, weight: Weight) -> fx.Node:
        """A new `get_attr` node for a weight that the program does not have yet."""
        name = self.program.weights.add(name, weight)
        inputs = self.program.placeholders
        first = inputs[-1].next if inputs else next(iter(self.graph.nodes))
        with self.graph.inserting_before(first):
            node = self.graph.create_node("get_attr", name, name=_identifier(name))
        node.meta["val"] = fake_weight(weight, self.mode)
        self.program.made.append(node)
        return node

    def placeholder(self, name: str, val: torch.Tensor, after: fx.Node) -> fx.Node:
        """A new input behind the input `after`."""
        with self.graph.inserting_after(after):
            node = self.graph.create_node("placeholder", name, name=name)
        node.meta["val"] = val
        self.program.made.append(node)
        return node

    def input(self, declared: Input, val: torch.Tensor, after: fx.Node) -> fx.Node:
        """A new input of the interface, behind the input `after`."""
        inputs = list(self.program.interface.inputs)
        inputs.insert(1 + [each.name for each in inputs].index(after.name), declared)
        self.program.interface = replace(self.program.interface, inputs=tuple(inputs))
        return self.placeholder(declared.name, val, after)

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Let every user of `old` read `new`. `old` stays until `remove_dead`."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def _identifier(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name)


def remove_dead(program: Program) -> int:
    """Remove, in place, the nodes that nothing reads and the weights that no node reads; how many nodes went.

    Every op of the language is free of side effects, also those that torch tags as random (attention without dropout).
    """
    removed = 0
    for node in reversed(list(program.graph.nodes)):
        if not node.users and node.op not in ("placeholder", "output"):
            program.graph.erase_node(node)
            removed += 1
    used = {str(node.target) for node in program.graph.nodes if node.op == "get_attr"}
    program.weights = program.weights.keep_only(used)
    return removed
