"""Tables of positions of an artifact for what runs by numpy's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from burnish.ir.errors import ParseError
from burnish.ir.position_arrays import ArrayTable, NotByNumpy
from burnish.runtime.artifact import Artifact
from burnish.runtime.memory import numpy_name
from burnish.runtime.position_rows import RowTable

if TYPE_CHECKING:  # it takes numpy a while
    from numpy.typing import NDArray


def row_tables(artifact: Artifact, mapped: Mapping[str, NDArray[np.uint8]]) -> Mapping[str, RowTable]:
    """The tables by name, `mapped` being the weights' bytes; by PyTorch where numpy cannot make one.

    Raises ArtifactError for a formula that is none.
    """
    read = {name for entry in artifact.manifest.tables.values() for name in entry.vectors} & mapped.keys()
    kinds = {name: artifact.manifest.weights[name] for name in read}
    try:
        if any(numpy_name(each.dtype) != each.dtype for each in kinds.values()):
            raise NotByNumpy("numpy lacks the type of a vector")
        vectors = {name: mapped[name].view(each.dtype).reshape(each.shape) for name, each in kinds.items()}
        return artifact.tables_of(vectors, ArrayTable)
    except (NotByNumpy, ParseError):
        from burnish.runtime.torch_tables import torch_tables

        return torch_tables(artifact)
