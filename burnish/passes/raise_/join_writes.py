"""Writes into parts of a tensor become the values themselves, joined.

`keys = x.new_empty(...); keys[..., :n] = a; keys[..., n:] = b` is `cat([a, b])`. Export spells it with `copy` and
`slice_scatter`, of which nothing downstream can be read off: which part of the value comes from where.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.program import Program
from burnish.ir.shapes import same_shape
from burnish.passes.base import Effect, Log

aten = torch.ops.aten


@dataclass(frozen=True)
class JoinWrites:
    """copy, slice_scatter, select_scatter -> the written values, joined with what is left of the old ones."""

    name: ClassVar[str] = "join-writes"
    effect: ClassVar[Effect] = Effect.EXACT
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Rewrite each write of `program` whose place does not depend on a symbolic size, in place."""
        editor = Editor(program)
        known: dict[fx.Node, tuple[int, list[_Piece]]] = {}
        for node in list(program.graph.nodes):
            if node.target is aten.copy.default:
                with editor.before(node):
                    editor.replace(node, _copied(editor, node))
                log.rewrite(node, "the value that is written")
            elif node.target is aten.slice_scatter.default and _is_whole(node):
                editor.replace(node, node.args[1])
                log.rewrite(node, "a write over all there was")
            elif node.target in (aten.slice_scatter.default, aten.select_scatter.default):
                found = _pieces(node, known)
                if found is None:
                    log.refuse(node, "a write whose place depends on a size")
                    continue
                known[node] = found
                with editor.before(node):
                    joined = _join(editor, node, *found)
                editor.replace(node, joined)
                known[joined] = found
                log.rewrite(node, f"a write, as {joined.name}")
        remove_dead(program)
        return program


@dataclass(frozen=True)
class _Piece:
    """Entries `start` to `stop` (along the axis) of a value are those of `node` from `first` on."""

    start: int
    stop: int
    node: fx.Node
    first: int
    added_axis: bool = False  # `node` lacks the axis: it is the one entry


def _copied(editor: Editor, node: fx.Node) -> fx.Node:
    """copy(into, value): value in the shape and dtype of `into`."""
    into, value = (argument for argument in node.args[:2])
    assert isinstance(value, fx.Node)
    want, have = node.meta["val"], value.meta["val"]
    if have.dtype != want.dtype:
        value = editor.call(aten._to_copy.default, value, like=node, dtype=want.dtype)
    if not same_shape(want.shape, have.shape):
        value = editor.call(aten.expand_as.default, value, into, like=node)
    return value


def _is_whole(node: fx.Node) -> bool:
    """Whether slice_scatter writes every entry: as many as there are, in their order."""
    written = node.args[1]
    return isinstance(written, fx.Node) and same_shape(written.meta["val"].shape, node.meta["val"].shape)


def _pieces(node: fx.Node, known: dict[fx.Node, tuple[int, list[_Piece]]]) -> tuple[int, list[_Piece]] | None:
    """The axis of a write and what its result consists of along it; None if that depends on a symbolic size."""
    base, value = node.args[:2]
    assert isinstance(base, fx.Node)
    assert isinstance(value, fx.Node)
    val: Tensor = node.meta["val"]
    axis = int(_argument(node, 2, "dim", 0)) % val.dim()
    size = val.shape[axis]
    if not isinstance(size, int):
        return None
    if node.target is aten.select_scatter.default:
        index = _argument(node, 3, "index", 0)
        if not isinstance(index, int):
            return None
        start, stop, added = index % size, index % size + 1, True
    else:
        start, stop = (_argument(node, place, name, None) for place, name in ((3, "start"), (4, "end")))
        if _argument(node, 5, "step", 1) != 1 or isinstance(start, fx.Node) or isinstance(stop, fx.Node):
            return None
        start, stop, _ = slice(start, stop).indices(size)
        added = False
    old_axis, old = known.get(base, (axis, [_Piece(0, size, base, 0)]))
    if old_axis != axis:
        old = [_Piece(0, size, base, 0)]
    kept = [part for piece in old for part in _outside(piece, start, stop)]
    written = [_Piece(start, stop, value, 0, added)] if stop > start else []
    return axis, sorted(kept + written, key=lambda piece: piece.start)


def _outside(piece: _Piece, start: int, stop: int) -> list[_Piece]:
    """What is left of a piece beside the entries `start` to `stop`."""
    left = _Piece(piece.start, min(piece.stop, start), piece.node, piece.first, piece.added_axis)
    behind = max(piece.start, stop)
    right = _Piece(behind, piece.stop, piece.node, piece.first + behind - piece.start, piece.added_axis)
    return [part for part in (left, right) if part.stop > part.start]


def _join(editor: Editor, node: fx.Node, axis: int, pieces: list[_Piece]) -> fx.Node:
    parts: list[fx.Node] = []
    for piece in pieces:
        if piece.added_axis:
            parts.append(editor.call(aten.unsqueeze.default, piece.node, axis, like=node))
        elif piece.first == 0 and piece.stop - piece.start == piece.node.meta["val"].shape[axis]:
            parts.append(piece.node)
        else:
            stop = piece.first + piece.stop - piece.start
            parts.append(editor.call(aten.slice.Tensor, piece.node, axis, piece.first, stop, like=node))
    return parts[0] if len(parts) == 1 else editor.call(aten.cat.default, parts, axis, like=node)


def _argument(node: fx.Node, index: int, name: str, default: Any) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)
