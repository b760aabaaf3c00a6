"""The weights of files as PyTorch's tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch

from burnish.ir.torch_types import torch_dtype
from burnish.ir.weights import Stored, Weights
from burnish.runtime.artifact import Artifact
from burnish.runtime.mapped_bytes import map_file
from burnish.runtime.weights_file import Placement


def map_weights(path: Path, placements: Mapping[str, Placement]) -> Weights:
    """The weights as views of the memory-mapped file: read when they are used, never written back."""
    weights = Weights()
    mapped = map_file(path)
    for name, place in placements.items():
        dtype, count = torch_dtype(place.dtype_name), math.prod(place.shape)
        if count:
            flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=place.offset)
            weights.add(name, Stored(flat.view(place.shape)))
        else:
            weights.add(name, Stored(torch.empty(place.shape, dtype=dtype)))
    return weights


def stored_weights(artifact: Artifact) -> Weights:
    """All that are in the files of an artifact: without tables of positions, with their vectors."""
    weights = Weights()
    for file, placements in artifact.placements.items():
        for name, weight in map_weights(artifact.file(file), placements).items():
            weights.add(name, weight)
    return weights


def weight_tensors(artifact: Artifact) -> dict[str, torch.Tensor]:
    """The weights of an artifact by name, mapped from its files."""
    return {name: weight.materialize() for name, weight in artifact.stored.items()}
