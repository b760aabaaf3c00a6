"""The lines of a generated kernel: which value is computed where, over which rows and columns, and once."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.codegen.triton.element_index import Scalars, Size

LONGEST_BLOCK = 4096  # columns that a program holds at once
_WIDTH = 1024  # elements that a program works on, where it may choose
_RESERVED = {
    "tl",
    "triton",
    "row",
    "rows",
    "in_rows",
    "columns",
    "start",
    "float",
    "range",
    "ROWS",
    "BLOCK",
    *keyword.kwlist,
}
_SIZE = re.compile(r"size_\d+")


@dataclass(frozen=True)
class Value:
    """Something that is in registers, by name, or a literal. `axes`: what it varies with, "row" or "columns"."""

    text: str
    axes: frozenset[str] = frozenset()


@dataclass
class _Block:
    """Lines at one depth, and what they have computed."""

    depth: int
    lines: list[str] = field(default_factory=list)
    known: dict[Any, Value] = field(default_factory=dict)


class Lines:
    """Lines under construction.

    With reductions, a program has all columns of its rows: as one block or, beyond LONGEST_BLOCK, in loops. Without,
    columns are spread over programs.
    """

    def __init__(self, rows: Size, extents: Sequence[int], reduces: bool, pointers: Sequence[str]) -> None:
        """`extents`: how many columns results and what is reduced have."""
        widest = power_of_two(max(extents, default=1))
        self.rows = rows
        self.scalars = Scalars()
        self.scalars.name(rows, "rows")
        self.block = min(widest, LONGEST_BLOCK if reduces else _WIDTH)
        self.looped = reduces and widest > LONGEST_BLOCK
        self.column_blocks = 1 if reduces else -(-max(extents, default=1) // self.block)
        self.block_rows = max(1, _WIDTH // self.block)
        if isinstance(rows, int):
            self.block_rows = min(self.block_rows, power_of_two(rows))
        self.masks_rows = not (isinstance(rows, int) and rows % self.block_rows == 0)
        self._top = _Block(1)
        self._current = self._top
        self._extent = 0  # columns below it are worked on; 0: none
        self._has_columns = False
        self._names = {*pointers, *_RESERVED}

    def finished(self) -> list[str]:
        """All lines of the function."""
        start = []
        if self.masks_rows or any(re.search(r"\brow\b", line) for line in self._top.lines):
            start.append("    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]")
        if self.masks_rows:
            start.append(f"    in_rows = row < {self.scalars.text(self.rows)}")
        if not self.looped and self._has_columns:
            first = "" if self.column_blocks == 1 else "tl.program_id(1) * BLOCK + "
            start.append(f"    columns = {first}tl.arange(0, BLOCK)[None, :]")
        return [*start, *self._top.lines]

    def over_columns(self, extent: int, work: Callable[[], Any]) -> Any:
        """Do `work`, which writes lines, for the columns below `extent`; in a loop where they are too many."""
        before = self._extent, self._current
        self._extent = extent
        self._has_columns |= extent > 0
        try:
            if not self.looped or not extent:
                return work()
            self._current = _Block(2)
            result = work()
            self._add(self._top, f"for start in range(0, {extent}, BLOCK):")
            self._add(self._top, "    columns = start + tl.arange(0, BLOCK)[None, :]")
            self._top.lines += self._current.lines
            return result
        finally:
            self._extent, self._current = before

    def write(self, line: str) -> None:
        """A line that names nothing new."""
        self._add(self._current, line)

    def assign(self, hint: str, text: str, axes: frozenset[str], comment: str = "") -> Value:
        """A line that names a value."""
        name, count = hint, 1
        while name in self._names or _SIZE.fullmatch(name):
            name, count = f"{hint}_{count}", count + 1
        self._names.add(name)
        self._add(
            self._current if "columns" in axes else self._top,
            f"{name} = {text}" + (f"  # {printable(comment)}" if comment else ""),
        )
        return Value(name, axes)

    def once(self, hint: str, text: str, axes: frozenset[str]) -> Value:
        """A line for a value of rows; none where an equal one has been written."""
        return self.known(text, frozenset(), lambda: self.assign(hint, text, axes))

    def known(self, key: Any, axes: frozenset[str], make: Callable[[], Value]) -> Value:
        """The value that was made for `key`, or is made now. `axes`: what the place that it is of varies with."""
        columns = "columns" in axes
        key = (key, self._extent if columns else 0)
        for block in (self._top, self._current):
            if key in block.known:
                return block.known[key]
        found = make()
        (self._current if columns else self._top).known[key] = found
        return found

    def mask(self, axes: frozenset[str]) -> str:
        """What is not to be read or written outside of; nothing where all is inside."""
        parts = ["in_rows"] if "row" in axes and self.masks_rows else []
        if "columns" in axes and (self._extent % self.block or self._extent < self.block * self.column_blocks):
            parts.append(f"columns < {self._extent}")
        return parts[0] if len(parts) == 1 else " & ".join(f"({part})" if " " in part else part for part in parts)

    @staticmethod
    def _add(block: _Block, line: str) -> None:
        block.lines.append("    " * block.depth + line)


def printable(text: str) -> str:
    """`text` on one line, for comments: it may be from anywhere."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def power_of_two(size: int) -> int:
    """The least power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()
