"""Sizes and shapes: what is provably the same. Nothing here adds a guard to the symbols."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import sympy
import torch
from torch import fx

if TYPE_CHECKING:
    from burnish.ir.program import Program

Size: TypeAlias = int | torch.SymInt


def size_expression(size: Any) -> sympy.Expr:
    """A size as an expression in the symbols."""
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(int(size))


def shape_expressions(node: fx.Node) -> tuple[sympy.Expr, ...]:
    """The shape of a node's value, as expressions in the symbols."""
    return tuple(size_expression(size) for size in node.meta["val"].shape)


def same_size(left: Size, right: Size) -> bool:
    """Whether two sizes are the same expression."""
    return bool(size_expression(left) == size_expression(right))


def same_shape(left: Sequence[Size], right: Sequence[Size]) -> bool:
    """Whether two shapes are the same, size by size."""
    return len(left) == len(right) and all(map(same_size, left, right))


def same_type(one: Any, other: Any) -> bool:
    """Whether two values are tensors of one dtype, device and (provably, for symbolic sizes) shape."""
    return (
        isinstance(one, torch.Tensor)
        and isinstance(other, torch.Tensor)
        and one.dtype == other.dtype
        and one.device == other.device
        and same_shape(one.shape, other.shape)
    )


def product(sizes: Iterable[Size]) -> Size:
    """How many elements."""
    found: Size = 1
    for size in sizes:
        found = found * size
    return found


def is_batch(program: Program, size: Any) -> bool:
    """Whether a size is the number of rows."""
    return isinstance(size, torch.SymInt) and str(size.node.expr) == program.batch


def is_sequence(program: Program, size: Any) -> bool:
    """Whether a size is the number of tokens."""
    return isinstance(size, torch.SymInt) and str(size.node.expr) == program.sequence


def is_over_tokens(program: Program, shape: Sequence[Size]) -> bool:
    """Whether a shape has tokens on both of its last axes (a sink may stand beside them on the very last)."""
    if len(shape) < 2:
        return False
    last = shape[-1]
    depends = isinstance(last, torch.SymInt) and program.sequence in {str(each) for each in last.node.expr.free_symbols}
    return depends and is_sequence(program, shape[-2])
