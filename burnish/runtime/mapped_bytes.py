"""The weights of an artifact as bytes, mapped from its files: read when they are used, never written back."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from burnish.runtime.artifact import Artifact

if TYPE_CHECKING:  # it takes numpy a while
    from numpy.typing import NDArray


def map_file(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file."""
    with path.open("rb") as stream:
        return np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY), np.uint8)


def weight_bytes(artifact: Artifact) -> dict[str, NDArray[np.uint8]]:
    """Those of each weight, by name."""
    found: dict[str, NDArray[np.uint8]] = {}
    for file, placements in artifact.placements.items():
        everything = map_file(artifact.file(file))
        found |= {name: everything[at.offset : at.offset + at.length] for name, at in placements.items()}
    return found
