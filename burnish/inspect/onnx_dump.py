"""Programs of any stage as ONNX files, for Netron and to run elsewhere."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnx_ir as ir
from rich.console import Group, RenderableType
from rich.text import Text

from burnish.codegen.onnx import lower_to_model
from burnish.inspect.dump import replace_weights
from burnish.ir.errors import UnsupportedError, UsageError, WeightError
from burnish.ir.program import Program
from burnish.ir.trace import PassRecord
from burnish.runtime.weights_writer import WeightLayout, plan_weights


@dataclass(frozen=True)
class OnnxFile:
    """A program as a file, or why ONNX cannot express it."""

    name: str
    path: Path | None
    reason: str = ""


def write_onnx(program: Program, path: Path, with_weights: bool) -> None:
    """Write a program as the ONNX file `path`, checked by ONNX's own checker with its inference of shapes.

    Weights lie in a safetensors file beside it, which is written if `with_weights`; without it, Netron shows their
    names and shapes. UnsupportedError, with the node, for what ONNX cannot express.
    """
    try:
        layout = replace(plan_weights(program.weights, tables=False), file=path.with_suffix(".safetensors").name)
    except WeightError as error:
        raise UnsupportedError(str(error)) from error
    model = lower_to_model(program, layout)
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type == "SimplifiedLayerNormalization":  # ONNX Runtime's own word, from before ONNX had one
            node.op_type = "RMSNormalization"
    data = ir.serde.serialize_model(model).SerializeToString(deterministic=True)
    _check(data, layout)
    path.write_bytes(data)
    if with_weights:
        replace_weights(layout, path.parent)


def _check(data: bytes, layout: WeightLayout) -> None:
    """The checker wants the weights' file to be there; one without contents takes no space."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(data)
        with (file.parent / layout.file).open("wb") as weights:
            weights.truncate(layout.size)
        try:
            onnx.checker.check_model(str(file), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise UnsupportedError(f"ONNX's checker refuses it: {error}") from error


class OnnxFolder:
    """Writes the program after each pass to a folder, as `NN-PASS.onnx`. Called with each as it is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[OnnxFile] = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"cannot write ONNX files to {folder}: {error.strerror or error}") from error

    def __call__(self, record: PassRecord, program: Program) -> None:
        self.add(program, f"{record.number:02d}-{record.name}")

    def add(self, program: Program, name: str, with_weights: bool = False) -> None:
        """Write `program` as `NAME.onnx`, or note why that is not possible."""
        path = self.folder / f"{name}.onnx"
        try:
            write_onnx(program, path, with_weights)
        except UnsupportedError as error:
            self.files.append(OnnxFile(name, None, str(error)))
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
        else:
            self.files.append(OnnxFile(name, path))

    def view(self) -> RenderableType:
        """How many were written, and a line for each that could not be."""
        written = [file for file in self.files if file.path is not None]
        lines = [Text(f"{len(written)} of {len(self.files)} programs as ONNX in {self.folder}: open one in Netron")]
        lines += [
            Text.assemble((f"{file.name} cannot be expressed: ", "yellow"), file.reason)
            for file in self.files
            if file.path is None
        ]
        return Group(*lines)
