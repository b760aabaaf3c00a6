"""Which rows of a linear become which element of which head, whatever views lead there.

The views are run on the row numbers themselves: what comes out says where every element comes from. So it makes no
difference whether queries, keys and values are split, sliced, selected or unbound, or stand by turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, describe, operands
from burnish.ir.traits import having
from burnish.passes.analyses.position_only import size_in_numbers

aten = torch.ops.aten

ROWS, TOKENS = 2, 3  # that views are tried with: enough to tell them apart

VIEWS = having("view") | {aten.index.Tensor}  # a copy of some rows does as well


class NoHeads(Exception):
    """What stands in the way, and where."""

    def __init__(self, reason: str, node: fx.Node) -> None:
        super().__init__(f"{reason} (at {describe(node)})")


@dataclass(frozen=True)
class Rotary:
    """A rotary embedding by tables of rank 4, with size 1 on `head_axis`: [B, 1, S, R] or [B, S, 1, R]."""

    cos: fx.Node
    sin: fx.Node
    interleaved: bool
    head_axis: int


@dataclass(frozen=True)
class Heads:
    """One projection on its way to heads [B, H, S, D]."""

    linear: fx.Node
    rows: Tensor  # int64[H, D], of the linear's weight
    norm: fx.Node | None  # the weight of an RMS norm of each head
    eps: float
    rotary: Rotary | None
    scale: float  # a number that all is multiplied by
    nodes: frozenset[fx.Node]  # all on the way, the linear among them
    tokens_first: bool = False  # whether the linear's rows are [S, B], and not [B, S]


def heads_of(program: Program, end: fx.Node) -> Heads:
    """From heads back to the linear: rotary embedding, a norm, views. NoHeads says what else there is."""
    heads, size = int(end.meta["val"].shape[1]), int(end.meta["val"].shape[3])
    rotary: Rotary | None = None
    norm, eps, scale = None, 0.0, 1.0
    node, chain = end, list[fx.Node]()
    while node.target is not aten.linear.default:
        if node.op != "call_function":
            raise NoHeads("it is no view of a linear", node)
        if node.target in (burnish_ops.rotary.default, burnish_ops.rms_norm.default) and not (
            int(node.meta["val"].shape[-1]) == size and all(_keeps_last(view) for view in chain)
        ):
            raise NoHeads("it works on other elements than those of a head", node)
        if node.target is burnish_ops.rotary.default and rotary is None and norm is None:
            rotary = _rotary(node)
        elif node.target is burnish_ops.rms_norm.default and norm is None:
            _, norm, eps = operands(node)
            if norm is None:
                raise NoHeads("a norm of heads has no weight", node)
        elif node.target is aten.mul.Tensor and isinstance(node.args[1], int | float) and norm is None:
            scale *= node.args[1]
        elif node.target not in VIEWS:
            raise NoHeads("it is no view of a linear", node)
        chain.append(node)
        node = operands(node)[0]
    lead = [size_in_numbers(program, size, ROWS, TOKENS) for size in node.meta["val"].shape[:-1]]
    width = int(node.meta["val"].shape[-1])
    if math.prod(lead) != ROWS * TOKENS:
        raise NoHeads("it has other rows than those of the tokens", node)
    numbers = torch.arange(ROWS * TOKENS * width).reshape(*lead, width)
    found = run_views(program, node, numbers, chain[::-1], ROWS, TOKENS)
    if found.shape != (ROWS, heads, TOKENS, size):
        raise NoHeads("its heads are not made from one row of the linear", end)
    places, rows = found // width, found[0, :, 0] % width
    tokens_first = bool(places[0, 0, 1, 0] != 1)
    order = torch.arange(ROWS * TOKENS).reshape((TOKENS, ROWS) if tokens_first else (ROWS, TOKENS))
    order = order.T if tokens_first else order
    if not torch.equal(found, (order[:, None, :, None] * width + rows[None, :, None, :])):
        raise NoHeads("its heads are not made from one row of the linear", end)
    return Heads(node, rows, norm, eps, rotary, scale, frozenset((node, *chain)), tokens_first)


def _rotary(node: fx.Node) -> Rotary:
    _, cos, sin, *rest = operands(node)
    shape = cos.meta["val"].shape
    axes = [axis for axis in (1, 2) if len(shape) == 4 and isinstance(shape[axis], int) and shape[axis] == 1]
    if len(axes) != 1:
        raise NoHeads("rotary tables are not the same for all heads", cos)
    return Rotary(cos, sin, bool(rest and rest[0]), axes[0])


def _keeps_last(node: fx.Node) -> bool:
    """Whether a step between a norm and the heads leaves the last axis as it is."""
    if node.target is aten.transpose.int:
        rank = node.meta["val"].dim()
        return rank - 1 not in {int(axis) % rank for axis in operands(node)[1:]}
    if node.target is aten.permute.default:
        return int(operands(node)[1][-1]) in (-1, node.meta["val"].dim() - 1)
    return node.target not in VIEWS


def run_views(
    program: Program, start: fx.Node, numbers: Tensor, chain: list[fx.Node], rows: int = 1, tokens: int = 1
) -> Tensor:
    """What the views among the steps of `chain` make of `numbers` as the value of `start`, for rows of tokens."""
    values: dict[fx.Node, Any] = {start: numbers}

    def given(argument: fx.Node) -> Any:
        if argument in values:
            return values[argument]
        val = argument.meta.get("val")
        if isinstance(val, torch.SymInt | int):
            return size_in_numbers(program, val, rows, tokens)
        if argument.op == "get_attr":
            return program.weights[str(argument.target)].materialize()
        raise NoHeads("a view is told where to look by data", argument)

    for node in chain:
        if node.target not in VIEWS:
            values[node] = values[operands(node)[0]]
            continue
        args, kwargs = fx.map_arg((node.args, node.kwargs), given)
        assert callable(node.target)
        values[node] = node.target(*args, **kwargs)
    found = values[chain[-1]] if chain else numbers
    assert isinstance(found, Tensor)
    return found
