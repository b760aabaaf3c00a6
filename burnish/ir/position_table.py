"""Tables of positions as what makes their rows: an artifact keeps the formula and its short vectors, never the rows.

    input %positions: i64[rows]
    input %vector_0: f32[64]
    size %rows: size rows
    %unsqueeze: i64[rows, 1] = aten.unsqueeze(%positions, 1)
    %mul: f32[rows, 64] = aten.mul.Tensor(%unsqueeze, %vector_0)
    %cos: f32[rows, 64] = aten.cos(%mul)
    return [%cos]

The lines are those of `burnish.ir.fused_group`, of operations on single elements and views alone: a row depends on its
position and on nothing else, so that any rows can be made by themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from burnish.ir.body import Group, Read
from burnish.ir.errors import ParseError, WeightError
from burnish.ir.fused_group import POINTWISE, VIEWS, parse_group, run_group
from burnish.ir.position_arrays import BLOCK, MOST_A_ROW, MOST_BYTES, MOST_STEPS, MOST_TEXT
from burnish.ir.text import dtype_name
from burnish.ir.weights import Cast, Weight, nbytes

aten = torch.ops.aten

POINT_BY_POINT = frozenset({aten.polar.default, *(op for op in POINTWISE if op.namespace == "aten")})
"""What a formula may call for each element."""

REARRANGING = frozenset(
    {
        aten.view_as_real.default,
        *(op for op in VIEWS if isinstance(op, torch._ops.OpOverload) and "split" not in str(op)),
    }
)
"""The views that it may call: of lists there is no end."""

ALLOWED = POINT_BY_POINT | REARRANGING | {aten.cat.default}


@dataclass(frozen=True, eq=False)
class PositionTable:
    """A weight [rows, ...] whose row p is what `body` makes of p and of `vectors`. Made by `position_table`."""

    rows: int
    body: str
    vectors: tuple[Weight, ...]
    row: tuple[int, ...]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, *self.row)

    @cached_property
    def _vectors(self) -> tuple[Tensor, ...]:
        return tuple(vector.materialize() for vector in self.vectors)

    def materialize(self) -> Tensor:
        return self.first(self.rows)

    def nbytes_of(self, count: int) -> int:
        """Bytes of so many rows."""
        return count * math.prod(self.row) * self.dtype.itemsize

    def first(self, count: int) -> Tensor:
        """The first rows [count, ...]."""
        if not 0 < count <= self.rows:
            raise WeightError(f"a table of {self.rows} positions has no first {count} rows")
        found = torch.empty((count, *self.row), dtype=self.dtype)
        for start, block in self.blocks(count):
            found[start : start + len(block)] = block
        return found

    def blocks(self, count: int) -> Iterator[tuple[int, Tensor]]:
        """The first `count` rows, a few at a time, each with the number of its first."""
        step = max(1, BLOCK // max(1, math.prod(self.row)))
        for start in range(0, count, step):
            yield start, self._made(torch.arange(start, min(start + step, count)))

    def at(self, positions: Tensor) -> Tensor:
        """The rows at positions int64[B, S], as [B, S, ...]: what `burnish::lookup` gives."""
        return self._made(positions.reshape(-1)).reshape(*positions.shape, *self.row)

    def _made(self, positions: Tensor) -> Tensor:
        group = parse_group(self.body)
        with torch.no_grad():
            found = run_group(group, (positions, *self._vectors), (len(positions),))[group.results[0]]
        assert isinstance(found, Tensor)
        return found

    def same(self, other: object) -> bool:
        """Whether both are known to have the same rows."""
        return (
            isinstance(other, PositionTable)
            and (self.rows, self.body, len(self.vectors)) == (other.rows, other.body, len(other.vectors))
            and all(
                one.dtype == two.dtype and torch.equal(one, two)
                for one, two in zip(self._vectors, other._vectors, strict=True)
            )
        )

    def has_equal_halves(self, interleaved: bool) -> bool:
        """Whether each element of a row stands there twice: in both halves, or beside itself if `interleaved`."""
        if not self.row or self.row[-1] % 2:
            return False
        return all(torch.equal(*_halves(block, interleaved)) for _, block in self.blocks(self.rows))

    def half(self, interleaved: bool) -> PositionTable:
        """The table [rows, elements / 2] of the half, of rows that have equal ones."""
        size = math.prod(self.row)
        cut = (1, 0, size, 2) if interleaved else (1, 0, size // 2)
        return self.with_rows([size])._then("aten.slice.Tensor", *cut)

    def with_rows(self, sizes: Sequence[int]) -> PositionTable:
        """The table with rows of other sizes, of as many elements."""
        return self._then("aten.reshape", f"[%{parse_group(self.body).sizes[0]}, {', '.join(map(str, sizes))}]")

    def cast(self, dtype: torch.dtype) -> PositionTable:
        """The table in another dtype."""
        return self._then("aten.to.dtype", dtype_name(dtype))

    def _then(self, op: str, *arguments: str | int) -> PositionTable:
        """The same with one more line behind."""
        group = parse_group(self.body)
        name = f"then_{len(group.steps)}"
        lines = self.body.strip().split("\n")
        call = f"{op}({', '.join(map(str, (f'%{group.results[0]}', *arguments)))})"
        lines[-1:] = [f"%{name}: value = {call}", f"return [%{name}]"]
        return position_table(self.rows, "\n".join(lines), self.vectors)


def _halves(block: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    if interleaved:
        return block[..., ::2], block[..., 1::2]
    first, second = block.chunk(2, dim=-1)
    return first, second


def position_table(rows: int, body: str, vectors: tuple[Weight, ...]) -> PositionTable:
    """The table of that formula; nothing of it is computed yet.

    Raises WeightError for a formula that is none: lines that cannot be read, operations that are not allowed, sizes
    that do not fit or have no bounds. It may come from anywhere.
    """
    try:
        if len(body) > MOST_TEXT:
            raise WeightError(f"the formula of a position table has {len(body)} characters: at most {MOST_TEXT}")
        group = parse_group(body)
        row, dtype = _checked(group, vectors)
    except ParseError as error:
        raise WeightError(f"the formula of a position table cannot be read: {error}") from error
    except RecursionError as error:
        raise WeightError("the formula of a position table is nested too deeply") from error
    size = rows * math.prod(row) * dtype.itemsize
    if rows < 1 or size > MOST_BYTES:
        raise WeightError(f"a position table of {rows} rows of {list(row)} has {size} bytes: at most {MOST_BYTES}")
    return PositionTable(rows, body, vectors, row, dtype)


def _checked(group: Group, vectors: tuple[Weight, ...]) -> tuple[tuple[int, ...], torch.dtype]:
    """The shape and dtype of a row, found without reading a vector."""
    if len(group.inputs) != 1 + len(vectors) or len(group.sizes) != 1 or len(group.results) != 1:
        raise WeightError(
            f"the formula of a position table takes positions, {len(vectors)} vectors and the number of rows, and "
            "gives one value"
        )
    if len(group.steps) > MOST_STEPS:
        raise WeightError(f"the formula of a position table has {len(group.steps)} lines: at most {MOST_STEPS}")
    wrong = next((step for step in group.steps if step.target not in ALLOWED), None)
    if wrong is not None:
        raise WeightError(f"the formula of a position table may not call {wrong.target}: {wrong.text}")
    shapes = []
    for rows in (2, 3):
        found = _tried(group, vectors, rows)
        if not isinstance(found, Tensor) or found.dim() < 1 or found.shape[0] != rows:
            raise WeightError("the formula of a position table does not give one row for each position")
        shapes.append((tuple(found.shape[1:]), found.dtype))
    if shapes[0] != shapes[1]:
        raise WeightError("the formula of a position table gives rows of a size that depends on how many there are")
    return shapes[0]


def _tried(group: Group, vectors: tuple[Weight, ...], rows: int) -> object:
    """What the formula gives for a few rows and vectors of zeros. (PyTorch's meta tensors take a second to load.)"""

    def check(size: int) -> None:
        if size > rows * MOST_A_ROW:
            raise WeightError(f"the formula of a position table makes {size} elements for {rows} rows")

    for vector in vectors:
        check(math.prod(vector.shape))
    zeros = (torch.zeros(vector.shape, dtype=vector.dtype) for vector in vectors)
    values: dict[str, Any] = dict(zip((*group.inputs, *group.sizes), (torch.arange(rows), *zeros, rows), strict=True))
    for step in group.steps:
        args, kwargs = tree_map_only(Read, lambda read: values[read.name], (step.args, dict(step.kwargs)))
        shapes = [each.shape for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        try:
            if step.target is aten.cat.default:
                check(sum(map(math.prod, shapes)))
            elif step.target in POINT_BY_POINT:
                broadcast = zip_longest(*(shape[::-1] for shape in shapes), fillvalue=1)
                check(math.prod(max(sizes) for sizes in broadcast))
            values[step.name] = step.target(*args, **kwargs)
        except WeightError:
            raise
        except Exception as error:  # ops complain in many ways about sizes that do not fit
            raise WeightError(f"the formula of a position table does not fit its vectors: {error}") from error
        check(math.prod(values[step.name].shape))
    return values[group.results[0]]


def halves_of(tables: Mapping[str, PositionTable]) -> dict[str, PositionTable]:
    """The tables by name, and the halves of each under names of their own, whether or not its halves are equal."""
    found = dict(tables)
    for name, table in tables.items():
        if table.row and table.row[-1] % 2 == 0:
            for interleaved in (False, True):
                half = half_name(name, interleaved)
                if half in found:
                    raise WeightError(f"there are two tables of positions named {half!r}")
                found[half] = table.half(interleaved)
    return found


def half_name(name: str, interleaved: bool) -> str:
    """What the half of a table is called."""
    return f"{name}.{'each_second' if interleaved else 'first_half'}"


# ---------------------------------------------------------------- beside other weights


def cast(weight: Weight, dtype: torch.dtype) -> Weight:
    """A weight in another dtype; a table stays a formula."""
    return weight.cast(dtype) if isinstance(weight, PositionTable) else Cast(weight, dtype)


def stored_bytes(weight: Weight) -> int:
    """Bytes that an artifact keeps of a weight."""
    return sum(map(nbytes, weight.vectors)) if isinstance(weight, PositionTable) else nbytes(weight)
