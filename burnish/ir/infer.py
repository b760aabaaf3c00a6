"""Types of nodes: a node's `meta["val"]` is what its op gives for its arguments' fake values."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from burnish.ir.errors import InvalidProgramError
from burnish.ir.program import Program, describe
from burnish.ir.weights import Weight

_torch_log = logging.getLogger("torch._subclasses.fake_tensor")


def fake_mode(program: Program) -> FakeTensorMode:
    """The mode that the program's fake values belong to; it knows the symbols of the sizes."""
    for node in program.graph.nodes:
        if isinstance(val := node.meta.get("val"), FakeTensor):
            return val.fake_mode
    return FakeTensorMode()  # a graph of numbers


def infer(node: fx.Node, mode: FakeTensorMode) -> Any:
    """Set and give the node's `meta["val"]` from those of its arguments."""
    node.meta["val"] = inferred(node, mode)
    return node.meta["val"]


def inferred(node: fx.Node, mode: FakeTensorMode) -> Any:
    """What the node's `meta["val"]` should be, from those of its arguments.

    What a node was found to give is given again for each that is like it: most are, where a model has many layers.
    """
    known = vars(mode).setdefault("burnish_inferred", _Known())
    key = known.key(node)
    if key not in known.results:
        found = _evaluated(node, mode)
        if isinstance(found, torch.Tensor) and not free_unbacked_symbols(found):  # a new symbol is one node's own
            known.results[key] = found
        return found
    return known.results[key]


class _Known:
    """Results that nodes were found to have in a fake mode, and which of its values are of one type."""

    def __init__(self) -> None:
        self.results: dict[Any, torch.Tensor] = {}
        self._types: dict[int, tuple[Any, Any]] = {}  # by the identity of a value, which is kept

    def key(self, node: fx.Node) -> Any:
        """Equal for nodes that give the same."""
        return node.target, self._hashable((node.args, node.kwargs))

    def _hashable(self, argument: Any) -> Any:
        if isinstance(argument, fx.Node):
            return self._type(argument.meta["val"])
        if isinstance(argument, (tuple, list)):
            return type(argument).__name__, *map(self._hashable, argument)
        if isinstance(argument, dict):
            return tuple((name, self._hashable(each)) for name, each in argument.items())
        return type(argument), repr(argument)

    def _type(self, value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return tuple(map(self._type, value))
        if not isinstance(value, torch.Tensor):
            return _of(value)
        if id(value) not in self._types:
            sizes = (*value.shape, *value.stride(), value.storage_offset())
            found = value.dtype, value.device, value.dim(), tuple(map(_of, sizes))
            self._types[id(value)] = value, found
        return self._types[id(value)][1]


def _of(number: Any) -> Any:
    symbolic = isinstance(number, (torch.SymInt, torch.SymFloat, torch.SymBool))
    return type(number), number.node.expr if symbolic else repr(number)


def _evaluated(node: fx.Node, mode: FakeTensorMode) -> Any:
    def fake(argument: fx.Node) -> Any:
        return argument.meta["val"]

    args, kwargs = fx.map_arg((node.args, node.kwargs), fake)
    assert callable(node.target)
    disabled, _torch_log.disabled = _torch_log.disabled, True  # it prints a traceback of what is told below
    try:
        # Without the Python dispatcher, ops that decompose in C++ would ask symbolic sizes for their numbers.
        with enable_python_dispatcher(), mode:
            return node.target(*args, **kwargs)
    except Exception as error:
        raise InvalidProgramError(f"{describe(node)} does not fit its arguments: {error}") from error
    finally:
        _torch_log.disabled = disabled


def fake_weight(weight: Weight, mode: FakeTensorMode) -> torch.Tensor:
    """The fake value of a weight."""
    with mode:
        return torch.empty(weight.shape, dtype=weight.dtype)
