"""The formula of a value that depends on positions alone, if each token's part of it is made from its position.

The nodes that compute the value for all tokens become lines that compute it for any: a range becomes the positions
asked for, the number of tokens becomes their number, and a batch one row. That is the same for every token only if no
operation moves values along the tokens' axis or computes with the number of tokens, which is proved node by node.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.errors import WeightError
from burnish.ir.fused_group import bound
from burnish.ir.position_table import POINT_BY_POINT, REARRANGING, PositionTable, position_table
from burnish.ir.program import Program, describe
from burnish.ir.shapes import is_batch, is_sequence
from burnish.ir.text import argument_text, dtype_name, target_text
from burnish.ir.weights import Stored, Weight, nbytes
from burnish.passes.analyses.position_only import PositionOnly, sequence_axes

aten = torch.ops.aten

_MOST_VECTOR_BYTES = 2**16
_SPLITS = {aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default}
_OUTER = re.compile(r"(\w),(?!\1)(\w)->\1\2")
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
    try:
        return position_table(rows, writer.body(), tuple(writer.vectors))
    except WeightError as error:  # more lines than a formula may have, say
        raise NoFormula(str(error)) from error


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
            self.names[node] = self._vector(self.program.weights[str(node.target)], node)
            return
        if node.target in _SPLITS:  # told by those who read a part
            return
        if not isinstance(node.meta.get("val"), Tensor):
            raise NoFormula(f"{describe(node)} gives no tensor")
        if len(_axes(self.program, node)) > 1:
            raise NoFormula(f"{describe(node)} has several axes of unknown size")
        if node.target in _SOURCES:
            self.names[node] = _SOURCES[node.target](self, node)
            return
        axis = _axis(self.program, node)
        axes = [_axis(self.program, other) for other in _tensors(node)]
        if axis is None and any(other is not None for other in axes):
            raise NoFormula(f"{describe(node)} takes tokens together")
        if axis is not None and node.target is not aten.expand.default and all(other is None for other in axes):
            raise NoFormula(f"{describe(node)} has tokens that are no positions")
        if node.target in _SPELLED:
            self.names[node] = _SPELLED[node.target](self, node)
            return
        self._check(node, axis)
        texts = [argument_text(argument, self._name) for argument in node.args]
        options = {key: argument_text(each, self._name) for key, each in node.kwargs.items() if key not in _OF_MEMORY}
        texts += [f"{key}={text}" for key, text in options.items()]
        self.names[node] = self.line(self._kind(node), target_text(node), *texts)

    def _check(self, node: fx.Node, axis: int | None) -> None:
        """NoFormula unless each token's part of the result is made of its own part of what the node reads."""
        if node.target in POINT_BY_POINT or node.target is aten.expand.default:
            counts = any(isinstance(other.meta.get("val"), _SIZES) for other in node.all_input_nodes)
            if counts and node.target is not aten.expand.default:
                raise NoFormula(f"{describe(node)} computes with the number of tokens")
            self._check_aligned(node, axis)
        elif node.target in _RESHAPES:
            self._check_reshape(node)
        elif node.target is aten.cat.default:
            dim = int(bound(node)["dim"]) % node.meta["val"].dim()
            if dim == axis or any(_axis(self.program, other) != axis for other in _tensors(node)):
                raise NoFormula(f"{describe(node)} joins along the tokens")
        elif node.target not in REARRANGING:
            raise NoFormula(f"{describe(node)} is no operation on single elements")

    def _kind(self, node: fx.Node) -> str:
        return _kind(node.meta["val"].dtype, [str(size).removeprefix("%") for size in self._shape(node)])

    def _shape(self, node: fx.Node) -> list[int | str]:
        """The sizes of a value as lines have them."""
        axis, sizes = _axis(self.program, node), _sizes(self.program, node)
        return ["%rows" if place == axis else size for place, size in enumerate(sizes)]

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

    def _vector(self, weight: Weight, node: fx.Node) -> str:
        if nbytes(weight) > _MOST_VECTOR_BYTES:
            raise NoFormula(f"it reads {node.target}, which is a table itself")
        self.vectors.append(weight)
        return f"%vector_{len(self.vectors) - 1}"

    # ------------------------------------------------------------ what reads no tensor

    def positions(self, node: fx.Node) -> str:
        """A range over the tokens."""
        arguments = bound(node)
        start, end, step = arguments.get("start", 0), arguments["end"], arguments.get("step", 1)
        count = end.meta["val"] - start if isinstance(end, fx.Node) and isinstance(start, int) else None
        if step != 1 or not is_sequence(self.program, count):
            raise NoFormula(f"{describe(node)} does not count the tokens")
        found = self.line("i64[rows]", "aten.add.Tensor", "%positions", start) if start else "%positions"
        dtype = node.meta["val"].dtype
        return found if dtype == torch.int64 else self.line(self._kind(node), "aten.to.dtype", found, dtype)

    def fill(self, node: fx.Node) -> str:
        """One number everywhere."""
        val, name = node.meta["val"], target_text(node)
        number = bound(node)["fill_value"] if "full" in name else int("ones" in name)
        if isinstance(number, fx.Node):
            raise NoFormula(f"{describe(node)} computes with the number of tokens")
        one = self._vector(Stored(torch.full([1] * val.dim(), number, dtype=val.dtype)), node)
        return self.line(self._kind(node), "aten.expand", one, f"[{', '.join(map(str, self._shape(node)))}]")

    # ------------------------------------------------------------ what is said in other words

    def product(self, node: fx.Node) -> str:
        """A product of a column and a row: of single elements."""
        left, right = (argument for argument in node.args if isinstance(argument, fx.Node))
        first, second = left.meta["val"].shape, right.meta["val"].shape
        summed = (first[-1], second[-2]) if min(len(first), len(second)) >= 2 else (first[-1],)
        if not all(isinstance(size, int) and size == 1 for size in summed):
            raise NoFormula(f"{describe(node)} adds up products")
        self._check_aligned(node, _axis(self.program, node))
        return self.line(self._kind(node), "aten.mul.Tensor", self.names[left], self.names[right])

    def outer(self, node: fx.Node) -> str:
        """Each element of a vector times each of another."""
        if node.target is aten.einsum.default and _OUTER.fullmatch(str(node.args[0]).replace(" ", "")) is None:
            raise NoFormula(f"{describe(node)} is no operation on single elements")
        arguments: Any = node.args
        left, right = arguments[1] if node.target is aten.einsum.default else arguments
        column = self.line("value", "aten.unsqueeze", self.names[left], 1)
        return self.line(self._kind(node), "aten.mul.Tensor", column, self.names[right])

    def repeated(self, node: fx.Node) -> str:
        """Elements beside themselves: repeated on an axis of their own, which is joined with theirs."""
        (source,), arguments = _tensors(node), bound(node)
        dim, count = arguments["dim"], arguments["repeats"]
        if not isinstance(dim, int) or not isinstance(count, int) or self._along_tokens(node, dim):
            raise NoFormula(f"{describe(node)} repeats tokens")
        rank = node.meta["val"].dim()
        sizes = [-1] * (rank + 1)
        sizes[dim % rank + 1] = count
        apart = self.line("value", "aten.unsqueeze", self.names[source], dim % rank + 1)
        spread = self.line("value", "aten.expand", apart, sizes)
        return self.line(self._kind(node), "aten.reshape", spread, f"[{', '.join(map(str, self._shape(node)))}]")

    def stacked(self, node: fx.Node) -> str:
        """Values joined along an axis of their own."""
        parts, dim = bound(node)["tensors"], int(bound(node)["dim"]) % node.meta["val"].dim()
        if len({_axis(self.program, part) for part in parts}) > 1:
            raise NoFormula(f"{describe(node)} combines tokens with others")
        apart = {part: self.line("value", "aten.unsqueeze", self.names[part], dim) for part in dict.fromkeys(parts)}
        return self.line(self._kind(node), "aten.cat", f"[{', '.join(apart[part] for part in parts)}]", dim)

    def part(self, node: fx.Node) -> str:
        """One of the parts that a value is split into."""
        arguments: Any = node.args
        split, number = arguments
        if split.target not in _SPLITS:
            raise NoFormula(f"{describe(split)} is no operation on single elements")
        source, dim = bound(split)["self"], int(bound(split)["dim"]) % node.meta["val"].dim()
        sizes = [val.shape[dim] for val in split.meta["val"]]
        if not all(isinstance(size, int) for size in sizes):
            raise NoFormula(f"{describe(split)} takes tokens apart")
        start = sum(sizes[:number])
        return self.line(self._kind(node), "aten.slice.Tensor", self.names[source], dim, start, start + sizes[number])

    # ------------------------------------------------------------ proofs

    def _along_tokens(self, node: fx.Node, dim: int) -> bool:
        rank: int = node.meta["val"].dim()
        return dim % rank == _axis(self.program, node)

    def _check_aligned(self, node: fx.Node, axis: int | None) -> None:
        """What is broadcast has its tokens where the result has them."""
        rank = node.meta["val"].dim()
        for other in _tensors(node):
            own = _axis(self.program, other)
            if own is not None and (axis is None or own + rank - other.meta["val"].dim() != axis):
                raise NoFormula(f"{describe(node)} combines tokens with others")

    def _check_reshape(self, node: fx.Node) -> None:
        """The elements ahead of the tokens' axis stay ahead of it."""
        (before,) = _tensors(node)
        old, new = _axis(self.program, before), _axis(self.program, node)
        if old is None or new is None:
            raise NoFormula(f"{describe(node)} makes an axis of tokens")
        ahead = [_sizes(self.program, each)[:axis] for each, axis in ((before, old), (node, new))]
        if math.prod(ahead[0]) != math.prod(ahead[1]):
            raise NoFormula(f"{describe(node)} moves elements from token to token")


_SOURCES: dict[Any, Callable[[_Writer, fx.Node], str]] = {
    **dict.fromkeys((aten.arange.default, aten.arange.start, aten.arange.start_step), _Writer.positions),
    **dict.fromkeys((aten.zeros.default, aten.ones.default, aten.full.default), _Writer.fill),
    **dict.fromkeys((aten.zeros_like.default, aten.ones_like.default, aten.full_like.default), _Writer.fill),
    operator.getitem: _Writer.part,
}
_SPELLED: dict[Any, Callable[[_Writer, fx.Node], str]] = {
    **dict.fromkeys((aten.matmul.default, aten.bmm.default, aten.mm.default), _Writer.product),
    **dict.fromkeys((aten.outer.default, aten.einsum.default), _Writer.outer),
    aten.repeat_interleave.self_int: _Writer.repeated,
    aten.stack.default: _Writer.stacked,
}
_OF_MEMORY = {"device", "layout", "pin_memory", "memory_format", "non_blocking", "copy"}


def _tensors(node: fx.Node) -> list[fx.Node]:
    """The tensors that a node reads, each once."""
    return [other for other in node.all_input_nodes if isinstance(other.meta.get("val"), Tensor)]


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
