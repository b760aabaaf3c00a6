"""What leads to an attention over caches in one operation: norm, the three projections, rotary embedding, writes.

For targets that have it as one kernel: queries, keys and values are made, turned and stored while they are in
registers.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.fused_ops import fused_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, arguments, describe
from burnish.ir.weights import Concat
from burnish.passes.base import Effect, Log
from burnish.passes.pack_linears import packed_name

aten = torch.ops.aten


_NORMS = {burnish_ops.rms_norm.default, aten.layer_norm.default}
_SPLITS = {aten.split_with_sizes.default, aten.split.Tensor, aten.chunk.default}


class _NoMatch(Exception):
    """What stands in the way, and where."""

    def __init__(self, reason: str, node: fx.Node) -> None:
        super().__init__(f"{reason} (at {describe(node)})")


@dataclass(frozen=True)
class _Heads:
    """One projection on its way to heads: rows of a linear, a norm of each head, rotary embedding."""

    linear: fx.Node
    rows: tuple[int, int]
    norm: fx.Node | None
    eps: float
    rotary: tuple[fx.Node, fx.Node, bool] | None  # cos, sin, interleaved


@dataclass(frozen=True)
class FuseProjections:
    """norm, linear x 3, rotary, cache_write x 2 -> burnish::attention_projection."""

    name: ClassVar[str] = "fuse-projections"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Fuse what leads to each attention of a step program, in place."""
        editor = Editor(program)
        for node in list(program.graph.nodes):
            if node.target is burnish_ops.attention.default:
                try:
                    told = _fuse(program, editor, node)
                except _NoMatch as miss:
                    log.refuse(node, str(miss))
                else:
                    log.rewrite(node, told)
        remove_dead(program)
        return program


def _fuse(program: Program, editor: Editor, attention: fx.Node) -> str:
    query, key_write, value_write = attention.args[:3]
    for write in (key_write, value_write):
        if write.target is not burnish_ops.cache_write.default or write.args[3] != 2:  # type: ignore[union-attr]
            raise _NoMatch("keys or values are not read from a cache of its own", write)  # type: ignore[arg-type]
    key_state, new_key, position, _ = arguments(key_write)  # type: ignore[arg-type]
    value_state, new_value, *_ = arguments(value_write)  # type: ignore[arg-type]
    size = int(key_state.meta["val"].shape[-1])
    if int(value_state.meta["val"].shape[-1]) != size:
        raise _NoMatch("keys and values have heads of different sizes", value_state)
    ends = ((query, attention), (new_key, key_write), (new_value, value_write))
    parts = [_heads(end, size, user) for end, user in ends]  # type: ignore[arg-type]
    weight_parts, bias_parts = _rows(parts)
    options: dict[str, Any] = {"heads": int(query.meta["val"].shape[1])}  # type: ignore[union-attr]
    options |= _head_options(parts, attention)
    x, norm_weight, norm_bias, norm_options = _norm(parts)
    first, second, _ = parts
    weight, bias = _packed(program, editor, weight_parts), _packed(program, editor, bias_parts)
    with editor.before(attention):
        cos, sin = (_without_heads(editor, each) for each in first.rotary[:2]) if first.rotary else (None, None)
        fused = editor.call(
            fused_ops.attention_projection.default,
            *(x, weight, key_state, value_state, position, bias, norm_weight, norm_bias),
            *(first.norm, second.norm, cos, sin),
            like=attention,
            **options,
            **norm_options,
        )
        results = [editor.call(operator.getitem, fused, index, like=attention) for index in range(3)]
    for old, new in zip((query, key_write, value_write), results, strict=True):
        editor.replace(old, new)  # type: ignore[arg-type]
    steps = [*(["norm"] if norm_options else []), "projections", *(["rotary embedding"] if first.rotary else [])]
    return f"{', '.join(steps)} and cache writes in one"


def _heads(end: fx.Node, size: int, user: fx.Node) -> _Heads:
    """From heads [B, H, S, D], each step read by the next one alone, back to the linear."""
    rotary: tuple[fx.Node, fx.Node, bool] | None = None
    norm, eps, transposed, split = None, 0.0, False, False
    node = end
    while True:
        if set(node.users) != {user}:
            raise _NoMatch("a projection is read by something else, too", node)
        if node.target is burnish_ops.rotary.default and rotary is None and norm is None and not transposed:
            _, cos, sin, *rest = arguments(node)
            if cos.meta["val"].dim() != 4 or cos.meta["val"].shape[1] != 1:
                raise _NoMatch("rotary tables are not [B, 1, S, R]", cos)
            rotary = (cos, sin, bool(rest and rest[0]))
        elif _swaps_heads(node) and not transposed:
            transposed = True
        elif node.target is burnish_ops.rms_norm.default and norm is None and int(node.meta["val"].shape[-1]) == size:
            _, norm, eps = arguments(node)
            if norm is None:
                raise _NoMatch("a norm of heads has no weight", node)
        elif (
            node.target is aten.reshape.default and transposed and not split and int(node.meta["val"].shape[-1]) == size
        ):
            split = True
            source = arguments(node)[0]
            if node.meta["val"].dim() != 4 or source.meta["val"].dim() != 3:
                raise _NoMatch("heads are not made from [B, S, H * D]", node)
        else:
            break
        user, node = node, arguments(node)[0]
    if not split:
        raise _NoMatch("it is no projection to heads", node)
    linear, rows = _linear_rows(node)
    return _Heads(linear, rows, norm, eps, rotary)


def _swaps_heads(node: fx.Node) -> bool:
    """Whether a node turns [B, S, H, D] into [B, H, S, D]."""
    if node.target is aten.transpose.int:
        return {int(axis) % 4 for axis in arguments(node)[1:]} == {1, 2} and node.meta["val"].dim() == 4
    return node.target is aten.permute.default and list(arguments(node)[1]) == [0, 2, 1, 3]


def _linear_rows(node: fx.Node) -> tuple[fx.Node, tuple[int, int]]:
    """The linear that a value is, or is a part of, and which of its rows."""
    width = int(node.meta["val"].shape[-1])
    if node.target is aten.linear.default:
        return node, (0, width)
    if node.target is operator.getitem:
        pieces, index = arguments(node)
        source = arguments(pieces)[0]
        last = source.meta["val"].dim() - 1
        along = pieces.args[2] if len(pieces.args) > 2 else pieces.kwargs.get("dim", 0)
        if pieces.target in _SPLITS and along in (-1, last) and source.target is aten.linear.default:
            start = sum(int(piece.shape[-1]) for piece in pieces.meta["val"][:index])
            return source, (start, start + width)
    if node.target is aten.slice.Tensor:
        source, axis, start, stop, *step = arguments(node)
        whole = int(source.meta["val"].shape[-1])
        last = source.meta["val"].dim() - 1
        if source.target is aten.linear.default and axis in (-1, last) and step in ([], [1]):
            first, end, _ = slice(start, stop).indices(whole)
            return source, (first, end)
    raise _NoMatch("a projection is no linear, nor a part of one", node)


def _rows(parts: list[_Heads]) -> tuple[list[fx.Node], list[fx.Node]]:
    """The weights, and the biases, whose rows are those of the parts in order."""
    linears = list(dict.fromkeys(part.linear for part in parts))
    x = arguments(linears[0])[0]
    for linear in linears:
        if arguments(linear)[0] is not x:
            raise _NoMatch("queries, keys and values are projections of different values", linear)
        covered = [part.rows for part in parts if part.linear is linear]
        ends = [0, *(stop for _, stop in covered)]
        if [start for start, _ in covered] != ends[:-1] or ends[-1] != int(linear.meta["val"].shape[-1]):
            raise _NoMatch("its rows are not queries, keys and values in this order", linear)
    if parts != sorted(parts, key=lambda part: linears.index(part.linear)):
        raise _NoMatch("its rows are not queries, keys and values in this order", linears[0])
    weights = [arguments(linear)[1] for linear in linears]
    biases = [arguments(linear)[2] for linear in linears if len(linear.args) > 2 and linear.args[2] is not None]
    if biases and len(biases) != len(weights):
        raise _NoMatch("some projections have a bias and some have none", linears[0])
    for read in (*weights, *biases):
        if read.op != "get_attr":
            raise _NoMatch("a projection's weight is computed in the graph", read)
    return weights, biases


def _head_options(parts: list[_Heads], attention: fx.Node) -> dict[str, Any]:
    first, second, third = parts
    if first.rotary != second.rotary or third.rotary is not None:
        raise _NoMatch("queries and keys are not turned alike, and values not at all", attention)
    if third.norm is not None or (first.norm is not None and second.norm is not None and first.eps != second.eps):
        raise _NoMatch("there are other norms of heads than of queries and keys with one epsilon", attention)
    options: dict[str, Any] = {}
    if first.norm is not None or second.norm is not None:
        options["head_eps"] = first.eps if first.norm is not None else second.eps
    if first.rotary is not None and first.rotary[2]:
        options["interleaved"] = True
    return options


def _norm(parts: list[_Heads]) -> tuple[fx.Node, Any, Any, dict[str, Any]]:
    """What the projections read, or the norm of: if linears alone read that, each of which can take it in."""
    x: fx.Node = arguments(parts[0].linear)[0]
    if x.target not in _NORMS or any(
        user.target is not aten.linear.default or user.args[0] is not x for user in x.users
    ):
        return x, None, None, {}
    if x.target is burnish_ops.rms_norm.default:
        source, weight, eps = arguments(x)
        return source, weight, None, {"norm": "rms", "eps": eps}
    given: tuple[Any, ...] = (*x.args, *(None, None, 1e-5)[len(x.args) - 2 :])
    if len(given[1]) != 1:
        return x, None, None, {}
    return given[0], given[2], given[3], {"norm": "layer", "eps": given[4]}


def _without_heads(editor: Editor, table: fx.Node) -> fx.Node:
    """A rotary table [B, 1, S, R] as [B, S, R]; made once for all layers."""
    for user in table.users:
        if user.target is aten.squeeze.dim and user.args[1:] == (1,):
            return user
    with editor.after(table):
        return editor.call(aten.squeeze.dim, table, 1, like=table)


def _packed(program: Program, editor: Editor, nodes: list[fx.Node]) -> fx.Node | None:
    """One weight with the rows of several."""
    if len(nodes) < 2:
        return nodes[0] if nodes else None
    names = [str(node.target) for node in nodes]
    return editor.weight(packed_name(names), Concat(tuple(program.weights[name] for name in names)))
