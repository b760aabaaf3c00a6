"""Which nodes depend on positions alone, and what they are worth.

A node none of whose ancestors is input *data* (only sizes, ranges, constants and weights) is a function of the batch
and sequence sizes. It can be evaluated now, whatever way it was written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from burnish.ir.errors import UnsupportedError
from burnish.ir.interpreter import last_uses
from burnish.ir.program import Program, describe
from burnish.ir.traits import having, is_random

aten = torch.ops.aten

_SHAPE_READERS = having("shape_of_first")
FILLS = having("fills")  # the same for any number of tokens, so a step can run them as they are


class _Number(int):
    """The place of a line, printed so that it is no number among the arguments."""

    def __repr__(self) -> str:
        return f"%{int(self)}"


class PositionOnly:
    """The position-only nodes of a program, found once; evaluated on demand."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.nodes: set[fx.Node] = set()
        self.sized: set[fx.Node] = set()  # those that depend on a size; the others are constants
        self.digests: dict[str, tuple[Any, ...]] = {}
        for node in program.graph.nodes:
            self._classify(node)

    def __contains__(self, node: fx.Node) -> bool:
        return node in self.nodes

    def is_sized(self, node: fx.Node) -> bool:
        """Whether a position-only node depends on the batch or sequence size, and not on weights alone."""
        return node in self.sized

    def _classify(self, node: fx.Node) -> None:
        if node.op == "get_attr":
            self.nodes.add(node)
        elif node.op == "call_function":
            if isinstance(node.meta.get("val"), torch.SymInt | int | torch.SymFloat | torch.SymBool):
                self.nodes.add(node)
                self.sized.add(node)
                return
            inputs = node.all_input_nodes
            if is_random(node.target):
                return  # another value each time
            if node.target in _SHAPE_READERS:
                inputs = [argument for argument in inputs if argument is not node.args[0]]
                symbolic = any(isinstance(size, torch.SymInt) for size in _shape(node))
                if all(argument in self.nodes for argument in inputs):
                    self.nodes.add(node)
                    if symbolic or any(argument in self.sized for argument in inputs):
                        self.sized.add(node)
                return
            if all(argument in self.nodes for argument in inputs):
                self.nodes.add(node)
                if any(argument in self.sized for argument in inputs):
                    self.sized.add(node)

    def ancestors(self, targets: Sequence[fx.Node]) -> set[fx.Node]:
        """The position-only nodes needed to evaluate `targets`, themselves included; sizes stand alone."""
        needed: set[fx.Node] = set()
        stack = list(targets)
        while stack:
            node = stack.pop()
            if node in needed:
                continue
            needed.add(node)
            if isinstance(node.meta.get("val"), torch.SymInt | int | torch.SymFloat | torch.SymBool):
                continue
            inputs = node.all_input_nodes
            if node.target in _SHAPE_READERS:
                inputs = [argument for argument in inputs if argument is not node.args[0]]
            stack.extend(inputs)
        return needed

    def spelling(self, targets: Sequence[fx.Node]) -> tuple[Any, ...]:
        """How `targets` are computed, names left out: equal for nodes that are worth the same at all sizes."""
        needed = self.ancestors(targets)
        numbers: dict[fx.Node, Any] = {}
        lines: list[Any] = []
        for node in self.program.graph.nodes:
            if node in needed:
                lines.append(self._line(node, numbers))
                numbers[node] = _Number(len(lines))
        return (*lines, *(numbers[node] for node in targets))

    def _line(self, node: fx.Node, numbers: Mapping[fx.Node, Any]) -> Any:
        val = node.meta.get("val")
        if node.op == "get_attr":
            return self._digest(str(node.target))
        if isinstance(val, torch.SymInt | torch.SymFloat | torch.SymBool | int):
            return str(val)

        def argument(given: fx.Node) -> Any:  # one that is not needed is read for its shape
            return numbers[given] if given in numbers else (str(_shape(given)), str(given.meta["val"].dtype))

        return f"{node.target}{fx.map_arg((node.args, node.kwargs), argument)}"

    def _digest(self, name: str) -> tuple[Any, ...]:
        """A weight's content, so that equal buffers of different layers are one."""
        if name not in self.digests:
            value = self.program.weights[name].materialize().contiguous()
            content = hashlib.sha1(value.view(-1).view(torch.uint8).numpy().data, usedforsecurity=False)
            self.digests[name] = (str(value.dtype), tuple(value.shape), content.hexdigest())
        return self.digests[name]

    def evaluate(self, targets: Sequence[fx.Node], batch: int, length: int) -> list[Any]:
        """The values of `targets` for `batch` rows of `length` tokens."""
        needed = self.ancestors(targets)
        order = [node for node in self.program.graph.nodes if node in needed]
        values: dict[fx.Node, Any] = {}
        keep = set(targets)
        dying = last_uses(order)
        with torch.no_grad():
            for node in order:
                values[node] = self._value(node, values, batch, length)
                for dead in dying.get(node, ()):
                    if dead not in keep and dead in values:
                        del values[dead]
        return [values[node] for node in targets]

    def _value(self, node: fx.Node, values: dict[fx.Node, Any], batch: int, length: int) -> Any:
        val = node.meta.get("val")
        if node.op == "get_attr":
            return self.program.weights[str(node.target)].materialize()
        if isinstance(val, torch.SymInt | torch.SymFloat | torch.SymBool):
            return self.size(val, batch, length)
        if isinstance(val, int):
            return val

        def argument_value(argument: fx.Node) -> Any:
            if argument in values:
                return values[argument]
            shape = [self.size(size, batch, length) for size in _shape(argument)]
            return torch.empty(shape, dtype=argument.meta["val"].dtype)

        args, kwargs = fx.map_arg((node.args, node.kwargs), argument_value)
        assert callable(node.target)
        try:
            return node.target(*args, **kwargs)
        except Exception as error:
            raise self.not_computed(node, length, error) from error

    def not_computed(self, node: fx.Node, length: int, reason: object) -> UnsupportedError:
        """The error for a node that cannot be computed for that many tokens."""
        return UnsupportedError(
            f"{describe(node)} depends on positions alone, but cannot be computed for {length} tokens: {reason}. "
            "If a table of positions ends there, compile with a smaller max_length"
        )

    def size(self, size: Any, batch: int, length: int) -> Any:
        """A symbolic size as a number."""
        return size_in_numbers(self.program, size, batch, length)


def size_in_numbers(program: Program, size: Any, batch: int, length: int) -> Any:
    """A symbolic size of a program as a number, for `batch` rows of `length` tokens."""
    if isinstance(size, int):
        return size
    expression = size.node.expr
    if expression.is_Symbol and isinstance(size, torch.SymInt):  # almost all are
        return batch if str(expression) == program.batch else length
    found = expression.subs(
        {symbol: batch if str(symbol) == program.batch else length for symbol in expression.free_symbols}
    )
    if isinstance(size, torch.SymInt):
        return int(found)
    return bool(found) if isinstance(size, torch.SymBool) else float(found)


def _shape(node: fx.Node) -> Sequence[Any]:
    val = node.meta.get("val")
    return val.shape if isinstance(val, torch.Tensor) else ()


def sequence_axes(program: Program, node: fx.Node) -> list[int]:
    """The axes of a node's value whose size depends on the number of tokens."""
    axes = []
    for axis, size in enumerate(_shape(node)):
        if isinstance(size, torch.SymInt) and any(
            str(symbol) == program.sequence for symbol in size.node.expr.free_symbols
        ):
            axes.append(axis)
    return axes
