"""Writing an artifact: the folder that `burnish.runtime.artifact` describes and reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from burnish.ir.dtypes import name_of
from burnish.ir.program import Program
from burnish.ir.serialize import program_to_data
from burnish.ir.signature import Interface
from burnish.ir.text import size_text
from burnish.ir.trace import NodeRecord, Trace
from burnish.runtime import manifest as manifests
from burnish.runtime.artifact import (
    MODEL_FILE,
    NODES_FILE,
    STEP_FILE,
    TEMPLATE_FILE,
    TOKENIZER_FILE,
    TRACE_FILE,
)
from burnish.runtime.fresh_folder import fresh_folder
from burnish.runtime.hashing import PieceHasher
from burnish.runtime.kernel_files import PlannedCode, files_of
from burnish.runtime.manifest import MANIFEST_FILE, FileEntry, Manifest, Target
from burnish.runtime.tokenization import TokenizerData
from burnish.runtime.trace_files import StoredNodes, text_file
from burnish.runtime.weights_writer import WeightLayout, write_weights
from burnish.version import __version__


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


def write(path: Path | str, contents: Contents) -> None:
    """Write an artifact to the folder `path`, all of it or nothing.

    What is there already is replaced if it is an artifact or an empty folder, else refused. One weight is
    held in memory at a time. Raises ArtifactError where the destination is not fit, WeightError where a
    weight is not.
    """
    with fresh_folder(Path(path)) as folder:
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
        yield text_file(record.number, record.name), record.text.encode()


def _nodes_of(trace: Trace) -> StoredNodes:
    places: dict[NodeRecord, int] = {}
    passes = [[places.setdefault(node, len(places)) for node in record.nodes] for record in trace.passes]
    return StoredNodes(list(places), passes, [record.declarations for record in trace.passes])


def _manifest(contents: Contents, files: dict[str, FileEntry]) -> Manifest:
    program, layout = contents.program, contents.layout
    graph = _graph_entry(program)
    return Manifest(
        name=contents.name,
        burnish=__version__,
        target=contents.target,
        signature=None if graph is not None else manifests.signature_entry(program.signature),
        inputs=[] if graph is not None else [each.name for each in program.interface.inputs],
        states=[manifests.state_entry(state) for state in program.states],
        weights={
            name: manifests.WeightEntry(layout.file, place.tensor, place.dtype_name, list(place.shape), place.offset)
            for name, place in layout.placements.items()
        },
        tables={
            name: manifests.TableEntry(
                each.table.rows,
                each.table.body,
                list(each.vectors),
                name_of(each.table.dtype),
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
        graph=graph,
    )


def _axis(size: int | torch.SymInt, symbols: Mapping[str, str]) -> int | str:
    if isinstance(size, int):
        return size
    return manifests.ANY_SIZE if free_unbacked_symbols(size) else size_text(size, symbols)


def _graph_entry(program: Program) -> manifests.GraphEntry | None:
    if not isinstance(program.interface, Interface):
        return None
    interface, symbols = program.interface, program.details["symbols"]
    called = [(each.name, name, each) for each, name in zip(interface.inputs, interface.names, strict=True)]
    inputs = [manifests.TensorEntry(name, given, each.dtype_name, list(each.axes)) for name, given, each in called]
    outputs = []
    for name, node in program.results.items():
        val = node.meta["val"]
        axes = [_axis(size, symbols) for size in val.shape]
        outputs.append(manifests.TensorEntry(node.name, name, name_of(val.dtype), axes))
    return manifests.GraphEntry(inputs, outputs, program.details["ranges"], program.details["conditions"])
