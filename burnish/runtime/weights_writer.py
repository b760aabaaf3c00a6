"""Writing the weights of an artifact, `burnish.runtime.weights_file`: laid out before, one weight at a time."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from burnish.ir.dtypes import name_of
from burnish.ir.errors import WeightError
from burnish.ir.position_table import PositionTable
from burnish.ir.weights import Stored, Weight, Weights, nbytes
from burnish.runtime.hashing import PieceHasher
from burnish.runtime.weights_file import ALIGNMENT, PADDING, SAFETENSORS_NAMES, WEIGHTS_FILE, Placement


@dataclass(frozen=True)
class WeightLayout:
    """What the weights file will be, known before a single value is."""

    file: str
    header: bytes  # everything before the first weight
    placements: Mapping[str, Placement]  # by the name of the weight
    size: int  # bytes of the whole file
    weights: Weights  # that are in it
    tables: Mapping[str, PlacedTable]  # of positions, by the name of the weight: their vectors are in it


@dataclass(frozen=True)
class PlacedTable:
    """A table of positions, and the names of its vectors among the weights of the file."""

    table: PositionTable
    vectors: tuple[str, ...]


def plan_weights(weights: Weights, tables: bool = True) -> WeightLayout:
    """Lay out `weights` in the order they have, each tensor once.

    `tables`: those of positions stay formulas; else the file has their rows, for readers that know no formulas. Raises
    WeightError for a dtype that safetensors does not have.
    """
    weights, placed = _without_tables(weights) if tables else (weights, {})
    placements: dict[str, Placement] = {}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    known: dict[object, Placement] = {}
    offset = 0
    for name, weight in weights.items():
        same = known.get(_identity(weight))
        if same is not None:
            placements[name] = same
            continue
        dtype = name_of(weight.dtype)
        if dtype not in SAFETENSORS_NAMES:
            raise WeightError(f"the weight {name!r} is {weight.dtype}, which a safetensors file cannot hold")
        length = nbytes(weight)
        placement = Placement(name, offset, length, dtype, weight.shape)
        header[name] = _entry(SAFETENSORS_NAMES[dtype], weight.shape, offset, length)
        offset += length
        gap = -offset % ALIGNMENT
        if gap:
            header[_free_name(weights, len(placements))] = _entry("U8", (gap,), offset, gap)
            offset += gap
        placements[name] = known[_identity(weight)] = placement
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    start = 8 + len(text)
    return WeightLayout(
        file=WEIGHTS_FILE,
        header=struct.pack("<Q", len(text)) + text,
        placements={
            name: Placement(at.tensor, start + at.offset, at.length, at.dtype_name, at.shape)
            for name, at in placements.items()
        },
        size=start + offset,
        weights=weights,
        tables=placed,
    )


def _without_tables(weights: Weights) -> tuple[Weights, dict[str, PlacedTable]]:
    """The weights with the vectors of tables in the place of these, and the tables."""
    tables = {name: weight for name, weight in weights.items() if isinstance(weight, PositionTable)}
    kept = weights.keep_only(set(weights) - set(tables))
    placed = {
        name: PlacedTable(
            table, tuple(kept.add(f"{name}.vector_{number}", vector) for number, vector in enumerate(table.vectors))
        )
        for name, table in tables.items()
    }
    return kept, placed


def _entry(dtype: str, shape: tuple[int, ...], offset: int, length: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + length]}


def _free_name(weights: Weights, number: int) -> str:
    name = f"{PADDING}{number}"
    while name in weights:
        name += "_"
    return name


def _identity(weight: Weight) -> object:
    """Equal for weights whose values are the same memory: tied weights are stored once."""
    if isinstance(weight, Stored) and weight.tensor.numel():
        tensor = weight.tensor
        return (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
    return id(weight)


def write_weights(layout: WeightLayout, path: Path) -> PieceHasher:
    """Write the file of `layout`, holding one weight's values at a time; the hasher has its size and digests.

    Raises WeightError if a weight's values are not of the shape and dtype that it said it had.
    """
    hasher = PieceHasher()
    written: set[str] = set()
    with path.open("wb", buffering=0) as stream:

        def put(data: memoryview) -> None:
            hasher.update(data)
            while len(data):
                data = data[stream.write(data) :]

        put(memoryview(layout.header))
        for name, weight in layout.weights.items():
            placement = layout.placements[name]
            if placement.tensor in written:
                continue
            written.add(placement.tensor)
            values = weight.materialize()
            if tuple(values.shape) != placement.shape or name_of(values.dtype) != placement.dtype_name:
                raise WeightError(
                    f"the weight {name!r} was said to be {placement.dtype_name} {list(placement.shape)} "
                    f"and came out as {name_of(values.dtype)} {list(values.shape)}"
                )
            if not values.numel():  # of which there is no view
                continue
            data: memoryview = values.contiguous().reshape(-1).view(torch.uint8).numpy().data
            put(data)
            put(memoryview(bytes(-placement.length % ALIGNMENT)))
            del values, data  # before the next one is made
    assert hasher.bytes == layout.size
    return hasher
