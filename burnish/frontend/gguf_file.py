"""The GGUF format: metadata and the places of tensors in a memory-mapped file.

Little endian; magic "GGUF", version, number of tensors, number of metadata entries, the entries, the descriptions of
the tensors, then the tensors' bytes, each aligned.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from burnish.ir.errors import InvalidModelError, WeightError

_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32  # unless the metadata has another
_MAX_AXES = 4
_MAX_DEPTH = 8  # of arrays in arrays: none that is in use has any


@dataclass(frozen=True)
class Tensor:
    """A tensor as the file has it."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]  # row-major: the last axis is contiguous
    data: np.ndarray[Any, np.dtype[np.uint8]]  # bytes[rows, bytes of a row], mapped


@dataclass(frozen=True)
class GGUFFile:
    """What a file says, its tensors' values unread."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def name(self) -> str:
        """What the file is called, without the number of a part."""
        part = _PART.fullmatch(self.path.name)
        return part["name"] if part else self.path.stem


_PART = re.compile(r"(?P<name>.+)-(?P<number>\d+)-of-(?P<count>\d+)\.gguf", re.IGNORECASE)


def open_gguf(path: Path) -> GGUFFile:
    """Read the head of `path`, and of the other parts of a model in several files.

    Raises:
        InvalidModelError: the file is not GGUF, is of another version, its head is malformed, or a part is missing.
        WeightError: the file ends before a tensor does, or a tensor is of an unknown type.
    """
    file = _open_one(path)
    count = file.metadata.get("split.count", 1)
    if type(count) is not int or count < 2:
        return file
    part = _PART.fullmatch(path.name)
    if part is None or int(part["count"]) != count:
        raise InvalidModelError(
            f"{path} is one part of a model in {count} files, which are found by their names: call them "
            f"NAME-{1:05}-of-{count:05}.gguf and so on"
        )
    width = len(part["number"])
    names = (f"{part['name']}-{number:0{width}}-of-{part['count']}.gguf" for number in range(1, count + 1))
    paths = [path.with_name(name) for name in names]
    missing = [each.name for each in paths if not each.is_file()]
    if missing:
        shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise InvalidModelError(
            f"{path} is one part of a model in {count} files, of which {len(missing)} are missing: put {shown} beside "
            "it"
        )
    return _joined(path, [file if each == path else _open_one(each) for each in paths])


def _joined(path: Path, parts: list[GGUFFile]) -> GGUFFile:
    """The model of all `parts`, in order: the first has the metadata."""
    tensors: dict[str, Tensor] = {}
    for number, part in enumerate(parts):
        if (part.metadata.get("split.no"), part.metadata.get("split.count")) != (number, len(parts)):
            raise InvalidModelError(
                f"{part.path} says that it is part {part.metadata.get('split.no')} (from 0) of "
                f"{part.metadata.get('split.count')}, which is not what it is called: the parts are of several models"
            )
        if twice := tensors.keys() & part.tensors.keys():
            raise InvalidModelError(f"{part.path} has the tensor {min(twice)!r}, which another part has, too")
        tensors |= part.tensors
    expected = parts[0].metadata.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise InvalidModelError(
            f"{path}: the model has {expected} tensors, and its {len(parts)} files have {len(tensors)}: the parts are "
            "of several models"
        )
    return replace(parts[0], path=path, tensors=tensors)


def _open_one(path: Path) -> GGUFFile:
    size = path.stat().st_size
    if size < 24:
        raise InvalidModelError(f"{path} is no GGUF file: it has {size} bytes, and the head alone takes 24")
    # copy on write: PyTorch has no tensors that cannot be written
    mapped = np.asarray(np.memmap(path, dtype=np.uint8, mode="c"))  # plain views of it are quicker to make
    cursor = _Cursor(path, mapped.data)
    magic = bytes(cursor.take(4))
    if magic != b"GGUF":
        raise InvalidModelError(f"{path} is no GGUF file: it begins with {magic!r}, not with b'GGUF'")
    version = cursor.scalar("I")
    if version not in _VERSIONS:
        raise InvalidModelError(
            f"{path} is GGUF of version {version}: versions {_VERSIONS[0]} and {_VERSIONS[1]}, little endian, are read"
        )
    tensor_count, entry_count = cursor.scalar("Q"), cursor.scalar("Q")
    metadata: dict[str, Any] = {}
    for _ in range(entry_count):
        name = cursor.string()
        metadata[name] = cursor.value(cursor.scalar("I"), name)
    described = [_describe(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise InvalidModelError(f"{path}: general.alignment is {alignment!r}, which is no number of bytes")
    start = math.ceil(cursor.at / alignment) * alignment
    return GGUFFile(
        path,
        metadata,
        {name: _tensor(path, mapped, name, shape, kind, start + at) for name, shape, kind, at in described},
    )


@dataclass
class _Cursor:
    """Reads one thing after another, and says where the file ends too early."""

    path: Path
    data: memoryview
    at: int = 0

    def take(self, count: int) -> memoryview:
        if count > len(self.data) - self.at:
            raise InvalidModelError(
                f"{self.path} is truncated in its head: {count} bytes are expected at byte {self.at}, and the file "
                f"ends at {len(self.data)}. Get the file again."
            )
        taken = self.data[self.at : self.at + count]
        self.at += count
        return taken

    def scalar(self, code: str) -> Any:
        form = "<" + code
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def string(self) -> str:
        # as llama.cpp: not every vocabulary is valid UTF-8
        return bytes(self.take(self.scalar("Q"))).decode("utf-8", errors="replace")

    def value(self, kind: int, name: str, depth: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            if depth == _MAX_DEPTH:
                raise InvalidModelError(f"{self.path}: the metadata {name!r} has arrays in arrays, over {depth} deep")
            inner, count = self.scalar("I"), self.scalar("Q")
            if inner in _SCALARS:
                form = f"<{count}{_SCALARS[inner]}"
                return list(struct.unpack(form, self.take(struct.calcsize(f"<{_SCALARS[inner]}") * count)))
            return [self.value(inner, name, depth + 1) for _ in range(count)]
        if kind not in _SCALARS:
            raise InvalidModelError(f"{self.path}: the metadata {name!r} is of the unknown type {kind}")
        return self.scalar(_SCALARS[kind])


def _describe(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """Name, row-major shape, type and place after the head of the next tensor."""
    name = cursor.string()
    axes = cursor.scalar("I")
    if not 1 <= axes <= _MAX_AXES:
        raise InvalidModelError(f"{cursor.path}: the tensor {name!r} has {axes} axes, not 1 to {_MAX_AXES}")
    shape = tuple(reversed([cursor.scalar("Q") for _ in range(axes)]))
    if 0 in shape:
        raise InvalidModelError(f"{cursor.path}: the tensor {name!r} is {list(shape)}, which has no elements")
    return name, shape, cursor.scalar("I"), cursor.scalar("Q")


def _tensor(
    path: Path, mapped: np.ndarray[Any, np.dtype[np.uint8]], name: str, shape: tuple[int, ...], kind: int, start: int
) -> Tensor:
    try:
        known = GGMLQuantizationType(kind)
    except ValueError:
        raise WeightError(
            f"{path}: the tensor {name!r} is of the GGML type {kind}, which the installed gguf does not know: "
            "a newer one may (pip install -U gguf)"
        ) from None
    block, block_bytes = GGML_QUANT_SIZES[known]
    if shape[-1] % block:
        raise WeightError(
            f"{path}: the tensor {name!r} has rows of {shape[-1]} values, but {known.name} has blocks of {block}"
        )
    row_bytes = shape[-1] // block * block_bytes
    rows = math.prod(shape[:-1])
    end = start + rows * row_bytes
    if end > len(mapped):
        raise WeightError(
            f"{path} is truncated: the tensor {name!r} ({known.name} {list(shape)}) ends at byte {end}, and the file "
            f"has {len(mapped)}. Get the file again."
        )
    return Tensor(name, known, shape, mapped[start:end].reshape(rows, row_bytes))
