"""The safetensors files of a folder: every tensor by name, memory-mapped."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from burnish.ir.errors import ArtifactError, InvalidModelError, WeightError
from burnish.ir.weights import Weight
from burnish.runtime.mapped_weights import map_weights
from burnish.runtime.weights_file import read_header

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
Tensors = dict[str, tuple[Weight, Path]]
"""Weights by their names in files, each with its file."""

_PICKLED = ("*.bin", "*.pt", "*.pth")


def read_tensors(folder: Path) -> Tensors:
    """Each tensor of `folder`, and its file. Reads no values.

    Raises:
        InvalidModelError: there are no safetensors.
        WeightError: a file is missing, truncated or malformed, or does not have what the index says.
    """
    if (folder / _SINGLE).is_file():
        return read_file(folder / _SINGLE)
    if not (folder / _INDEX).is_file():
        raise InvalidModelError(_no_weights(folder))
    index = _read_index(folder / _INDEX)
    found: Tensors = {}
    for shard, count in Counter(index.values()).items():
        path = folder / shard
        if Path(shard).name != shard:
            raise WeightError(f"{folder / _INDEX} names the file {shard!r}, which is not in the folder itself")
        if not path.is_file():
            raise WeightError(f"{path} is missing: {_INDEX} says that it has {count} of the {len(index)} tensors")
        found |= read_file(path)
    for name, shard in index.items():
        if name not in found:
            raise WeightError(f"{folder / shard} has no tensor {name!r}, and {_INDEX} says that it has")
    return found


def read_file(path: Path) -> Tensors:
    """Each tensor of a file. Raises WeightError for one that is truncated or malformed."""
    try:
        weights = map_weights(path, read_header(path))
    except ArtifactError as error:
        raise WeightError(
            f"{error}. The file has {path.stat().st_size} bytes: it may be truncated; get it again."
        ) from error
    return {name: (weight, path) for name, weight in weights.items()}


def _read_index(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise WeightError(f"{path} is no index of tensors: {error!r}") from error
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise WeightError(f"{path}: the weight_map has to give a file for each tensor")
    return found


def _no_weights(folder: Path) -> str:
    message = f"{folder} has neither {_SINGLE} nor {_INDEX}"
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern))
    if pickled:
        message += (
            f", but {', '.join(pickled[:3])}: pickled weights can run code, and are not read. Load them where you "
            "trust them, and write the folder again with transformers' save_pretrained."
        )
    return message
