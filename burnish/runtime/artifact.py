"""An artifact on disk: the folder that `compile` writes and `load` reads.

NAME.burnish/
  manifest.json          what everything else is, with sizes and checksums (burnish.runtime.manifest)
  weights.safetensors    the weights, each at a multiple of 4096 bytes (burnish.runtime.weights_file); the manifest has
                         formulas in place of tables of positions (burnish.ir.position_table)
  step.json              the step graph, for the reference executor (burnish.ir.serialize)
  model.onnx             for CPUs: the lowered step graph, its weights pointing into weights.safetensors
  plan.json, kernels/    for GPUs: the launch plan, and its kernels (burnish.runtime.kernel_files)
  tokenizer/             tokenizer.json and chat_template.jinja, if the model has a tokenizer
  trace/                 trace.json, and the program after each pass: as text, NN-PASS.txt, and in nodes.json
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

import msgspec

from burnish.ir.errors import ArtifactError, WeightError
from burnish.ir.position_table import PositionTable, position_table
from burnish.ir.program import Program, Signature
from burnish.ir.serialize import program_from_data, program_to_data
from burnish.ir.states import State
from burnish.ir.trace import NodeRecord, Trace
from burnish.ir.weights import Weights
from burnish.runtime import manifest as manifests
from burnish.runtime.hashing import PieceHasher, verify
from burnish.runtime.kernel_files import PlannedCode, files_of
from burnish.runtime.manifest import MANIFEST_FILE, FileEntry, Manifest, Target
from burnish.runtime.tokenization import Tokenizer, TokenizerData
from burnish.runtime.weights_file import Placement, WeightLayout, map_weights, read_header, write_weights
from burnish.version import __version__

_T = TypeVar("_T")
STEP_FILE = "step.json"
MODEL_FILE = "model.onnx"
TRACE_FILE = "trace/trace.json"
NODES_FILE = "trace/nodes.json"
TOKENIZER_FILE = "tokenizer/tokenizer.json"
TEMPLATE_FILE = "tokenizer/chat_template.jinja"


@dataclass(frozen=True)
class Contents:
    """What goes into an artifact."""

    name: str  # of the model, for people
    target: Target  # what the model was lowered for
    program: Program  # in step form
    layout: WeightLayout  # of the program's weights, and of what the lowered graph needs besides
    model: bytes | None  # the ONNX model; None if nothing was lowered to it
    code: PlannedCode | None = None  # None if nothing was lowered to kernels
    generation: Mapping[str, Any] = field(default_factory=dict)  # the model's own generation defaults
    tokenizer: TokenizerData | None = None
    trace: Trace = field(default_factory=Trace)
    pipeline: tuple[str, ...] = ()  # names of the passes, in order


# ---------------------------------------------------------------- writing


def write(path: Path | str, contents: Contents) -> None:
    """Write an artifact to the folder `path`, all of it or nothing.

    What is there already is replaced if it is an artifact or an empty folder, else refused. One weight is
    held in memory at a time. Raises ArtifactError where the destination is not fit, WeightError where a
    weight is not.
    """
    with _fresh_folder(Path(path)) as folder:
        files: dict[str, FileEntry] = {}
        hasher = write_weights(contents.layout, folder / contents.layout.file)
        files[contents.layout.file] = FileEntry(hasher.bytes, hasher.digests())
        for name, data in _small_files(contents):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
            hasher = PieceHasher()
            hasher.update(memoryview(data))
            files[name] = FileEntry(hasher.bytes, hasher.digests())
        (folder / MANIFEST_FILE).write_bytes(manifests.encode(_manifest(contents, files)))


def _small_files(contents: Contents) -> Iterator[tuple[str, bytes]]:
    """Every file but the weights and the manifest."""
    yield STEP_FILE, msgspec.json.encode(program_to_data(contents.program))
    if contents.model is not None:
        yield MODEL_FILE, contents.model
    if contents.code is not None:
        yield from files_of(contents.code)
    if contents.tokenizer is not None:
        yield TOKENIZER_FILE, contents.tokenizer.tokenizer_json.encode()
        if contents.tokenizer.chat_template is not None:
            yield TEMPLATE_FILE, contents.tokenizer.chat_template.encode()
    # The texts are files of their own, to be read and compared; trace.json does not repeat them. Times differ from one
    # compilation to the next, and what it writes does not.
    bare = [replace(record, text="", nodes=(), declarations="", seconds=None) for record in contents.trace.passes]
    trace = replace(contents.trace, passes=bare, phases={})
    yield NODES_FILE, msgspec.json.encode(_nodes_of(contents.trace))
    yield TRACE_FILE, msgspec.json.format(msgspec.json.encode(trace), indent=1)
    for record in contents.trace.passes:
        yield _text_file(record.number, record.name), record.text.encode()


@dataclass(frozen=True)
class _Nodes:
    """The nodes of all programs of a trace, each once; for each pass which ones, in order, and its declarations."""

    nodes: list[NodeRecord]
    passes: list[list[int]]
    declarations: list[str]


def _nodes_of(trace: Trace) -> _Nodes:
    places: dict[NodeRecord, int] = {}
    passes = [[places.setdefault(node, len(places)) for node in record.nodes] for record in trace.passes]
    return _Nodes(list(places), passes, [record.declarations for record in trace.passes])


def _text_file(number: int, name: str) -> str:
    return f"trace/{number:02d}-{name}.txt"


def _manifest(contents: Contents, files: dict[str, FileEntry]) -> Manifest:
    program, layout = contents.program, contents.layout
    return Manifest(
        name=contents.name,
        burnish=__version__,
        target=contents.target,
        signature=manifests.signature_entry(program.signature),
        inputs=[each.name for each in program.signature.inputs],
        states=[manifests.state_entry(state) for state in program.states],
        weights={
            name: manifests.WeightEntry(
                layout.file, place.tensor, manifests.dtype_name(place.dtype), list(place.shape), place.offset
            )
            for name, place in layout.placements.items()
        },
        tables={
            name: manifests.TableEntry(
                each.table.rows,
                each.table.body,
                list(each.vectors),
                manifests.dtype_name(each.table.dtype),
                list(each.table.row),
            )
            for name, each in layout.tables.items()
        },
        pipeline=list(contents.pipeline),
        generation=dict(contents.generation),
        tokenizer=None
        if contents.tokenizer is None
        else manifests.TokenizerEntry(dict(contents.tokenizer.special_tokens)),
        files=files,
    )


@contextmanager
def _fresh_folder(path: Path) -> Iterator[Path]:
    """A new folder beside `path` that becomes `path` at the end; on an error, it is removed."""
    _check_replaceable(path)
    path = path.absolute()
    marked = secrets.token_hex(4)
    folder = path.with_name(f".{path.name}.{marked}.partial")
    try:
        folder.mkdir(parents=True)
        yield folder
        if path.exists():
            old = path.with_name(f".{path.name}.{marked}.replaced")
            path.rename(old)
            try:
                folder.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            folder.rename(path)
    except OSError as error:
        raise ArtifactError(
            f"could not write {path} ({error.strerror or error}); nothing of it was left behind: "
            "check the space and the permissions there"
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check_replaceable(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise ArtifactError(f"{path} exists and is not a folder: choose another name for the artifact")
    if path.is_dir() and any(path.iterdir()):
        try:
            manifests.decode((path / MANIFEST_FILE).read_bytes(), str(path / MANIFEST_FILE))
        except (ArtifactError, OSError) as error:
            raise ArtifactError(
                f"{path} exists and is not an artifact of this burnish, so it is not replaced: "
                "choose another name or remove it"
            ) from error


# ---------------------------------------------------------------- reading


class Artifact:
    """An artifact whose manifest, paths, sizes and weight header were checked. For the rest, `verify`."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.signature: Signature = manifests.signature_of(manifest.signature, manifest.inputs)
        self.states: tuple[State, ...] = tuple(manifests.state_of(entry) for entry in manifest.states)
        self._placements = self._check_weights()

    @staticmethod
    def open(path: Path | str) -> Artifact:
        """Open the artifact at `path`. Raises ArtifactError, which says what is wrong with which file."""
        path = Path(path)
        if not path.is_dir():
            found = "a file, not a folder" if path.exists() else "missing"
            raise ArtifactError(f"there is no artifact at {path}: it is {found}")
        file = path / MANIFEST_FILE
        try:
            data = file.read_bytes()
        except FileNotFoundError:
            raise ArtifactError(f"{path} is not an artifact: it has no {MANIFEST_FILE}") from None
        manifest = manifests.decode(data, str(file))
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
            there = (manifests.dtype_name(found.dtype), list(found.shape), found.offset)
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

    @cached_property
    def tables(self) -> dict[str, PositionTable]:
        """The tables of positions by name. Raises ArtifactError for a formula that is none."""
        return {name: self._table(name, entry) for name, entry in self.manifest.tables.items()}

    def _table(self, name: str, entry: manifests.TableEntry) -> PositionTable:
        if name in self._placements:
            raise ArtifactError(f"{self.path} has {name!r} both as a weight and as a table of positions")
        missing = [vector for vector in entry.vectors if vector not in self._placements]
        if missing:
            raise ArtifactError(f"the table of positions {name!r} in {self.path} reads {missing[0]!r}, which it lacks")
        vectors = tuple(self._stored[vector] for vector in entry.vectors)
        try:
            found = position_table(entry.rows, entry.body, vectors)
        except WeightError as error:
            raise ArtifactError(f"the table of positions {name!r} in {self.path} is malformed: {error}") from error
        if entry.rows < self.signature.max_length:
            raise ArtifactError(
                f"the table of positions {name!r} in {self.path} has {entry.rows} rows, and the model takes "
                f"{self.signature.max_length} tokens"
            )
        if (list(found.row), manifests.dtype_name(found.dtype)) != (entry.row, entry.dtype):
            raise ArtifactError(
                f"the table of positions {name!r} in {self.path} should have rows of {entry.dtype} {entry.row}, and "
                f"its formula gives {manifests.dtype_name(found.dtype)} {list(found.row)}"
            )
        return found

    @cached_property
    def weights(self) -> Weights:
        """The weights, memory-mapped, and the tables of positions."""
        return Weights({**self._stored, **self.tables})

    @cached_property
    def _stored(self) -> Weights:
        by_file: dict[str, dict[str, Placement]] = {}
        for name, entry in self.manifest.weights.items():
            by_file.setdefault(entry.file, {})[name] = self._placements[name]
        weights = Weights()
        for file, placements in by_file.items():
            for name, weight in map_weights(self.file(file), placements).items():
                weights.add(name, weight)
        return weights

    def program(self) -> Program:
        """The step graph over the memory-mapped weights."""
        data = self.decoded(STEP_FILE, Any)
        return program_from_data(data, self.weights, self.signature, self.states)

    def trace(self) -> Trace:
        """The record of the compilation."""
        trace = self.decoded(TRACE_FILE, Trace)
        stored = self.decoded(NODES_FILE, _Nodes)
        known = range(len(stored.nodes))
        sizes = {len(trace.passes), len(stored.passes), len(stored.declarations)}
        if len(sizes) != 1 or not all(index in known for indices in stored.passes for index in indices):
            raise ArtifactError(f"{NODES_FILE} in {self.path} does not fit {TRACE_FILE}: compile or copy it again")
        for place, record in enumerate(trace.passes):
            name = _text_file(record.number, record.name)
            try:
                text = self.file(name).read_text(encoding="utf-8")
            except UnicodeDecodeError as error:
                raise ArtifactError(f"{name} in {self.path} is not a text: {error}") from error
            nodes = tuple(stored.nodes[index] for index in stored.passes[place])
            trace.passes[place] = replace(record, text=text, nodes=nodes, declarations=stored.declarations[place])
        return trace

    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer, if there is one."""
        if self.manifest.tokenizer is None:
            return None
        template = self.file(TEMPLATE_FILE).read_text(encoding="utf-8") if self.has(TEMPLATE_FILE) else None
        text = self.file(TOKENIZER_FILE).read_text(encoding="utf-8")
        return Tokenizer(TokenizerData(text, template, self.manifest.tokenizer.special_tokens))

    def copy(self, path: Path | str) -> None:
        """Copy the artifact to the folder `path`, all of it or nothing; hard links where possible."""
        with _fresh_folder(Path(path)) as folder:
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
        except msgspec.DecodeError as error:
            raise ArtifactError(f"{name} in {self.path} is malformed: {error}") from error


def _check_file(root: Path, name: str, entry: FileEntry) -> None:
    """Raise ArtifactError unless `name` is an ordinary file of the right size inside `root`."""
    parts = PurePosixPath(name).parts
    strange = not parts or ".." in parts or "\\" in name or PurePosixPath(name).is_absolute()
    if strange or PureWindowsPath(name).drive or str(PurePosixPath(name)) != name:
        raise ArtifactError(f"the manifest of {root} names the file {name!r}, which is no plain path inside the folder")
    file = root / name
    if not file.resolve().is_relative_to(root.resolve()):
        raise ArtifactError(
            f"{name} in {root} is a link that leaves the folder: copy the artifact with its links followed"
        )
    try:
        size = file.stat().st_size
    except FileNotFoundError:
        raise ArtifactError(f"the artifact {root} lacks the file {name}: compile or copy it again") from None
    if not file.is_file():
        raise ArtifactError(f"{name} in {root} is not a file")
    if size != entry.bytes:
        raise ArtifactError(
            f"{name} in {root} has {size} bytes and should have {entry.bytes}: compile or copy the artifact again"
        )
