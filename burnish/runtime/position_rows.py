"""Tables of positions in memory: of each, as many rows as the largest states have room for tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from burnish.runtime.memory import Memory

_FEWEST = 1024  # rows: few enough to be made in no time, and enough for most sessions


class RowTable(Protocol):
    """Makes rows."""

    @property
    def rows(self) -> int:
        """How many there are."""
        ...

    def first(self, count: int) -> Any:
        """The first [count, ...], in memory of the CPU."""
        ...

    def nbytes_of(self, count: int) -> int:
        """Bytes of so many."""
        ...


class PositionRows:
    """Makes rows when they are first asked for. What was given stays as it is when more are made."""

    def __init__(self, tables: Mapping[str, RowTable], memory: Memory) -> None:
        self._tables = dict(tables)
        self._memory = memory
        self._made: dict[str, Any] = {}

    def for_capacity(self, capacity: int) -> dict[str, Any]:
        """Each table's first rows, [rows, ...] by name: at least `capacity`, unless it has fewer."""
        return {name: self._rows(name, table, capacity) for name, table in self._tables.items()}

    def clear(self) -> None:
        """Free them."""
        self._made.clear()

    def _rows(self, name: str, table: RowTable, capacity: int) -> Any:
        made = self._made.get(name)
        if made is None or len(made) < min(capacity, table.rows):
            count = min(max(capacity, _FEWEST), table.rows)
            with self._memory.room(f"the first {count} rows of {name}", table.nbytes_of(count)):
                made = self._made[name] = self._memory.take(table.first(count))
        return made
