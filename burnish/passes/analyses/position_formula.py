"""The formula of a value that depends on positions alone, if each token's part of it is made from its position.

The nodes that compute the value for all tokens become lines that compute it for any: a range becomes the positions
asked for, the number of tokens becomes their number, and a batch one row. That is the same for every token only if no
operation moves values along the tokens' axis or computes with the number of tokens, which is proved node by node.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.fused_group import bound
from burnish.ir.position_table import POINT_BY_POINT, REARRANGING, PositionTable, position_table
from burnish.ir.program import Program, describe
from burnish.ir.text import argument_text, dtype_name, target_text
from burnish.ir.weights import Weight, nbytes
from burnish.passes.analyses.position_only import PositionOnly, is_batch, is_sequence, sequence_axes

aten = torch.ops.aten

_MOST_VECTOR_BYTES = 2**16
_RANGES = {aten.arange.default, aten.arange.start, aten.arange.start_step}
_PRODUCTS = {aten.matmul.default, aten.bmm.default, aten.mm.default}
_RESHAPES = {aten.reshape.default, aten.view.default}
_SIZES = torch.SymInt | torch.SymFloat | torch.SymBool


class NoFormula(Exception):
    """Why the rows of a value are not told by a formula."""


def formula_of(program: Program, known: PositionOnly, node: fx.Node, rows: int) -> PositionTable:
    """The value of `node`, which has one axis of tokens, as a table whose first axis that is; axes of one row of a
    batch stay where they are among the others.

    Raises NoFormula, with the node that stands in the way.
    """
    writer = _Writer(program)
    needed = known.ancestors([node])
    for each in program.graph.nodes:
        if each in needed and not isinstance(each.meta.get("val"), _SIZES):
            writer.write(each)
    (axis,) = sequence_axes(program, node)
    rank = node.meta["val"].dim()
    if axis:
        order = [axis, *(other for other in range(rank) if other != axis)]
        kind = _kind(node.meta["val"].dtype, ["rows", *(_sizes(program, node)[other] for other in order[1:])])
        writer.line(kind, "aten.permute", writer.names[node], order)
    return position_table(rows, writer.body(), tuple(writer.vectors))


class _Writer:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.names: dict[fx.Node, str] = {}
        self.vectors: list[Weight] = []
        self.lines: list[str] = []
        self.last = "%positions"

    def body(self) -> str:
        """The lines so far, of which the last is the result."""
        inputs = [
            f"input %vector_{number}: {_kind(vector.dtype, vector.shape)}" for number, vector in enumerate(self.vectors)
        ]
        return "\n".join(
            ["input %positions: i64[rows]", *inputs, "size %rows: size rows", *self.lines, f"return [{self.last}]"]
        )

    def line(self, kind: str, op: str, *arguments: Any) -> str:
        """One more line; the name of its value. Arguments that are texts stand for themselves."""
        texts = [argument if isinstance(argument, str) else argument_text(argument) for argument in arguments]
        self.last = f"%value_{len(self.lines)}"
        self.lines.append(f"{self.last}: {kind} = {op}({', '.join(texts)})")
        return self.last

    def write(self, node: fx.Node) -> None:
        """The lines of one node, behind those of what it reads."""
        if node.op == "get_attr":
            self.names[node] = self._vector(node)
            return
        val = node.meta.get("val")
        if not isinstance(val, Tensor):
            raise NoFormula(f"{describe(node)} gives no tensor")
        if len(_axes(self.program, node)) > 1:
            raise NoFormula(f"{describe(node)} has several axes of unknown size")
        if node.target in _RANGES:
            self.names[node] = self._positions(node)
            return
        before = [other for other in node.all_input_nodes if other in self.names]
        axis, axes = _axis(self.program, node), [_axis(self.program, other) for other in before]
        if axis is None and any(other is not None for other in axes):
            raise NoFormula(f"{describe(node)} takes tokens together")
        if axis is not None and node.target is not aten.expand.default and all(other is None for other in axes):
            raise NoFormula(f"{describe(node)} has tokens that are no positions")
        if node.target in _PRODUCTS:
            self.names[node] = self._product(node, before)
            return
        if node.target in POINT_BY_POINT:
            if any(isinstance(other.meta.get("val"), _SIZES) for other in node.all_input_nodes):
                raise NoFormula(f"{describe(node)} computes with the number of tokens")
            self._check_aligned(node, axis, before)
        elif node.target is aten.expand.default:
            self._check_aligned(node, axis, before)
        elif node.target in _RESHAPES:
            self._check_reshape(node, before[0])
        elif node.target is aten.cat.default:
            if axis is None or int(bound(node)["dim"]) % val.dim() == axis or any(other != axis for other in axes):
                raise NoFormula(f"{describe(node)} joins along the tokens")
        elif node.target not in REARRANGING:
            raise NoFormula(f"{describe(node)} is no operation on single elements")
        texts = [argument_text(argument, self._name) for argument in node.args]
        options = {key: argument_text(each, self._name) for key, each in node.kwargs.items() if key not in _OF_MEMORY}
        texts += [f"{key}={text}" for key, text in options.items()]
        self.names[node] = self.line(self._kind(node), target_text(node), *texts)

    def _kind(self, node: fx.Node) -> str:
        axis, sizes = _axis(self.program, node), _sizes(self.program, node)
        return _kind(node.meta["val"].dtype, ["rows" if index == axis else size for index, size in enumerate(sizes)])

    def _name(self, node: fx.Node) -> str:
        """A node as it is called in a line; a size as one."""
        val = node.meta.get("val")
        if not isinstance(val, _SIZES):
            return self.names[node]
        if is_sequence(self.program, val):
            return "%rows"
        if is_batch(self.program, val):
            return "1"
        raise NoFormula(f"{describe(node)} computes with the number of tokens")

    def _vector(self, node: fx.Node) -> str:
        weight = self.program.weights[str(node.target)]
        if nbytes(weight) > _MOST_VECTOR_BYTES:
            raise NoFormula(f"it reads {node.target}, which is a table itself")
        self.vectors.append(weight)
        return f"%vector_{len(self.vectors) - 1}"

    def _positions(self, node: fx.Node) -> str:
        arguments = bound(node)
        start, end, step = arguments.get("start", 0), arguments["end"], arguments.get("step", 1)
        whole = isinstance(end, fx.Node) and is_sequence(self.program, end.meta["val"])
        if start != 0 or step != 1 or not whole:
            raise NoFormula(f"{describe(node)} does not count the tokens from 0")
        dtype = node.meta["val"].dtype
        if dtype == torch.int64:
            return "%positions"
        return self.line(self._kind(node), "aten.to.dtype", "%positions", dtype)

    def _product(self, node: fx.Node, before: Sequence[fx.Node]) -> str:
        """A product of a column and a row: of single elements."""
        left, right = node.args
        assert isinstance(left, fx.Node)
        assert isinstance(right, fx.Node)
        first, second = left.meta["val"].shape, right.meta["val"].shape
        summed = (first[-1], second[-2]) if min(len(first), len(second)) >= 2 else (first[-1],)
        if not all(isinstance(size, int) and size == 1 for size in summed):
            raise NoFormula(f"{describe(node)} adds up products")
        self._check_aligned(node, _axis(self.program, node), before)
        return self.line(self._kind(node), "aten.mul.Tensor", self.names[left], self.names[right])

    def _check_aligned(self, node: fx.Node, axis: int | None, before: Sequence[fx.Node]) -> None:
        """What is broadcast has its tokens where the result has them."""
        rank = node.meta["val"].dim()
        for other in before:
            own = _axis(self.program, other)
            if own is not None and (axis is None or own + rank - other.meta["val"].dim() != axis):
                raise NoFormula(f"{describe(node)} combines tokens with others")

    def _check_reshape(self, node: fx.Node, before: fx.Node) -> None:
        """The elements ahead of the tokens' axis stay ahead of it."""
        old, new = _axis(self.program, before), _axis(self.program, node)
        if old is None or new is None:
            raise NoFormula(f"{describe(node)} makes an axis of tokens")
        ahead = [_sizes(self.program, each)[:axis] for each, axis in ((before, old), (node, new))]
        if math.prod(ahead[0]) != math.prod(ahead[1]):
            raise NoFormula(f"{describe(node)} moves elements from token to token")


_OF_MEMORY = {"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy"}


def _axes(program: Program, node: fx.Node) -> list[int]:
    """The axes of unknown size that are not the batch's."""
    shape = node.meta["val"].shape
    return [axis for axis, size in enumerate(shape) if isinstance(size, torch.SymInt) and not is_batch(program, size)]


def _axis(program: Program, node: fx.Node) -> int | None:
    """The axis of tokens; None if there is none."""
    axes = _axes(program, node)
    if axes and not is_sequence(program, node.meta["val"].shape[axes[0]]):
        raise NoFormula(f"{describe(node)} has an axis that is not one entry a token")
    return axes[0] if axes else None


def _sizes(program: Program, node: fx.Node) -> list[int]:
    """The sizes for one row of a batch; tokens count as 1."""
    return [1 if isinstance(size, torch.SymInt) else int(size) for size in node.meta["val"].shape]


def _kind(dtype: torch.dtype, sizes: Sequence[int | str]) -> str:
    return f"{dtype_name(dtype)}[{', '.join(map(str, sizes))}]"
