"""An ONNX file before any compiling: what it holds, and the program that it is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from burnish.frontend.graphs import read_graph
from burnish.frontend.onnx.language_model import OnnxFile, open_onnx, read_decoder
from burnish.ir.program import Program
from burnish.ir.sizes import size_text
from burnish.ir.trace import Trace
from burnish.ir.weights import nbytes
from burnish.passes.pipeline import run_passes

_MOST_OPERATORS = 12  # that are listed by name


def read_program(path: Path) -> tuple[RenderableType, Trace]:
    """What the file holds, and a trace whose one row is its program. Raises as reading it does."""
    file = open_onnx(path)
    program = read_graph(file, None).program if file.decoder is None else read_decoder(file, None, None).program
    trace = Trace()
    run_passes(program, [], trace)
    return _summary(file, program), trace


def _summary(file: OnnxFile, program: Program) -> RenderableType:
    table = Table(box=box.SIMPLE, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    counts = Counter(file.module.operators())
    listed = [f"{count} {name}" for name, count in counts.most_common(_MOST_OPERATORS)]
    others = len(counts) - len(listed)
    weights = sum(map(nbytes, program.weights.values()))
    rows = {
        "model": file.path.name,
        "read as": "a language model" if file.decoder is not None else f"a graph: {file.reason}",
        "inputs": "\n".join(map(str, file.module.inputs)),
        "outputs": "\n".join(map(str, file.module.outputs)),
        "operators": ", ".join(listed) + (f", and {others} other kinds" if others else ""),
        "weights": f"{len(program.weights)}, {size_text(weights)}",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table
