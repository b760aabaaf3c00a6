"""Indices of elements as text: which element of a tensor a thread works on, through any view of it.

An index has a term for each axis. What is worked on is a row, by its number among all rows, and columns of it; a term
is a part of the row's number, the column, or made of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sympy
import torch

from burnish.ir.shapes import product, size_expression

Size = int | torch.SymInt


@dataclass(frozen=True)
class Term:
    """The place along one axis. `axes`: what it varies with, "row" or "columns"."""

    text: str
    axes: frozenset[str] = frozenset()
    part: tuple[Size, Size | None] | None = None  # (row // first) % second; second None: of all

    @property
    def atom(self) -> str:
        """Its text, to be used in a larger one."""
        return self.text if self.text.isidentifier() or self.text.isdecimal() else f"({self.text})"


ZERO = Term("0")
COLUMNS = Term("columns", frozenset({"columns"}))
_ROW = frozenset({"row"})


def equal(one: Size, two: Size) -> bool:
    """Whether two sizes are known to be the same, for all sizes of the inputs."""
    return bool(sympy.expand(size_expression(one) - size_expression(two)) == 0)


class Scalars:
    """The arguments of a kernel that are sizes; a number is written as it is."""

    def __init__(self) -> None:
        self.values: dict[str, Size] = {}
        self._names: dict[Any, str] = {}

    def name(self, size: Size, name: str) -> None:
        """What a size that is no number is called."""
        if not isinstance(size, int):
            self._names[sympy.expand(size_expression(size))] = name
            self.values[name] = size

    def text(self, size: Size) -> str:
        """A size in the source."""
        if isinstance(size, int):
            return str(size)
        whole = sympy.expand(size_expression(size))
        factor, rest = whole.as_coeff_Mul()
        if whole in self._names or not factor.is_Integer or not rest.free_symbols:
            factor, rest = sympy.Integer(1), whole
        if rest not in self._names:
            self._names[rest] = f"size_{len(self._names)}"
            self.values[self._names[rest]] = size // int(factor)
        name = self._names[rest]
        return name if factor == 1 else f"({factor} * {name})"


class Indices:
    """Terms over the sizes of one kernel."""

    def __init__(self, scalars: Scalars) -> None:
        self.scalars = scalars

    def part(self, divisor: Size, size: Size | None) -> Term:
        """(row // divisor) % size."""
        text = "row" if equal(divisor, 1) else f"row // {self.scalars.text(divisor)}"
        if size is not None:
            text = f"{text} % {self.scalars.text(size)}"
        return Term(text, _ROW, (divisor, size))

    def of_row(self, shape: Sequence[Size]) -> list[Term]:
        """The index of the row in a tensor whose rows are so many."""
        return self.split(self.part(1, None), shape)

    def split(self, term: Term, shape: Sequence[Size]) -> list[Term]:
        """A place along one axis as an index in axes that are this one, split."""
        terms = []
        first = next((i for i, size in enumerate(shape) if not equal(size, 1)), 0)
        for i, size in enumerate(shape):
            inner = product(shape[i + 1 :])
            if equal(size, 1):
                terms.append(ZERO)
            elif term.part is not None:
                divisor, whole = term.part
                terms.append(self.part(divisor * inner, (None if whole is None else size) if i == first else size))
            else:
                text = term.atom if equal(inner, 1) else f"{term.atom} // {self.scalars.text(inner)}"
                text = text if i == first else f"{text} % {self.scalars.text(size)}"
                terms.append(Term(text, term.axes))
        return terms

    def joined(self, terms: Sequence[Term], shape: Sequence[Size]) -> Term:
        """An index in several axes as a place along the one that joins them."""
        parts = self.combined([(term, product(shape[i + 1 :])) for i, term in enumerate(terms)], shape)
        if not parts:
            return ZERO
        if len(parts) == 1 and equal(parts[0][1], 1):
            return parts[0][0]
        return Term(self.sum(parts), frozenset().union(*(term.axes for term, _ in parts)))

    def combined(self, terms: list[tuple[Term, Size]], shape: Sequence[Size]) -> list[tuple[Term, Size]]:
        """Terms and the distance of neighbours, with those that are parts of the row in order made one."""
        found: list[tuple[Term, Size]] = []
        kept = [
            (term, stride, size)
            for (term, stride), size in zip(terms, shape, strict=True)
            if term.text != "0" and not equal(stride, 0)
        ]
        for term, stride, size in kept:
            if found and found[-1][0].part is not None and term.part is not None:
                (before, outer), (divisor, inner) = found[-1], term.part
                assert before.part is not None
                follows = inner is not None and equal(before.part[0], divisor * inner) and equal(outer, stride * size)
                if follows and inner is not None and equal(inner, size):
                    whole = None if before.part[1] is None else before.part[1] * inner
                    found[-1] = (self.part(divisor, whole), stride)
                    continue
            found.append((term, stride))
        return found

    def sum(self, terms: Sequence[tuple[Term, Size]]) -> str:
        """The sum of places times distances."""
        if not terms:
            return "0"
        texts = [
            term.atom if equal(stride, 1) else f"{term.atom} * {self.scalars.text(stride)}" for term, stride in terms
        ]
        return " + ".join(texts)

    def through_reshape(self, index: Sequence[Term], shape: Sequence[Size], source: Sequence[Size]) -> list[Term]:
        """The index in a tensor of the sizes `source` of what is at `index` in its reshape to `shape`."""
        found: list[Term] = []
        i = j = 0
        while i < len(shape) or j < len(source):
            if i < len(shape) and j < len(source) and equal(shape[i], source[j]):
                found.append(index[i])
                i, j = i + 1, j + 1
                continue
            if i < len(shape) and equal(shape[i], 1):
                i += 1
                continue
            if j < len(source) and equal(source[j], 1):
                found.append(ZERO)
                j += 1
                continue
            ends = next(
                (
                    (a, b)
                    for length in range(2, len(shape) - i + len(source) - j + 1)
                    for a in range(i + 1, min(len(shape), i + length) + 1)
                    for b in (j + length - (a - i),)
                    if j < b <= len(source) and equal(product(shape[i:a]), product(source[j:b]))
                ),
                (len(shape), len(source)),
            )
            place = self.joined(index[i : ends[0]], shape[i : ends[0]])
            found += self.split(place, source[j : ends[1]])
            i, j = ends
        return found


def shifted(term: Term, start: str, step: int) -> Term:
    """start + step * term."""
    if start == "0" and step == 1:
        return term
    text = term.atom if step == 1 else f"{step} * {term.atom}"
    return replace(term, text=text if start == "0" else f"{start} + {text}", part=None)


def broadcast(index: Sequence[Term], shape: Sequence[Size]) -> list[Term]:
    """The index in a tensor of `shape` of what is at `index` in what it is broadcast to."""
    own = index[len(index) - len(shape) :]
    return [ZERO if equal(size, 1) else term for size, term in zip(shape, own, strict=True)]
