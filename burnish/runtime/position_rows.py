"""Tables of positions in memory: of each, as many rows as the largest states have room for tokens."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from burnish.ir.position_table import PositionTable
from burnish.runtime.device_memory import room_for

_FEWEST = 1024  # rows: few enough to be made in no time, and enough for most sessions


class PositionRows:
    """Makes rows when they are first asked for. What was given stays as it is when more are made."""

    def __init__(self, tables: Mapping[str, PositionTable], device: torch.device | None = None) -> None:
        self._tables = dict(tables)
        self._device = device or torch.device("cpu")
        self._made: dict[str, torch.Tensor] = {}

    def for_capacity(self, capacity: int) -> dict[str, torch.Tensor]:
        """Each table's first rows, [rows, ...] by name: at least `capacity`, unless it has fewer."""
        return {name: self._rows(name, table, capacity) for name, table in self._tables.items()}

    def clear(self) -> None:
        """Free them."""
        self._made.clear()

    def _rows(self, name: str, table: PositionTable, capacity: int) -> torch.Tensor:
        made = self._made.get(name)
        if made is None or len(made) < min(capacity, table.rows):
            count = min(max(capacity, _FEWEST), table.rows)
            with room_for(f"the first {count} rows of {name}", table.nbytes_of(count), self._device):
                made = self._made[name] = table.first(count).to(self._device)
        return made
