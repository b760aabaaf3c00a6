"""Tables of positions that PyTorch makes, in memory that numpy has, too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.ir.position_table import PositionTable
from burnish.runtime.artifact import Artifact
from burnish.runtime.position_rows import RowTable


@dataclass(frozen=True)
class TorchTable:
    """A table whose rows are arrays, of their bits where numpy lacks their type."""

    table: PositionTable

    @property
    def rows(self) -> int:
        """See `RowTable.rows`."""
        return self.table.rows

    def first(self, count: int) -> NDArray[Any]:
        """See `RowTable.first`."""
        found: NDArray[np.uint8] = self.table.first(count).reshape(count, -1).view(torch.uint8).numpy()
        return found

    def nbytes_of(self, count: int) -> int:
        """See `RowTable.nbytes_of`."""
        return self.table.nbytes_of(count)


def torch_tables(artifact: Artifact) -> Mapping[str, RowTable]:
    """The tables of an artifact by name."""
    return {name: TorchTable(table) for name, table in artifact.tables.items()}
