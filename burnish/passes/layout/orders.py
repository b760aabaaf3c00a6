"""What each op needs to work on tensors whose axes lie in another order, and in which order its own result then lies.

An *order* names the axes of a tensor in the order in which they lie in memory: (0, 2, 3, 1) of images [B, C, H, W] is
channels last. An op works *in* an order of the axes of its first tensor (of its result, where it is pointwise); a plan
says what it then reads and gives. Each plan computes the same numbers as the op does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.arguments import arguments
from burnish.ir.edit import Editor
from burnish.ir.ops import burnish_ops
from burnish.ir.program import operands, value
from burnish.ir.shapes import size_expression
from burnish.ir.traits import is_random, traits
from burnish.ir.turns import Order, turned

aten = torch.ops.aten

Get = Callable[[fx.Node], fx.Node]
Emit = Callable[[Editor, Get], fx.Node]


@dataclass(frozen=True)
class Plan:
    """An op in an order: in which orders it reads its operands, and in which its result lies.

    emit: the op on the operands in these orders, which `Get` gives; the axes of its result are in the order `gives`.
    """

    reads: dict[fx.Node, Order]
    gives: Order
    emit: Emit


def identity(rank: int) -> Order:
    """The order in which the axes are written."""
    return tuple(range(rank))


def between(before: Order, after: Order) -> Order:
    """The `permute` that takes a tensor from one order to another."""
    return tuple(before.index(axis) for axis in after)


def inverse(order: Order) -> Order:
    """The `permute` that undoes another."""
    return between(order, identity(len(order)))


def moves(before: Order, after: Order, shape: Sequence[Any]) -> bool:
    """Whether elements move between two orders: axes of one may stand anywhere."""
    large = {axis for axis, size in enumerate(shape) if not (isinstance(size, int) and size == 1)}
    one, other = ([axis for axis in order if axis in large] for order in (before, after))
    return one != other


def frame(node: fx.Node) -> int | None:
    """How many axes there are to be ordered where an op works; None for one that works as it is written alone."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return None
    if _is_pointwise(node) or node.target in (aten.cat.default, burnish_ops.rotary.default):
        return value(node).dim()
    if node.target in _PLANS or turned(node) is not None:
        first = operands(node)[0]
        return value(first).dim() if isinstance(first, fx.Node) else None
    return None


def plan(node: fx.Node, order: Order) -> Plan | None:
    """How an op works in an order; None if it cannot."""
    if frame(node) != len(order):
        return None
    if (turn := turned(node)) is not None:
        source = operands(node)[0]
        gives = tuple(turn.index(axis) for axis in order)
        return Plan({source: order}, gives, lambda editor, get: get(source))
    if _is_pointwise(node):
        return _pointwise(node, order)
    return _PLANS[node.target](node, order)


def working(node: fx.Node, gives: Order) -> Order | None:
    """The order in which an op works to give its result in `gives`; None if there is none."""
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor) or value(node).dim() != len(gives):
        return None
    rank, found = frame(node), gives
    if rank is None:
        return None
    if (turn := turned(node)) is not None:
        found = tuple(turn[axis] for axis in gives)
    elif node.target in _RESHAPES:
        parts = groups(value(operands(node)[0]).shape, value(node).shape) or []
        part_of = {axis: place for place, (_, outs) in enumerate(parts) for axis in outs}
        visited = dict.fromkeys(part_of.get(axis, -1) for axis in gives)
        found = tuple(axis for part in visited if part >= 0 for axis in parts[part][0])
    elif node.target is aten.unsqueeze.default:
        new = arguments(node)["dim"] % len(gives)
        found = tuple(axis - (axis > new) for axis in gives if axis != new)
    elif rank > len(gives):  # the axes that go lie last
        gone = arguments(node)["dim"]
        lost = [axis % rank for axis in ([gone] if isinstance(gone, int) else gone)]
        kept = [axis for axis in range(rank) if axis not in lost]
        found = (*(kept[axis] for axis in gives), *lost) if len(kept) == len(gives) else gives
    made = plan(node, found) if sorted(found) == list(range(rank)) else None
    return found if made is not None and made.gives == gives else None


# ---------------------------------------------------------------- the same at each element

_ALSO_POINTWISE = frozenset(
    {
        aten._to_copy.default,
        aten.hardswish.default,
        aten.masked_fill.Tensor,
        aten.where.ScalarOther,
        aten.where.ScalarSelf,
        aten.where.Scalar,
        burnish_ops.gated_activation.default,
    }
)


def _is_pointwise(node: fx.Node) -> bool:
    target = node.target
    if is_random(target) or traits(target).copy:
        return False
    tagged = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    return target in _ALSO_POINTWISE or (tagged and target is not aten.prelu.default)


def _tensors(node: fx.Node) -> list[fx.Node]:
    return [each for each in node.all_input_nodes if isinstance(each.meta.get("val"), Tensor)]


def _within(order: Order, rank: int) -> Order:
    """The order of an operand's axes, which are the last `rank` of those in `order`."""
    missing = len(order) - rank
    return tuple(axis - missing for axis in order if axis >= missing)


def _spread(editor: Editor, get: Get, operand: fx.Node, order: Order, like: fx.Node) -> fx.Node:
    """An operand of fewer axes, with an axis of one wherever one of its own lies in front of a missing one."""
    found, missing = get(operand), len(order) - value(operand).dim()
    first = next((place for place, axis in enumerate(order) if axis >= missing), len(order))
    for place, axis in enumerate(order):
        if axis < missing and place > first:
            found = editor.call(aten.unsqueeze.default, found, place - first, like=like)
    return found


def _pointwise(node: fx.Node, order: Order) -> Plan | None:
    if value(node).dim() != len(order) or any(value(each).dim() > len(order) for each in _tensors(node)):
        return None
    reads = {each: _within(order, value(each).dim()) for each in _tensors(node)}

    def emit(editor: Editor, get: Get) -> fx.Node:
        return _again(editor, node, lambda each: _spread(editor, get, each, order, node))

    return Plan(reads, order, emit)


def _rotary(node: fx.Node, order: Order) -> Plan | None:
    return _pointwise(node, order) if order[-1] == len(order) - 1 else None


def _again(editor: Editor, node: fx.Node, get: Get, **changed: Any) -> fx.Node:
    """The op on other tensors, and with what else is changed, by name."""
    given = {**arguments(node), **changed}
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    by_name = {each.name for each in schema if each.kwarg_only}
    names = [each.name for each in schema if each.name in given and each.name not in by_name]
    while len(names) > len(node.args) and names[-1] not in changed and names[-1] not in node.kwargs:
        names.pop()  # a default
    placed: Any = [given[name] for name in names]
    named: Any = {name: each for name, each in given.items() if name in by_name and name in node.kwargs}
    tensors = set(_tensors(node))
    args, kwargs = fx.map_arg((placed, named), lambda each: get(each) if each in tensors else each)
    return editor.call(node.target, *args, like=node, **kwargs)


# ---------------------------------------------------------------- along axes that are named


def _reads(node: fx.Node, order: Order) -> dict[fx.Node, Order] | None:
    """The first tensor in `order`, the others as they are written; None if these are the same tensor."""
    first, *others = _tensors(node)
    reads = {each: identity(value(each).dim()) for each in others}
    return {first: order, **reads} if first is operands(node)[0] and first not in reads else None


def _planned(node: fx.Node, order: Order, gives: Order, changed: Callable[[], dict[str, Any]] = dict) -> Plan | None:
    """The op on its first tensor in `order`, with the arguments that `changed` gives."""
    reads = _reads(node, order)
    return None if reads is None else Plan(reads, gives, lambda editor, get: _again(editor, node, get, **changed()))


def _along(name: str) -> Callable[[fx.Node, Order], Plan | None]:
    """An op along one axis, or several, that stay."""

    def planned(node: fx.Node, order: Order) -> Plan | None:
        axes, rank = arguments(node)[name], len(order)
        places = order.index(axes % rank) if isinstance(axes, int) else [order.index(axis % rank) for axis in axes]
        return _planned(node, order, order, lambda: {name: places})

    return planned


def _reduced(node: fx.Node, order: Order) -> Plan | None:
    """An op over axes that go, unless it is told to keep them with a size of one."""
    a, rank = arguments(node), len(order)
    axes = a["dim"]
    if axes is None or axes == []:
        return None
    gone = [axis % rank for axis in ([axes] if isinstance(axes, int) else axes)]
    if node.target in _SQUEEZES and any(value(operands(node)[0]).shape[axis] != 1 for axis in gone):
        return None  # it leaves an axis of another size alone
    kept = [axis for axis in range(rank) if axis not in gone]
    gives = order if a.get("keepdim") else tuple(kept.index(axis) for axis in order if axis in kept)
    places = [order.index(axis) for axis in gone]
    return _planned(node, order, gives, lambda: {"dim": places[0] if isinstance(axes, int) else places})


def _joined(node: fx.Node, order: Order) -> Plan | None:
    parts, axis = operands(node)[0], arguments(node)["dim"]
    if any(value(each).dim() != len(order) for each in parts):
        return None  # an empty tensor of one axis may be joined with anything
    place = order.index(axis % len(order))
    return Plan(dict.fromkeys(parts, order), order, lambda editor, get: _again(editor, node, get, dim=place))


def _last_axes(count: Callable[[fx.Node], int]) -> Callable[[fx.Node, Order], Plan | None]:
    """An op on so many last axes, which stay the last."""

    def planned(node: fx.Node, order: Order) -> Plan | None:
        first = len(order) - count(node)
        return _planned(node, order, order) if order[first:] == identity(len(order))[first:] else None

    return planned


def _padded(node: fx.Node, order: Order) -> Plan | None:
    pad, rank = arguments(node)["pad"], len(order)
    if arguments(node).get("mode", "constant") != "constant":
        return None  # it copies pixels, of the last axes alone
    pairs = {rank - 1 - place: pad[2 * place : 2 * place + 2] for place in range(len(pad) // 2)}
    sizes = [size for axis in reversed(order) for size in pairs.get(axis, (0, 0))]
    return _planned(node, order, order, lambda: {"pad": sizes})


# ---------------------------------------------------------------- reshapes


def _sizes(node: fx.Node) -> list[Any] | None:
    """The sizes of a reshape as arguments: numbers, sizes that nodes give, and at most one that is worked out."""
    if node.target in (aten.reshape.default, aten.view.default, aten._unsafe_view.default):
        return list(operands(node)[1])
    shape = list(value(node).shape)
    unknown = [place for place, size in enumerate(shape) if not isinstance(size, int)]
    if len(unknown) > 1 or (unknown and 0 in shape):
        return None
    return [size if isinstance(size, int) else -1 for size in shape]


def groups(before: Sequence[Any], after: Sequence[Any]) -> list[tuple[list[int], list[int]]] | None:
    """Which axes of one shape become which of another, in the same order of elements, in parts as small as can be."""
    one, other = [size_expression(size) for size in before], [size_expression(size) for size in after]
    found: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(one) or j < len(other):
        if i == len(one) or j == len(other):  # what is left has one element
            if not found or any(size != 1 for size in (*one[i:], *other[j:])):
                return None
            found[-1][0].extend(range(i, len(one)))
            found[-1][1].extend(range(j, len(other)))
            break
        ins, outs, left, right = [i], [j], one[i], other[j]
        i, j = i + 1, j + 1
        while left != right:
            if left.is_Integer and right.is_Integer:
                grow = bool(left < right)
            else:
                grow = not (left / right).is_integer and (right / left).is_integer is True
            if grow and i < len(one):
                left, i = left * one[i], i + 1
                ins.append(i - 1)
            elif not grow and j < len(other):
                right, j = right * other[j], j + 1
                outs.append(j - 1)
            else:
                return None
        found.append((ins, outs))
    return found


def _reshaped(node: fx.Node, order: Order) -> Plan | None:
    source, sizes = operands(node)[0], _sizes(node)
    parts = groups(value(source).shape, value(node).shape)
    if sizes is None or parts is None:
        return None
    part_of = {axis: place for place, (ins, _) in enumerate(parts) for axis in ins}
    visited = list(dict.fromkeys(part_of[axis] for axis in order))
    if [axis for part in visited for axis in parts[part][0]] != list(order):
        return None  # axes that become one do not lie side by side
    gives = tuple(axis for part in visited for axis in parts[part][1])

    def emit(editor: Editor, get: Get) -> fx.Node:
        return editor.call(aten.reshape.default, get(source), [sizes[axis] for axis in gives], like=node)

    return Plan({source: order}, gives, emit)


def _inserted(node: fx.Node, order: Order) -> Plan | None:
    """A new axis of one, which lies where it is written."""
    new = arguments(node)["dim"] % (len(order) + 1)
    moved = [axis + (axis >= new) for axis in order]
    gives = (*moved[:new], new, *moved[new:])
    return _planned(node, order, gives, lambda: {"dim": new})


def _expanded(node: fx.Node, order: Order) -> Plan | None:
    sizes = operands(node)[1]
    return (
        _planned(node, order, order, lambda: {"size": [sizes[axis] for axis in order]})
        if len(sizes) == len(order)
        else None
    )


_RESHAPES = (
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
)
_SQUEEZES = {aten.squeeze.dim, aten.squeeze.dims}

_PLANS: dict[Any, Callable[[fx.Node, Order], Plan | None]] = {
    burnish_ops.rotary.default: _rotary,
    burnish_ops.rms_norm.default: _last_axes(lambda node: 1),
    aten.layer_norm.default: _last_axes(lambda node: len(arguments(node)["normalized_shape"])),
    aten.linear.default: _last_axes(lambda node: 1),
    aten.cat.default: _joined,
    **dict.fromkeys((aten.softmax.int, aten._softmax.default), _along("dim")),
    **dict.fromkeys((aten.log_softmax.int, aten._log_softmax.default), _along("dim")),
    **dict.fromkeys((aten.cumsum.default, aten.slice.Tensor, aten.narrow.default, aten.glu.default), _along("dim")),
    aten.flip.default: _along("dims"),
    **dict.fromkeys(
        (
            aten.mean.dim,
            aten.sum.dim_IntList,
            aten.amax.default,
            aten.amin.default,
            aten.var.correction,
            aten.any.dim,
            aten.prod.dim_int,
            aten.select.int,
            aten.squeeze.dim,
            aten.squeeze.dims,
        ),
        _reduced,
    ),
    **dict.fromkeys((aten.constant_pad_nd.default, aten.pad.default), _padded),
    **dict.fromkeys(_RESHAPES, _reshaped),
    aten.unsqueeze.default: _inserted,
    aten.expand.default: _expanded,
}
"""How an op works in an order of the axes of its first tensor, by op; pointwise ones and permutes aside."""
