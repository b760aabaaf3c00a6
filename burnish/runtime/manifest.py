"""`manifest.json`: what an artifact is, as strictly typed data.

{"format_version": 3,
"sha256": "<of the exact bytes of the value of manifest>",
"manifest": {...}}
"""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from burnish.ir.conditions import UnreadCondition, holds, names, number, solved
from burnish.ir.dtypes import BYTES
from burnish.ir.errors import ArtifactError, InvalidProgramError
from burnish.ir.signature import STEP_INPUTS, Input, Interface, Signature
from burnish.ir.states import BATCH, CAPACITY, State, StateKind
from burnish.runtime.hashing import digest

FORMAT_VERSION = 3  # 1: launch plans without the result `top`; 2: rows of position tables among the weights
MANIFEST_FILE = "manifest.json"
Target = Literal["onnxruntime", "native", "reference", "triton"]
_AGAIN = "compile or copy the artifact again"
_MOST_BYTES = 64 << 20  # of the manifest: some 200 for each weight


class FileEntry(msgspec.Struct, forbid_unknown_fields=True):
    """A file of the artifact: its size, and the SHA-256 of each 64 MiB of it."""

    bytes: int
    sha256: list[str]


class WeightEntry(msgspec.Struct, forbid_unknown_fields=True):
    """Where a weight lies: a tensor of a safetensors file, `offset` bytes from the start of that file."""

    file: str
    tensor: str
    dtype: str
    shape: list[int]
    offset: int


class TableEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One `burnish.ir.position_table.PositionTable`: its formula, and the names of the weights that are its vectors."""

    rows: int
    body: str
    vectors: list[str]
    dtype: str
    row: list[int]  # the shape of one


class StateEntry(msgspec.Struct, forbid_unknown_fields=True):
    """One `burnish.ir.states.State`."""

    name: str
    kind: StateKind
    shape: list[int | str]
    dtype: str
    axis: int
    module: str


class SignatureEntry(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One `burnish.ir.program.Signature`."""

    vocabulary: int
    max_length: int
    token_limit: int
    logits_dtype: str
    choices: list[str] = []  # outputs ahead of the logits: some of ids, top
    longer_than: int = 0


ANY_SIZE = "?"
"""Of an axis of an output: its size is found as the graph runs."""


class TensorEntry(msgspec.Struct, forbid_unknown_fields=True):
    """An input or output of a graph: an axis is a number, or an expression of the sizes by name."""

    name: str  # of the node that it is
    called: str
    dtype: str
    axes: list[int | str]

    def __str__(self) -> str:
        """As "float32[batch, 3, 224, 224]"."""
        return f"{self.dtype}[{', '.join(map(str, self.axes))}]"


class GraphEntry(msgspec.Struct, forbid_unknown_fields=True):
    """What a program that is no language model's takes and gives.

    `sizes`: the least and the most that each may be, by name; `conditions`: what else has to hold of them.
    """

    inputs: list[TensorEntry]
    outputs: list[TensorEntry]
    sizes: dict[str, tuple[int, int | None]]
    conditions: list[str]


class TokenizerEntry(msgspec.Struct, forbid_unknown_fields=True):
    """What tokenizer.json does not say: the special tokens by role, for chat templates."""

    special_tokens: dict[str, str]


class Manifest(msgspec.Struct, forbid_unknown_fields=True):
    """Everything about an artifact except its weights and its graph."""

    name: str
    burnish: str  # the version that wrote it
    target: Target
    signature: SignatureEntry | None  # of a language model; None of others, which have a graph
    inputs: list[str]  # of the signature, by name: what they are is settled by that
    states: list[StateEntry]
    weights: dict[str, WeightEntry]
    tables: dict[str, TableEntry]
    pipeline: list[str]  # names of the passes, in order; trace/ has the rest
    generation: dict[str, Any]  # the model's own generation defaults
    tokenizer: TokenizerEntry | None
    files: dict[str, FileEntry]
    graph: GraphEntry | None = None

    @property
    def weight_files(self) -> set[str]:
        """The files that have weights."""
        return {entry.file for entry in self.weights.values()}

    @property
    def weight_bytes(self) -> int:
        """Bytes of these files."""
        return sum(self.files[file].bytes for file in self.weight_files)


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    format_version: int
    sha256: str
    manifest: msgspec.Raw


class _Version(msgspec.Struct):
    format_version: int


def encode(manifest: Manifest) -> bytes:
    """The contents of manifest.json."""
    body = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    return b'{"format_version": %d,\n"sha256": "%s",\n"manifest": %s}\n' % (
        FORMAT_VERSION,
        digest(body).encode(),
        body,
    )


def read(folder: Path) -> Manifest:
    """The manifest of the artifact in a folder. Raises ArtifactError if there is none, or one that is none."""
    return decode(_read(folder), str(folder / MANIFEST_FILE))


def is_artifact(folder: Path) -> bool:
    """Whether there is an artifact in a folder, of whatever version of burnish."""
    try:
        msgspec.json.decode(_read(folder), type=_Envelope)
    except (ArtifactError, msgspec.DecodeError, RecursionError):
        return False
    return True


def _read(folder: Path) -> bytes:
    try:
        size = file_size(folder, MANIFEST_FILE)
    except FileNotFoundError:
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST_FILE}") from None
    if size > _MOST_BYTES:
        raise ArtifactError(f"{MANIFEST_FILE} in {folder} has {size} bytes, and no manifest has over {_MOST_BYTES}")
    try:
        return (folder / MANIFEST_FILE).read_bytes()
    except OSError as error:
        raise ArtifactError(f"{MANIFEST_FILE} in {folder} cannot be read: {error.strerror or error}") from error


def file_size(root: Path, name: str) -> int:
    """The bytes of an ordinary file in a folder, which may be a link to another in there.

    Raises ArtifactError where it is no such file, FileNotFoundError where there is nothing.
    """
    file = root / name
    try:
        inside = file.resolve().is_relative_to(root.resolve())
        found = file.stat() if inside else None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(name) from error
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: a link to itself; ValueError: a zero byte
        raise ArtifactError(
            f"{name!r} in {root} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if found is None:
        raise ArtifactError(
            f"{name} in {root} is a link that leaves the folder: copy the artifact with its links followed"
        )
    if not stat.S_ISREG(found.st_mode):
        raise ArtifactError(f"{name} in {root} is not a file")
    return found.st_size


def decode(data: bytes, where: str) -> Manifest:
    """The manifest in `data`, read from `where`. Raises ArtifactError if it is anything else."""
    try:
        version = msgspec.json.decode(data, type=_Version).format_version
    except (msgspec.DecodeError, RecursionError) as error:
        raise ArtifactError(f"{where} is not the manifest of a burnish artifact: {error}") from error
    if version != FORMAT_VERSION:
        newer = version > FORMAT_VERSION
        raise ArtifactError(
            f"{where} has format version {version}, and this burnish reads version {FORMAT_VERSION}: "
            + ("install a newer burnish" if newer else "compile the model again")
        )
    try:
        envelope = msgspec.json.decode(data, type=_Envelope)
        if digest(bytes(envelope.manifest)) != envelope.sha256:
            raise ArtifactError(f"{where} was changed since the artifact was written: {_AGAIN}")
        return msgspec.json.decode(envelope.manifest, type=Manifest)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ArtifactError(f"{where} is malformed: {error}; {_AGAIN}") from error


# ---------------------------------------------------------------- to and from the language


def known_dtype(name: str, what: str) -> str:
    """The name of a dtype. Raises ArtifactError, naming `what` has it, if there is none."""
    if name not in BYTES:
        raise ArtifactError(f"the manifest gives {what} the dtype {name!r}, which does not exist; {_AGAIN}")
    return name


def signature_entry(signature: Signature) -> SignatureEntry:
    """A signature as the manifest has it."""
    return SignatureEntry(
        signature.vocabulary,
        signature.max_length,
        signature.token_limit,
        signature.logits_dtype_name,
        [name for name in signature.outputs if name != "logits"],
        signature.longer_than,
    )


def signature_of(entry: SignatureEntry, inputs: Sequence[str]) -> Signature:
    """Raises ArtifactError if a size is not positive, or an input or output is none of a step."""
    if min(entry.vocabulary, entry.max_length, entry.token_limit) < 1:
        raise ArtifactError(f"the manifest's signature has a size below 1: {entry}; {_AGAIN}")
    known = {each.name: each for each in STEP_INPUTS}
    if not set(inputs) <= known.keys():
        raise ArtifactError(f"the manifest's inputs are {', '.join(inputs)}; a step's are {', '.join(known)}; {_AGAIN}")
    try:
        return Signature(
            entry.vocabulary,
            entry.max_length,
            entry.token_limit,
            known_dtype(entry.logits_dtype, "the logits"),
            tuple(known[name] for name in inputs),
            (*entry.choices, "logits"),
            entry.longer_than,
        )
    except InvalidProgramError as error:
        raise ArtifactError(f"the manifest's signature is of no program: {error}; {_AGAIN}") from error


def interface_of(graph: GraphEntry) -> Interface:
    """Raises ArtifactError where a name stands twice, or a size is none."""
    for what in (graph.inputs, graph.outputs):
        called = [each.called for each in what]
        if len(set(called)) != len(called):
            raise ArtifactError(f"the manifest names an input or output twice: {', '.join(called)}; {_AGAIN}")
    examples = {name: max(least, 2) for name, (least, _) in graph.sizes.items()}
    try:
        for name in graph.sizes:
            own = [str(axis) for each in graph.inputs for axis in each.axes if axis == name]
            if not own:  # it is told by an axis that is made of it
                made = [
                    axis for each in graph.inputs for axis in each.axes if isinstance(axis, str) and names(axis, name)
                ]
                if not made:
                    raise UnreadCondition(name)
                solved(made[0], name, 2)
        for each in (*graph.inputs, *graph.outputs):
            known_dtype(each.dtype, each.called)
            for axis in each.axes:
                if axis != ANY_SIZE or each in graph.inputs:
                    number(str(axis), examples)
        for condition in graph.conditions:
            holds(condition, examples)
    except UnreadCondition as error:
        raise ArtifactError(f"the manifest has {str(error)!r} for a size, which is none; {_AGAIN}") from error
    inputs = tuple(Input(each.name, tuple(each.axes), each.dtype) for each in graph.inputs)
    return Interface(inputs, tuple(each.called for each in graph.outputs), tuple(each.called for each in graph.inputs))


def state_entry(state: State) -> StateEntry:
    """A state as the manifest has it."""
    return StateEntry(state.name, state.kind, list(state.shape), state.dtype_name, state.axis, state.module)


def state_of(entry: StateEntry) -> State:
    """Raises ArtifactError if the shape is not that of a state of its kind."""
    rank = len(entry.shape)
    expected: list[int | str] = list(entry.shape)
    good = 0 < entry.axis < rank
    if good:
        expected[0] = BATCH
        if entry.kind is StateKind.CACHE:
            expected[entry.axis] = CAPACITY
        fixed = [size for place, size in enumerate(expected) if place and size != CAPACITY]
        good = expected == entry.shape and all(isinstance(size, int) and size > 0 for size in fixed)
    if not good:
        raise ArtifactError(
            f"the state {entry.name!r} has the shape {entry.shape} and axis {entry.axis}, "
            f"which no {entry.kind.value} has; {_AGAIN}"
        )
    return State(
        entry.name,
        entry.kind,
        tuple(entry.shape),
        known_dtype(entry.dtype, f"the state {entry.name!r}"),
        entry.axis,
        entry.module,
    )
