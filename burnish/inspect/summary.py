"""What an artifact holds, on one screen; and the programs after each pass as text files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from burnish.ir.errors import UsageError
from burnish.ir.full_text import full_text_of
from burnish.ir.sizes import size_text
from burnish.ir.states import StateKind
from burnish.ir.text import dtype_name
from burnish.ir.trace import Trace
from burnish.runtime.artifact import Artifact


def summary(artifact: Artifact) -> RenderableType:
    """The manifest in a few rows: model, sizes, states, tokenizer, files."""
    manifest = artifact.manifest
    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")

    def add(name: str, value: str) -> None:
        table.add_row(name, Text(value))

    add("model", manifest.name)
    add("made by", f"burnish {manifest.burnish}, for {manifest.target}")
    weights = f"{len(manifest.weights)}, {size_text(artifact.manifest.weight_bytes)}"
    if manifest.graph is not None:
        add("inputs", "\n".join(f"{each.called}: {each}" for each in manifest.graph.inputs))
        add("outputs", "\n".join(f"{each.called}: {each}" for each in manifest.graph.outputs))
        sizes = [
            f"{name} from {least} on" if most is None else f"{name} from {least} to {most}"
            for name, (least, most) in manifest.graph.sizes.items()
        ]
        add("sizes", "\n".join([*sizes, *manifest.graph.conditions]) or "as they are above, and no others")
        add("weights", weights)
        add("files", files_line(artifact))
        return table
    signature = artifact.signature
    add("tokens", f"vocabulary of {signature.vocabulary}; at most {signature.max_length} in a conversation")
    add("weights", weights)
    add("states", "\n".join(state_lines(artifact)) or "none")
    if manifest.tokenizer is None:
        add("tokenizer", "none: it reads and writes token ids")
    else:
        template = artifact.has("tokenizer/chat_template.jinja")
        add("tokenizer", "with a chat template" if template else "without a chat template")
    if manifest.generation:
        add("generation", ", ".join(f"{key}={value}" for key, value in manifest.generation.items()))
    add("files", files_line(artifact))
    return table


def files_line(artifact: Artifact) -> str:
    """The files of an artifact and their sizes, the largest first, without those of its trace."""
    sizes = sorted(artifact.manifest.files.items(), key=lambda item: -item[1].bytes)
    return ", ".join(f"{name} {size_text(entry.bytes)}" for name, entry in sizes if not name.startswith("trace/"))


def state_lines(artifact: Artifact) -> list[str]:
    """A line for each kind of state, with how many there are, then what a token costs."""
    kinds = Counter(
        f"{state.kind.value} {dtype_name(state.dtype)}[{', '.join(str(size) for size in state.shape)}]"
        for state in artifact.states
    )
    lines = [f"{count} × {kind}" for kind, count in kinds.items()]
    token = sum(state.bytes_a_token for state in artifact.states)
    fixed = sum(
        state.dtype.itemsize * math.prod(state.concrete_shape(1, 1))
        for state in artifact.states
        if state.kind is not StateKind.CACHE
    )
    if token:
        lines.append(f"{size_text(token)} a token")
    if fixed:
        lines.append(f"{size_text(fixed)} whatever the number of tokens")
    return lines


def dump_weights(artifact: Artifact, files: Sequence[Path]) -> int:
    """Write the weights of an artifact beside full texts of its passes; how many of the texts need no others.

    It has those of the last program: what passes joined, rounded or packed is there as they left it. Raises UsageError
    if the file cannot be written.
    """
    from burnish.inspect.dump import save_weights  # imports what runs texts
    from burnish.ir.parse import declared_weights

    folder = files[0].parent
    try:
        save_weights(artifact.weights, folder)
    except OSError as error:
        raise UsageError(f"cannot write the weights to {folder}: {error.strerror or error}") from error
    has = {name: (tuple(weight.shape), weight.dtype) for name, weight in artifact.weights.items()}
    return sum(declared_weights(file.read_text(encoding="utf-8")).items() <= has.items() for file in files)


def dump_texts(trace: Trace, folder: Path, full: bool = False) -> list[Path]:
    """Write the program after each pass to `folder`, as `NN-PASS.txt`; the files.

    Layers that repeat are folded, or, with `full`, each program is there as a whole (burnish.ir.full_text).
    Raises UsageError if `folder` cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for record in trace.passes:
            files.append(folder / f"{record.number:02d}-{record.name}.txt")
            text = full_text_of(record.declarations, record.nodes) if full else record.text
            files[-1].write_bytes(text.encode())
    except OSError as error:
        raise UsageError(f"cannot write the texts to {folder}: {error.strerror or error}") from error
    return files
