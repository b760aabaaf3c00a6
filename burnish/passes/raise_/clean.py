"""Export noise removed: assertions, copies that change nothing, full slices, one value computed twice."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from burnish.ir.edit import remove_dead
from burnish.ir.program import Program, operands, value
from burnish.ir.second_names import FIRST_NAMES
from burnish.ir.shapes import same_type
from burnish.ir.traits import is_random, traits
from burnish.passes.base import Effect, Log

aten = torch.ops.aten

_NEUTRAL: dict[Any, int] = {
    aten.add.Tensor: 0,
    aten.add.Scalar: 0,
    aten.sub.Tensor: 0,
    aten.sub.Scalar: 0,
    aten.mul.Tensor: 1,
    aten.mul.Scalar: 1,
    aten.div.Tensor: 1,
    aten.div.Scalar: 1,
    aten.pow.Tensor_Scalar: 1,
}

_DROPOUTS = {
    aten.dropout.default,
    aten.alpha_dropout.default,
    aten.feature_alpha_dropout.default,
    aten.feature_dropout.default,
}

# These read the layout of memory: a copy that makes it must stay in front of them.
_LAYOUT_READERS = {
    aten.as_strided.default,
    aten.as_strided_copy.default,
    aten.view.dtype,
    aten.view_as_complex.default,
    aten.view_as_real.default,
}


@dataclass(frozen=True)
class Clean:
    """What export adds to a model's own operations, removed; one name for what ATen has two names for."""

    name: ClassVar[str] = "clean"
    effect: ClassVar[Effect] = Effect.EXACT
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Clean `program`, in place. The shapes and dtypes of what stays are as they were; strides may differ."""
        for node in program.graph.nodes:  # first: a view does not fit what a clone leaves behind, a reshape does
            _rename(node)
        for node in list(program.graph.nodes):
            if traits(node.target).asserts:
                program.graph.erase_node(node)
                log.rewrite(node, "an assertion of export, removed")
            elif (same := _same_value(node, log)) is not None:
                node.replace_all_uses_with(same)
                program.graph.erase_node(node)
                log.rewrite(node, f"the same value as {same.name}")
        merge_duplicates(program, log)
        remove_dead(program)
        return program


def _rename(node: fx.Node) -> None:
    """Give the op of a node its first name."""
    if node.target in FIRST_NAMES:
        node.target = FIRST_NAMES[node.target]
    elif node.target is aten.square.default:
        node.target, node.args = aten.pow.Tensor_Scalar, (node.args[0], 2)
    elif node.target is aten.type_as.default:
        node.target, node.args, node.kwargs = aten._to_copy.default, node.args[:1], {"dtype": value(node).dtype}
    elif (normed := _native_batch_norm(node)) is not None:
        *operands_, momentum, eps = normed.args
        node.target, node.args = aten.batch_norm.default, (*operands_, False, momentum, eps, False)


def _native_batch_norm(item: fx.Node) -> fx.Node | None:
    """The norm whose first result `item` is: its other results are for training, and it checks no sizes."""
    normed = item.args[0] if item.target is operator.getitem and item.args[1] == 0 else None
    native = isinstance(normed, fx.Node) and normed.target is aten._native_batch_norm_legit_no_training.default
    return normed if native else None  # type: ignore[return-value]


def merge_duplicates(program: Program, log: Log) -> None:
    """Merge, in place, nodes of one value: the same op with the same arguments, or the same symbolic size."""
    first: dict[Any, fx.Node] = {}
    for node in list(program.graph.nodes):
        key = _value_key(node)
        if key is None:
            continue
        known = first.setdefault(key, node)
        if known is not node:
            node.replace_all_uses_with(known)
            program.graph.erase_node(node)
            log.rewrite(node, f"computed before, as {known.name}")


def _same_value(node: fx.Node, log: Log) -> fx.Node | None:
    """The node whose value `node` only repeats; None if it computes something."""
    if node.op != "call_function" or not node.args:
        return None
    target = node.target
    if getattr(target, "__name__", "") == "getitem":
        return _kept_by_native_dropout(node, log)
    source, *rest = operands(node)
    if target is aten.cat.default:
        full = [each for each in source if not _is_empty_along(each, rest[0] if rest else 0)]
        only: fx.Node = (full or source)[0]
        return only if len(full) < 2 and only.meta["val"].dtype == value(node).dtype else None
    if not isinstance(source, fx.Node) or not same_type(node.meta.get("val"), source.meta.get("val")):
        return None
    known = traits(target)
    if known.copy or known.cast:
        return None if _layout_is_read(node) else source
    if known.in_order:
        return source
    if target in _DROPOUTS:
        return source if _is_inactive(node, log) else None
    if target in _NEUTRAL:
        amount = rest[0]
        return source if isinstance(amount, int | float) and amount == _NEUTRAL[target] else None
    if target is aten.permute.default:
        order = [axis % len(rest[0]) for axis in rest[0]]
        return source if order == list(range(len(order))) else None
    return None


def _is_empty_along(node: fx.Node, axis: int) -> bool:
    """Whether it adds nothing to a concatenation, as the cache before the first token does."""
    shape = value(node).shape
    size = shape[axis if len(shape) > 1 else 0]  # one axis without elements is joined to anything
    return isinstance(size, int) and size == 0


def _is_inactive(dropout: fx.Node, log: Log) -> bool:
    probability, training = dropout.args[1:3]
    if probability != 0 and training:
        log.refuse(dropout, "the model was exported in training mode, so this dropout drops: call model.eval()")
        return False
    return True


def _kept_by_native_dropout(item: fx.Node, log: Log) -> fx.Node | None:
    """The input of an inactive native_dropout, if `item` is its first result."""
    dropout, index = item.args
    if index != 0 or not isinstance(dropout, fx.Node) or dropout.target is not aten.native_dropout.default:
        return None
    source = dropout.args[0]
    return source if _is_inactive(dropout, log) and isinstance(source, fx.Node) else None


def _layout_is_read(copy: fx.Node) -> bool:
    """Whether an op that reads the layout of memory gets this copy's, directly or through views."""
    stack, seen = [copy], {copy}
    while stack:
        for user in stack.pop().users:
            if user.target in _LAYOUT_READERS:
                return True
            if traits(user.target).view and user not in seen:
                seen.add(user)
                stack.append(user)
    return False


def _value_key(node: fx.Node) -> Any:
    """What makes two nodes one value; None if `node` must stay by itself."""
    if node.op == "get_attr":
        return "weight", node.target
    if node.op != "call_function" or is_random(node.target):
        return None
    val = node.meta.get("val")
    if isinstance(val, torch.SymInt):
        return "size", val.node.expr
    return node.target, _argument_key(node.args), _argument_key(node.kwargs)


def _argument_key(argument: Any) -> Any:
    """A hashable stand-in for an argument; numbers of different types (1, 1.0, True) stay apart."""
    if isinstance(argument, list | tuple):
        return tuple(_argument_key(item) for item in argument)
    if isinstance(argument, dict):
        return tuple((key, _argument_key(item)) for key, item in sorted(argument.items()))
    if isinstance(argument, bool | int | float | complex):
        return type(argument), repr(argument)  # repr tells -0.0 from 0.0, and nan is itself
    return argument
