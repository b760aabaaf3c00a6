"""Types of nodes: a node's `meta["val"]` is what its op gives for its arguments' fake values."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from burnish.ir.errors import InvalidProgramError
from burnish.ir.program import Program, describe
from burnish.ir.weights import Weight

_torch_log = logging.getLogger("torch._subclasses.fake_tensor")


def fake_mode(program: Program) -> FakeTensorMode:
    """The mode that the program's fake values belong to; it knows the symbols of the sizes."""
    found = program.tokens.meta["val"]
    assert isinstance(found, FakeTensor)
    return found.fake_mode


def infer(node: fx.Node, mode: FakeTensorMode) -> Any:
    """Set and give the node's `meta["val"]` from those of its arguments."""
    node.meta["val"] = inferred(node, mode)
    return node.meta["val"]


def inferred(node: fx.Node, mode: FakeTensorMode) -> Any:
    """What the node's `meta["val"]` should be, from those of its arguments."""

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
