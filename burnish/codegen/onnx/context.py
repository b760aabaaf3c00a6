"""What a translation works with: the builder, the values of the nodes so far, and arguments by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.builder import Builder, Size, onnx_dtype, origin_of_size
from burnish.ir.errors import UnsupportedError
from burnish.ir.position_table import PositionTable
from burnish.ir.program import Program, describe
from burnish.ir.shapes import same_size

Result = ir.Value | list[ir.Value]
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Heads:
    """What is known of a value whose heads are an axis of their own."""

    joined: ir.Value  # the same numbers as [B, S, H * D]
    first: bool  # the value is [B, H, S, D]; else it is [B, S, H, D]
    count: int
    size: int


class Context:
    """The lowering of one program."""

    def __init__(self, program: Program, builder: Builder) -> None:
        self.program = program
        self.builder = builder
        self.results: dict[fx.Node, Result] = {}
        self._heads: dict[ir.Value, Heads] = {}

    # ------------------------------------------------------------ arguments

    def value(self, node: fx.Node) -> ir.Value:
        """The tensor that `node` gives."""
        if node not in self.results:
            size = origin_of_size(node)
            if size is None:
                raise UnsupportedError(f"{describe(node)} gives no tensor that ONNX could compute with")
            self.results[node] = self.builder.scalar(size)
        found = self.results[node]
        if not isinstance(found, ir.Value):
            raise UnsupportedError(f"{describe(node)} gives a list where one tensor is needed")
        return found

    def formula(self, node: fx.Node) -> PositionTable | None:
        """What makes the rows of the table that `node` reads, if these are not in the weights file."""
        placed = self.builder.layout.tables.get(str(node.target)) if node.op == "get_attr" else None
        return None if placed is None else placed.table

    def tensor(self, argument: Any, dtype: torch.dtype) -> ir.Value:
        """A node's value or a number, as a tensor of `dtype`."""
        if not isinstance(argument, fx.Node):
            return self.builder.constant(argument, dtype)
        return self.cast(self.value(argument), dtype_of(argument), dtype)

    def cast(self, value: ir.Value, before: torch.dtype, after: torch.dtype) -> ir.Value:
        """`value` in the dtype `after`."""
        if before == after:
            return value
        key = ("cast", value, after)
        # Too large a number becomes what PyTorch makes of it, none, and not the largest of 8 bits.
        options: dict[str, Any] = {"saturate": 0} if "float8" in str(after) else {}
        return self.builder.once(key, lambda: self.builder.op("Cast", value, to=int(onnx_dtype(after)), **options))

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """`value` with new axes of size 1."""
        return self.builder.op("Unsqueeze", value, self.builder.constant(list(axes)))

    # ------------------------------------------------------------ shapes

    def reshape(self, value: ir.Value, before: Sequence[Size], after: Sequence[Size]) -> ir.Value:
        """`value` of shape `before` in the shape `after`, which is a constant for ONNX wherever that is possible."""
        if len(before) == len(after) and all(map(same_size, before, after)):
            return value
        sizes: list[int] = []
        unknown = 0
        for axis, size in enumerate(after):
            if isinstance(size, int):
                sizes.append(size)
            elif axis < len(before) and same_size(size, before[axis]):
                sizes.append(0)  # "as it was"
            else:
                sizes.append(-1)
                unknown += 1
        is_empty = any(isinstance(size, int) and size == 0 for size in after)
        constant = unknown <= 1 and not is_empty
        shape = self.builder.constant(sizes) if constant else self.builder.shape(after)
        return self.builder.op("Reshape", value, shape, allowzero=1 if is_empty else None)

    # Heads are split off by a view and a transpose, [B, S, H * D] -> [B, S, H, D] -> [B, H, S, D], and joined again
    # behind attention. ONNX Runtime's attention takes and gives the joined form, so a split value's twin is kept.

    def remember_heads(self, split: ir.Value, heads: Heads) -> None:
        """`split` holds the same numbers as `heads.joined`."""
        self._heads[split] = heads

    def heads(self, split: ir.Value) -> Heads | None:
        """What is known of the heads of a value, if anything."""
        return self._heads.get(split)

    def join_heads(self, split: ir.Value, count: int, size: int) -> ir.Value:
        """[B, H, S, D] -> [B, S, H * D]."""
        if split not in self._heads:
            turned = self.builder.op("Transpose", split, perm=[0, 2, 1, 3])
            joined = self.builder.op("Reshape", turned, self.builder.constant([0, 0, count * size]))
            self.remember_heads(split, Heads(joined, True, count, size))
        return self._heads[split].joined

    def apart(self, heads: Heads) -> ir.Value:
        """The heads as [B, S, H, D], which costs nothing."""
        return self.split_heads(heads.joined, heads.count, heads.size, first=False)

    def regroup(self, apart: ir.Value, like: Heads, size: int) -> ir.Value:
        """[B, S, H, size] in the layout of `like`, with its joined form known."""
        joined = self.builder.op("Reshape", apart, self.builder.constant([0, 0, like.count * size]))
        return self.split_heads(joined, like.count, size, like.first)

    def split_heads(self, joined: ir.Value, count: int, size: int, first: bool = True) -> ir.Value:
        """[B, S, H * D] -> [B, H, S, D], or [B, S, H, D] if not `first`. What nothing reads is dropped in the end."""
        split = self.builder.op("Reshape", joined, self.builder.constant([0, 0, count, size]))
        if first:
            split = self.builder.op("Transpose", split, perm=[0, 2, 1, 3])
        self.remember_heads(split, Heads(joined, first, count, size))
        return split


def shape_of(node: fx.Node) -> tuple[Size, ...]:
    """The shape of the tensor that `node` gives; symbolic sizes as SymInts."""
    return tuple(node.meta["val"].shape)


def dtype_of(node: fx.Node) -> torch.dtype:
    """The dtype of what `node` gives; int64 for a size."""
    found = node.meta["val"]
    if isinstance(found, torch.Tensor):
        return found.dtype
    return torch.float32 if isinstance(found, float | torch.SymFloat) else torch.int64


Translate = Callable[[Context, fx.Node, Arguments], Result | None]
"""Gives the ONNX value of a node, or None to leave it to torch's table."""
