"""The body of a fused group as the source of one kernel.

A program works on ROWS rows and, with reductions, on all of their last axis: as one block of columns, or, where that
is longer than 4,096, in a loop, which goes over it once for each reduction and once for the results. Without
reductions, columns are spread over programs, too. Each line computes one operation of the body; views are indices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from burnish.codegen.triton.element_formulas import COMPARISONS, CONDITIONS, Operand, cast, formula, rounded
from burnish.codegen.triton.element_index import COLUMNS, ZERO, Indices, Size, Term, broadcast, equal
from burnish.codegen.triton.element_lines import Lines, Value, printable
from burnish.codegen.triton.element_reductions import Reductions
from burnish.codegen.triton.element_views import Views
from burnish.codegen.triton.spec import TYPES
from burnish.ir.body import Group, Read, Step
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_group import GATHERS, REDUCTIONS, VIEWS, bound, folded_axis, row_space
from burnish.ir.ops import burnish_ops
from burnish.ir.shapes import product

aten = torch.ops.aten

_CASTS = (aten.to.dtype, aten._to_copy.default)


@dataclass(frozen=True)
class Emitted:
    """A kernel's source and how to launch it."""

    name: str
    source: str
    scalars: dict[str, Size]  # what to pass for the sizes
    rows: Size
    block_rows: int
    block: int
    column_blocks: int


def emit(group: Group, fakes: dict[str, Any], strides: Sequence[Sequence[Size]]) -> Emitted:
    """The kernel of a group.

    `fakes`: a fake value, or a size, for each name of the group; `strides`: those that the results are stored with.
    Raises UnsupportedError for what it cannot say.
    """
    for name, fake in fakes.items():
        if isinstance(fake, Tensor) and fake.dtype not in TYPES:
            raise UnsupportedError(f"a fused kernel has no {fake.dtype}, which %{name} is")
        if not name.isidentifier():
            raise UnsupportedError(f"%{name} cannot be a name in a kernel")
    return _Emitter(group, fakes).emit(strides)


class _Emitter:
    def __init__(self, group: Group, fakes: dict[str, Any]) -> None:
        self.group = group
        self.fakes = fakes
        self.steps = {step.name: step for step in group.steps}
        reduced = [fakes[step.args[0].name] for step in group.steps if self._reduces(step)]
        space = row_space([fakes[name] for name in group.results], reduced)
        if isinstance(space, str):
            raise UnsupportedError(f"the results of a group cannot be one kernel's: {space}")
        self.space = space
        extents = [self._extent(name) for name in group.results] + [int(value.shape[-1]) for value in reduced]
        self.pointers = [f"{name}_ptr" for name in group.inputs] + [f"{name}_out_ptr" for name in group.results]
        self.lines = Lines(space.rows, [max(1, each) for each in extents], bool(reduced), self.pointers)
        self.indices = Indices(self.lines.scalars)
        self.views = Views(group, fakes, self.indices)
        self.reductions = Reductions(self.lines, fakes, self._value)

    def _reduces(self, step: Step) -> bool:
        return step.target in REDUCTIONS and folded_axis(step, self.fakes[step.args[0].name].shape) is None

    def _extent(self, name: str) -> int:
        """How many columns a result has; 0: one element a row."""
        shape = self.fakes[name].shape
        return 0 if self.space.flat or not equal(product(shape[:-1]), self.space.rows) else int(shape[-1])

    # ------------------------------------------------------------ the kernel

    def emit(self, strides: Sequence[Sequence[Size]]) -> Emitted:
        """The source, and how to launch it."""
        results = self.group.results
        extents = list(map(self._extent, results))
        for extent in dict.fromkeys(extents):
            alike = [place for place in range(len(results)) if extents[place] == extent]
            self.lines.over_columns(extent, partial(self._store, alike, strides))
        names = [step.name for step in self.group.steps if step.target not in VIEWS]
        name = f"fused_{'_'.join(names if len(names) <= 4 else [*names[:3], 'and_more'])}_kernel"
        lines = self.lines
        body = lines.finished()
        words = set(re.findall(r"\w+", "\n".join(body)))
        scalars = {size: value for size, value in lines.scalars.values.items() if size in words}
        source = self._source(name, list(scalars), body)
        return Emitted(name, source, scalars, lines.rows, lines.block_rows, lines.block, lines.column_blocks)

    def _source(self, name: str, scalars: Sequence[str], body: Sequence[str]) -> str:
        arguments = [*self.pointers, *scalars, "ROWS: tl.constexpr", "BLOCK: tl.constexpr"]
        return "\n".join(
            [
                '"""Generated: a group of operations that are one kernel."""',
                "",
                "import triton",
                "import triton.language as tl",
                "",
                "",
                *(f"# {printable(line)}" for step in self.group.steps for line in _told(step)),
                "@triton.jit",
                f"def {name}(",
                *(f"    {argument}," for argument in arguments),
                "):",
                '    """ROWS rows a program, BLOCK columns at once."""',
                *body,
                "",
            ]
        )

    def _store(self, places: Sequence[int], strides: Sequence[Sequence[Size]]) -> None:
        for place in places:
            name = self.group.results[place]
            shape = self.fakes[name].shape
            if self._extent(name):
                index = [*self.indices.of_row(shape[:-1]), ZERO if shape[-1] == 1 else COLUMNS]
            else:
                index = self.indices.of_row(shape)
            value = self._value(name, index)
            address, axes = self._address(f"{name}_out_ptr", index, strides[place], shape)
            mask = self.lines.mask(axes)
            element = f"{value.text}.to({name}_out_ptr.dtype.element_ty)"
            self.lines.write(f"tl.store({address}, {element}{f', mask={mask}' if mask else ''})")

    def _address(
        self, pointer: str, index: Sequence[Term], strides: Sequence[Size], shape: Sequence[Size]
    ) -> tuple[str, frozenset[str]]:
        """Where an element lies, and what that varies with."""
        terms = self.indices.combined(list(zip(index, strides, strict=True)), shape)
        axes: frozenset[str] = frozenset().union(*(term.axes for term, _ in terms))
        address = f"{pointer} + {self.indices.sum(terms)}"
        return (address if axes else f"{address} + tl.zeros([1, 1], tl.int32)"), axes

    # ------------------------------------------------------------ values

    def _value(self, name: str, index: Sequence[Term]) -> Value:
        """The elements of the value `name` at `index`."""
        axes: frozenset[str] = frozenset().union(*(term.axes for term in index))
        key = (name, tuple(term.text for term in index))
        step = self.steps.get(name)
        if step is None:
            return self.lines.known(key, axes, lambda: self._load(name, index))
        return self.lines.known(key, axes, lambda: self._computed(step, list(index)))

    def _load(self, name: str, index: Sequence[Term]) -> Value:
        fake = self.fakes[name]
        address, axes = self._address(f"{name}_ptr", index, fake.stride(), fake.shape)
        mask = self.lines.mask(axes)
        text = f"tl.load({address}{f', mask={mask}, other=0' if mask else ''})"
        return self.lines.assign(name, f"{text}.to(tl.float32)" if fake.is_floating_point() else text, axes)

    def _computed(self, step: Step, index: list[Term]) -> Value:
        if step.target in VIEWS:
            return self._value(*self.views.source(step, index))
        if step.target in GATHERS:
            return self._gathered(step, index)
        if step.target in REDUCTIONS:
            return self.reductions.value(step, index) if self._reduces(step) else self._folded(step, index)
        if step.target is aten.cat.default:
            return self._joined(step, index)
        if step.target is burnish_ops.rotary.default:
            return self._rotary(step, index)
        if step.target is burnish_ops.positions.default:
            return self._positions(step, index)
        return self._pointwise(step, index)

    def _pointwise(self, step: Step, index: list[Term]) -> Value:
        fake = self.fakes[step.name]
        given = bound(step)
        reads = {key: argument.name for key, argument in given.items() if isinstance(argument, Read)}
        if not all(isinstance(self.fakes[name], Tensor) for name in reads.values()):
            raise UnsupportedError(f"%{step.name} computes with a size")
        wanted = self._compared(step, given, reads) if step.target in COMPARISONS else fake.dtype
        axes: frozenset[str] = frozenset()
        for key, name in reads.items():
            operand = self._value(name, broadcast(index, self.fakes[name].shape))
            axes |= operand.axes
            raw = step.target in _CASTS or key in CONDITIONS
            given[key] = Operand(operand.text if raw else cast(operand.text, self.fakes[name].dtype, wanted))
        text = formula(step.target, given)
        if step.target in _CASTS:
            text = rounded(text, self.fakes[reads["self"]].dtype, fake.dtype)
        return self.lines.assign(step.name, text, axes, step.type)

    def _compared(self, step: Step, given: dict[str, Any], reads: dict[str, str]) -> torch.dtype:
        """What the operands of a comparison are compared as."""
        if any(isinstance(argument, float) for argument in given.values()):
            return torch.float32
        first, *others = (self.fakes[name].dtype for name in reads.values())
        for other in others:
            first = torch.promote_types(first, other)
        return first  # type: ignore[no-any-return]

    def _positions(self, step: Step, index: list[Term]) -> Value:
        place = self.indices.joined(index[1:], self.fakes[step.name].shape[1:])
        position = bound(step)["position"]
        if not isinstance(position, Read):
            raise UnsupportedError(f"%{step.name} does not know how many tokens came before")
        first = self._value(position.name, [index[0]])
        return self.lines.assign(step.name, f"{first.text} + {place.atom}", first.axes | place.axes, step.type)

    def _gathered(self, step: Step, index: list[Term]) -> Value:
        table, *rest = step.args
        if step.target is aten.index_select.default:
            axis = rest[0] % self.fakes[table.name].dim()
            found = self._value(rest[1].name, [index[axis]])
            return self._value(table.name, [*index[:axis], Term(found.text, found.axes), *index[axis + 1 :]])
        count = self.fakes[rest[0].name].dim()
        found = self._value(rest[0].name, index[:count])
        return self._value(table.name, [Term(found.text, found.axes), *index[count:]])

    def _folded(self, step: Step, index: list[Term]) -> Value:
        """The sum of a few."""
        source = step.args[0].name
        fake = self.fakes[source]
        axis = folded_axis(step, fake.shape)
        assert axis is not None
        after = index[axis + 1 :] if len(index) == fake.dim() else index[axis:]
        terms = [self._value(source, [*index[:axis], Term(str(k)), *after]) for k in range(int(fake.shape[axis]))]
        texts = [cast(each.text, fake.dtype, self.fakes[step.name].dtype) for each in terms]
        axes: frozenset[str] = frozenset().union(*(each.axes for each in terms))
        return self.lines.assign(step.name, " + ".join(texts), axes, step.type)

    def _joined(self, step: Step, index: list[Term]) -> Value:
        """Each element from that of the joined values which has its place; the others are read where they end."""
        parts = [read.name for read in step.args[0]]
        axis = bound(step)["dim"] % len(index)
        place, size_text = index[axis], self.lines.scalars.text
        if not place.axes:
            return self._joined_at(step, parts, axis, index)
        start: Size = 0
        ends, values = [], []
        for number, name in enumerate(parts):
            size = self.fakes[name].shape[axis]
            inner = place.atom if number == 0 else f"tl.maximum({place.atom} - {size_text(start)}, 0)"
            if number < len(parts) - 1:
                inner = f"tl.minimum({inner}, {size_text(size)} - 1)"
            at = self.lines.assign(f"{step.name}_{name}", inner, place.axes)
            found = self._value(name, [*index[:axis], Term(at.text, at.axes), *index[axis + 1 :]])
            values.append(Value(cast(found.text, self.fakes[name].dtype, self.fakes[step.name].dtype), found.axes))
            start = start + size
            ends.append(size_text(start))
        text = values[-1].text
        for value, end in zip(reversed(values[:-1]), reversed(ends[:-1]), strict=True):
            text = f"tl.where({place.atom} < {end}, {value.text}, {text})"
        axes = place.axes.union(*(value.axes for value in values))
        return self.lines.assign(step.name, text, axes, step.type)

    def _joined_at(self, step: Step, parts: Sequence[str], axis: int, index: Sequence[Term]) -> Value:
        """The one of the joined values that has the place `index[axis]`, which is a number."""
        sizes = [self.fakes[name].shape[axis] for name in parts]
        if not index[axis].text.isdecimal() or not all(isinstance(size, int) for size in sizes):
            raise UnsupportedError(f"%{step.name} is read at one place, and what it joins has no sizes known ahead")
        place, number = int(index[axis].text), 0
        while place >= sizes[number]:
            place, number = place - sizes[number], number + 1
        found = self._value(parts[number], [*index[:axis], Term(str(place)), *index[axis + 1 :]])
        return Value(cast(found.text, self.fakes[parts[number]].dtype, self.fakes[step.name].dtype), found.axes)

    def _rotary(self, step: Step, index: list[Term]) -> Value:
        given = bound(step)
        x, tables = given["x"].name, (given["cos"].name, given["sin"].name)
        *lead, column = index
        size, turned = int(self.fakes[x].shape[-1]), int(self.fakes[tables[0]].shape[-1])
        if not column.axes:
            raise UnsupportedError(f"%{step.name} is turned for one column alone")
        place, half = column.atom, turned // 2
        if given["interleaved"]:
            other, sign = f"{place} ^ 1", f"tl.where({place} % 2 == 0, -1.0, 1.0)"
        else:
            other = f"tl.where({place} < {half}, {place} + {half}, {place} - {half})"
            sign = f"tl.where({place} < {half}, -1.0, 1.0)"
        partner = self.lines.assign(f"{step.name}_partner", other, column.axes)
        within = column
        if turned < size:
            clipped = self.lines.assign(f"{step.name}_column", f"tl.minimum({place}, {turned - 1})", column.axes)
            within = Term(clipped.text, clipped.axes)
        here = self._value(x, index)
        there = self._value(x, [*lead, Term(partner.text, partner.axes)])
        cos, sin = (self._value(each, broadcast([*lead, within], self.fakes[each].shape)) for each in tables)
        text = f"{here.text} * {cos.text} + {sign} * {there.text} * {sin.text}"
        if turned < size:
            text = f"tl.where({place} < {turned}, {text}, {here.text})"
        return self.lines.assign(step.name, text, here.axes | there.axes | cos.axes | sin.axes, step.type)


def _told(step: Step) -> list[str]:
    """A step as comments: what it is, and the line of the user's source that it is from."""
    place = ": ".join(part for part in (str(step.origin), step.origin.code) if part)
    return [step.text, *([f"    {place}"] if place else [])]
