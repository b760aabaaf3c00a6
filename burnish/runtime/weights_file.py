"""The weights of an artifact: one safetensors file, laid out before it is written, one weight at a time.

Every weight starts at a multiple of 4096 bytes from the start of the file, so that it can be memory-mapped by
itself. safetensors allows no gaps, so the bytes between two weights are tensors too, `burnish.padding.N`. Of a table of
positions, its short vectors are in the file, as TABLE.vector_N, and its rows are not.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from burnish.ir.errors import ArtifactError, WeightError
from burnish.ir.position_table import PositionTable
from burnish.ir.weights import Stored, Weight, Weights, nbytes
from burnish.runtime.hashing import PieceHasher

WEIGHTS_FILE = "weights.safetensors"
ALIGNMENT = 4096
_PADDING = "burnish.padding."
_MAX_HEADER_BYTES = 100_000_000  # safetensors' own limit

_DTYPE_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
    torch.complex64: "C64",
}
_DTYPES = {name: dtype for dtype, name in _DTYPE_NAMES.items()}


@dataclass(frozen=True)
class Placement:
    """Where the values of a weight lie in the file."""

    tensor: str  # name in the safetensors header; weights that are the same tensor share one
    offset: int  # from the start of the file
    length: int  # bytes
    dtype: torch.dtype
    shape: tuple[int, ...]


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
        if weight.dtype not in _DTYPE_NAMES:
            raise WeightError(f"the weight {name!r} is {weight.dtype}, which a safetensors file cannot hold")
        length = nbytes(weight)
        placement = Placement(name, offset, length, weight.dtype, weight.shape)
        header[name] = _entry(_DTYPE_NAMES[weight.dtype], weight.shape, offset, length)
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
            name: Placement(at.tensor, start + at.offset, at.length, at.dtype, at.shape)
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
    name = f"{_PADDING}{number}"
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
            if tuple(values.shape) != placement.shape or values.dtype != placement.dtype:
                raise WeightError(
                    f"the weight {name!r} was said to be {placement.dtype} {list(placement.shape)} "
                    f"and came out as {values.dtype} {list(values.shape)}"
                )
            data: memoryview = values.contiguous().reshape(-1).view(torch.uint8).numpy().data
            put(data)
            put(memoryview(bytes(-placement.length % ALIGNMENT)))
            del values, data  # before the next one is made
    assert hasher.bytes == layout.size
    return hasher


# ---------------------------------------------------------------- reading


def read_header(path: Path) -> dict[str, Placement]:
    """The tensors of a safetensors file by name, with our padding. Reads no values.

    Raises ArtifactError if the header is not one, or says something that the file's size contradicts.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        prefix = stream.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise ArtifactError(f"{path} is no safetensors file: its header would have {length} bytes of {size}")
        text = stream.read(length)
    try:
        entries = json.loads(text)
        found = {
            name: _placement(name, entry, 8 + length, size) for name, entry in entries.items() if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"the header of {path} is malformed: {error!r}") from error
    return found


def _placement(name: str, entry: dict[str, Any], start: int, size: int) -> Placement:
    dtype, shape, (begin, end) = _DTYPES[entry["dtype"]], tuple(entry["shape"]), entry["data_offsets"]
    if not all(isinstance(number, int) and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name!r} has a size that is not a number of elements")
    if end - begin != math.prod(shape) * dtype.itemsize or start + end > size:
        raise ValueError(f"{name!r} of shape {list(shape)} does not fill its place in the file")
    return Placement(name, start + begin, end - begin, dtype, shape)


def map_weights(path: Path, placements: Mapping[str, Placement]) -> Weights:
    """The weights as views of the memory-mapped file: read when they are used, never written back."""
    weights = Weights()
    with path.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    for name, place in placements.items():
        count = math.prod(place.shape)
        if count:
            flat = torch.frombuffer(mapped, dtype=place.dtype, count=count, offset=place.offset)
            weights.add(name, Stored(flat.view(place.shape)))
        else:
            weights.add(name, Stored(torch.empty(place.shape, dtype=place.dtype)))
    return weights
