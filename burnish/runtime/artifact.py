"""An artifact on disk: the folder that `compile` writes and `load` reads.

NAME.burnish/
  manifest.json          what everything else is, with sizes and checksums (burnish.runtime.manifest)
  weights.safetensors    the weights, each at a multiple of 4096 bytes (burnish.runtime.weights_file); the manifest has
                         formulas in place of tables of positions (burnish.ir.position_table)
  step.json              the step graph, for the reference executor (burnish.ir.serialize)
  model.onnx             for CPUs: the lowered step graph, its weights pointing into weights.safetensors
  plan.json              for native kernels and GPUs: the launch plan (burnish.runtime.kernel_files)
  kernels/, native/      its kernels for GPUs; native kernels, if they were asked for
  tokenizer/             tokenizer.json and chat_template.jinja, if the model has a tokenizer
  trace/                 trace.json, and the program after each pass: as text, NN-PASS.txt, and in nodes.json
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import msgspec

from burnish.ir.dtypes import name_of
from burnish.ir.errors import ArtifactError, UsageError, WeightError
from burnish.ir.signature import Interface, Signature
from burnish.ir.states import State
from burnish.runtime import manifest as manifests
from burnish.runtime.fresh_folder import fresh_folder, replaced
from burnish.runtime.hashing import verify
from burnish.runtime.manifest import MANIFEST_FILE, FileEntry, Manifest, file_size
from burnish.runtime.weights_file import Placement, read_header

if TYPE_CHECKING:  # what needs PyTorch is imported by what asks for it
    from burnish.ir.position_table import PositionTable
    from burnish.ir.program import Program
    from burnish.ir.trace import Trace
    from burnish.ir.weights import Weights
    from burnish.runtime.tokenization import Tokenizer

_T = TypeVar("_T")
_Vector = TypeVar("_Vector")
STEP_FILE = "step.json"
MODEL_FILE = "model.onnx"
TRACE_FILE = "trace/trace.json"
NODES_FILE = "trace/nodes.json"
TOKENIZER_FILE = "tokenizer/tokenizer.json"
TEMPLATE_FILE = "tokenizer/chat_template.jinja"


class Table(Protocol):
    """A table of positions, however its rows are made."""

    @property
    def row(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...


_Table = TypeVar("_Table", bound=Table)


class Artifact:
    """An artifact whose manifest, paths, sizes and weight header were checked. For the rest, `verify`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.interface: Signature | Interface
        if manifest.graph is not None:
            self.interface = manifests.interface_of(manifest.graph)
        elif manifest.signature is not None:
            self.interface = manifests.signature_of(manifest.signature, manifest.inputs)
        else:
            raise ArtifactError(f"the manifest of {path} has neither a signature nor a graph")
        self.states: tuple[State, ...] = tuple(manifests.state_of(entry) for entry in manifest.states)
        self._placements = self._check_weights()

    @property
    def signature(self) -> Signature:
        """Of a language model. Raises UsageError where it is none."""
        if not isinstance(self.interface, Signature):
            raise UsageError(
                f"{self.path} is no language model, with tokens and logits: it takes {', '.join(self.interface.names)} "
                f"and gives {', '.join(self.interface.outputs)}. Call it from Python: burnish.load(path)(...)"
            )
        return self.interface

    @staticmethod
    def open(path: Path | str) -> Artifact:
        """Open the artifact at `path`. Raises ArtifactError, which says what is wrong with which file."""
        path = path_of(path)
        if not os.path.isdir(path):  # which raises nothing, whatever the name
            found = "a file, not a folder" if os.path.exists(path) else "missing"
            if (old := replaced(path)) is not None:
                found += f"; a save was interrupted, and what was there before is {old}: rename it, or save again"
            raise ArtifactError(f"there is no artifact at {path}: it is {found}")
        manifest = manifests.read(path)
        for name, entry in manifest.files.items():
            _check_file(path, name, entry)
        return Artifact(path, manifest)

    def _check_weights(self) -> dict[str, Placement]:
        """The place of each weight, after comparing the manifest with the headers of the files."""
        headers: dict[str, dict[str, Placement]] = {}
        placements: dict[str, Placement] = {}
        for name, entry in self.manifest.weights.items():
            if entry.file not in headers:
                headers[entry.file] = read_header(self.file(entry.file))
            found = headers[entry.file].get(entry.tensor)
            if found is None:
                raise ArtifactError(
                    f"{entry.file} in {self.path} lacks the tensor {entry.tensor!r} of the weight {name!r}"
                )
            said = (entry.dtype, entry.shape, entry.offset)
            there = (found.dtype_name, list(found.shape), found.offset)
            if said != there:
                raise ArtifactError(
                    f"the weight {name!r} should be {said[0]} {said[1]} at byte {said[2]} of {entry.file} "
                    f"in {self.path}, which has {there[0]} {there[1]} at byte {there[2]}"
                )
            placements[name] = found
        return placements

    def file(self, name: str) -> Path:
        """The path of a file that the manifest lists. Raises ArtifactError if it does not."""
        if name not in self.manifest.files:
            raise ArtifactError(f"the artifact {self.path} has no {name}")
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the manifest lists the file."""
        return name in self.manifest.files

    def verify(self, weights: bool = True, others: bool = True, threads: int | None = None) -> None:
        """Compare the contents of the weight files, and of the others, with their checksums.

        Raises ArtifactError, which names the file. Reads every byte: about 0.4 s for each 500 MB and thread.
        """
        heavy = self.manifest.weight_files
        chosen = (
            (name, entry.bytes, entry.sha256)
            for name, entry in self.manifest.files.items()
            if (weights if name in heavy else others)
        )
        verify(self.path, chosen, threads)

    def tables_of(
        self, vectors: Mapping[str, _Vector], make: Callable[[int, str, tuple[_Vector, ...]], _Table]
    ) -> dict[str, _Table]:
        """The tables of positions by name, as `make` makes them of rows, formula and vectors, which are weights.

        Raises ArtifactError for a formula that is none.
        """
        found: dict[str, _Table] = {}
        for name, entry in self.manifest.tables.items():
            self._check_table(name, entry)
            try:
                table = make(entry.rows, entry.body, tuple(vectors[vector] for vector in entry.vectors))
            except WeightError as error:
                raise ArtifactError(f"the table of positions {name!r} in {self.path} is malformed: {error}") from error
            if (list(table.row), name_of(table.dtype)) != (entry.row, entry.dtype):
                raise ArtifactError(
                    f"the table of positions {name!r} in {self.path} should have rows of {entry.dtype} {entry.row}, "
                    f"and its formula gives {name_of(table.dtype)} {list(table.row)}"
                )
            found[name] = table
        return found

    def _check_table(self, name: str, entry: manifests.TableEntry) -> None:
        if name in self._placements:
            raise ArtifactError(f"{self.path} has {name!r} both as a weight and as a table of positions")
        missing = [vector for vector in entry.vectors if vector not in self._placements]
        if missing:
            raise ArtifactError(f"the table of positions {name!r} in {self.path} reads {missing[0]!r}, which it lacks")
        if isinstance(self.interface, Signature) and entry.rows < self.signature.max_length:
            raise ArtifactError(
                f"the table of positions {name!r} in {self.path} has {entry.rows} rows, and the model takes "
                f"{self.signature.max_length} tokens"
            )

    @property
    def placements(self) -> dict[str, dict[str, Placement]]:
        """Where the weights lie, by file and name."""
        by_file: dict[str, dict[str, Placement]] = {}
        for name, entry in self.manifest.weights.items():
            by_file.setdefault(entry.file, {})[name] = self._placements[name]
        return by_file

    @cached_property
    def tables(self) -> dict[str, PositionTable]:
        """The tables of positions by name, as PyTorch makes their rows. Raises ArtifactError, see `tables_of`."""
        from burnish.ir.position_table import position_table

        return self.tables_of(self.stored, position_table)

    @cached_property
    def weights(self) -> Weights:
        """The weights, memory-mapped, and the tables of positions."""
        from burnish.ir.weights import Weights

        return Weights({**self.stored, **self.tables})

    @cached_property
    def stored(self) -> Weights:
        """The weights that are in files, memory-mapped: the vectors of tables in place of these."""
        from burnish.runtime.mapped_weights import stored_weights

        return stored_weights(self)

    def program(self) -> Program:
        """The step graph over the memory-mapped weights."""
        from burnish.ir.serialize import program_from_data

        data = self.decoded(STEP_FILE, Any)
        return program_from_data(data, self.weights, self.interface, self.states)

    def trace(self) -> Trace:
        """The record of the compilation."""
        from burnish.runtime.trace_files import read_trace

        return read_trace(self)

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, if there is one."""
        if self.manifest.tokenizer is None:
            return None
        from burnish.runtime.tokenization import Tokenizer, TokenizerData

        template = self.text(TEMPLATE_FILE) if self.has(TEMPLATE_FILE) else None
        return Tokenizer(TokenizerData(self.text(TOKENIZER_FILE), template, self.manifest.tokenizer.special_tokens))

    def text(self, name: str) -> str:
        """What is in a text file. Raises ArtifactError where it is none."""
        try:
            return self.file(name).read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ArtifactError(f"{name} in {self.path} is not a text: {error}") from error

    def copy(self, path: Path | str) -> None:
        """Copy the artifact to the folder `path`, all of it or nothing; hard links where possible."""
        with fresh_folder(path_of(path)) as folder:
            for name in (MANIFEST_FILE, *self.manifest.files):
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link((self.path / name).resolve(), target)
                except OSError:  # another file system, or one without hard links
                    shutil.copyfile(self.path / name, target)

    def decoded(self, name: str, kind: type[_T]) -> _T:
        """What the JSON of a file says. Raises ArtifactError where it is not of that kind."""
        try:
            return msgspec.json.decode(self.file(name).read_bytes(), type=kind)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ArtifactError(f"{name} in {self.path} is malformed: {error}") from error


def path_of(given: Path | str) -> Path:
    """Raises UsageError where that is no path."""
    try:
        return Path(given)
    except TypeError as error:
        raise UsageError(f"a path is a text or a pathlib.Path, not {type(given).__name__}") from error


def _check_file(root: Path, name: str, entry: FileEntry) -> None:
    """Raise ArtifactError unless `name` is an ordinary file of the right size inside `root`."""
    parts = PurePosixPath(name).parts
    strange = not parts or ".." in parts or "\\" in name or PurePosixPath(name).is_absolute()
    if strange or PureWindowsPath(name).drive or str(PurePosixPath(name)) != name:
        raise ArtifactError(f"the manifest of {root} names the file {name!r}, which is no plain path inside the folder")
    try:
        size = file_size(root, name)
    except FileNotFoundError:
        raise ArtifactError(f"the artifact {root} lacks the file {name}: compile or copy it again") from None
    if size != entry.bytes:
        raise ArtifactError(
            f"{name} in {root} has {size} bytes and should have {entry.bytes}: compile or copy the artifact again"
        )
