"""Reductions along the last axis: sum, mean, largest, softmax and norms, as lines of a generated kernel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from burnish.codegen.triton.element_formulas import cast, number, register
from burnish.codegen.triton.element_index import COLUMNS, ZERO, Term
from burnish.codegen.triton.element_lines import Lines, Value
from burnish.ir.body import Read, Step
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_group import bound

aten = torch.ops.aten

ValueOf = Callable[[str, Sequence[Term]], Value]


class Reductions:
    """Writes reductions to `lines`; `value_of` writes what they reduce."""

    def __init__(self, lines: Lines, fakes: dict[str, Any], value_of: ValueOf) -> None:
        self.lines = lines
        self.fakes = fakes
        self.value_of = value_of

    def value(self, step: Step, index: list[Term]) -> Value:
        """What `step` has at `index`."""
        source = step.args[0].name
        shape = self.fakes[source].shape
        if not isinstance(shape[-1], int):
            raise UnsupportedError(f"%{step.name} reduces an axis whose size is not known ahead")
        size = shape[-1]
        lead = index if len(index) < len(shape) else index[:-1]
        if any("columns" in term.axes for term in lead):
            raise UnsupportedError(f"%{step.name} reduces another axis than that of the columns")
        if step.target is aten.mean.dim:
            total = self._total(f"{step.name}_sum", "sum", source, lead, size, torch.float32)
            return self.lines.assign(step.name, f"{total.text} / {float(size)}", total.axes, step.type)
        if step.target in (aten.sum.dim_IntList, aten.amax.default):
            kind = "max" if step.target is aten.amax.default else "sum"
            return self._total(step.name, kind, source, lead, size, self.fakes[step.name].dtype, step.type)
        if step.target in (aten.softmax.int, aten._softmax.default):
            return self._softmax(step, source, lead, index[-1], size)
        return self._norm(step, source, lead, index[-1], size)

    def _norm(self, step: Step, source: str, lead: list[Term], column: Term, size: int) -> Value:
        given = bound(step)
        eps = number(float(given["eps"]))
        mean = None
        if step.target is aten.layer_norm.default:
            total = self._total(f"{step.name}_sum", "sum", source, lead, size, torch.float32)
            mean = self.lines.once(f"{step.name}_mean", f"{total.text} / {float(size)}", total.axes)

        def squared() -> Value:
            each = self.value_of(source, [*lead, _columns(size)])
            if mean is not None:
                text, axes = f"{each.text} - {mean.text}", each.axes | mean.axes
                each = self.lines.assign(f"{step.name}_deviation", text, axes)
            return self.lines.assign(f"{step.name}_square", f"{each.text} * {each.text}", each.axes)

        squares = self._reduced(f"{step.name}_squares", "sum", squared, lead, size, torch.float32)
        root = f"tl.rsqrt({squares.text} / {float(size)} + {eps})"
        inverse = self.lines.once(f"{step.name}_inverse", root, squares.axes)
        x = self.value_of(source, [*lead, column])
        text = f"{x.text} * {inverse.text}" if mean is None else f"({x.text} - {mean.text}) * {inverse.text}"
        axes = x.axes | inverse.axes
        for key, sign in (("weight", "*"), ("bias", "+")):
            if isinstance(given.get(key), Read):
                operand = self.value_of(given[key].name, [column])
                text, axes = f"{text} {sign} {operand.text}", axes | operand.axes
        return self.lines.assign(step.name, text, axes, step.type)

    def _softmax(self, step: Step, source: str, lead: list[Term], column: Term, size: int) -> Value:
        largest = self._total(f"{step.name}_max", "max", source, lead, size, torch.float32)

        def exponential(at: Term) -> Value:
            each = self.value_of(source, [*lead, at])
            axes = each.axes | largest.axes
            key = (step.name, "exp", tuple(term.text for term in (*lead, at)))
            text = f"tl.exp({each.text} - {largest.text})"
            return self.lines.known(key, at.axes, lambda: self.lines.assign(f"{step.name}_exp", text, axes))

        total = self._reduced(f"{step.name}_sum", "sum", lambda: exponential(_columns(size)), lead, size, torch.float32)
        top = exponential(column)
        return self.lines.assign(step.name, f"{top.text} / {total.text}", top.axes | total.axes, step.type)

    def _total(
        self, name: str, kind: str, source: str, lead: list[Term], size: int, dtype: torch.dtype, comment: str = ""
    ) -> Value:
        def operand() -> Value:
            found = self.value_of(source, [*lead, _columns(size)])
            return Value(cast(found.text, self.fakes[source].dtype, dtype), found.axes)

        return self._reduced(name, kind, operand, lead, size, dtype, comment)

    def _reduced(
        self,
        name: str,
        kind: str,
        operand: Callable[[], Value],
        lead: Sequence[Term],
        size: int,
        dtype: torch.dtype,
        comment: str = "",
    ) -> Value:
        """The sum or the largest of what `operand` writes, over `size` columns; written once a row."""
        if kind == "max" and not dtype.is_floating_point:
            raise UnsupportedError(f"%{name} is the largest of {dtype}")
        key = (name, "reduced", tuple(term.text for term in lead))
        neutral = 'float("-inf")' if kind == "max" else "0.0" if dtype.is_floating_point else "0"
        function = "tl.max" if kind == "max" else "tl.sum"

        def make() -> Value:
            running = None
            if self.lines.looped:
                zeros = f"tl.full([ROWS, BLOCK], {neutral}, {register(dtype)})"
                running = self.lines.assign(f"{name}_running", zeros, frozenset())

            def work() -> tuple[str, frozenset[str]]:
                value = operand()
                text = value.text
                mask = self.lines.mask(frozenset({"columns"}))
                if mask or "columns" not in value.axes:
                    text = f"tl.where({mask or 'columns >= 0'}, {text}, {neutral})"
                if running is None:
                    return text, value.axes
                joined = f"tl.maximum({running.text}, {text})" if kind == "max" else f"{running.text} + {text}"
                self.lines.write(f"{running.text} = {joined}")
                return running.text, value.axes | {"row"}

            text, axes = self.lines.over_columns(size, work)
            line = f"{function}({text}, axis=1, keep_dims=True)"
            return self.lines.assign(name, line, axes - {"columns"}, comment)

        return self.lines.known(key, frozenset(), make)


def _columns(size: int) -> Term:
    return COLUMNS if size > 1 else ZERO
