"""`export`: an artifact as an ONNX file that plain ONNX Runtime runs, or a folder for onnxruntime-genai."""

from __future__ import annotations

from pathlib import Path

from burnish.codegen.onnx.past_attention import Flavor
from burnish.export.files import write
from burnish.export.genai import check_genai, genai_files
from burnish.export.models import accuracy_level, model_of, set_accuracy_level
from burnish.export.verify import verify_graph, verify_language_model
from burnish.ir.errors import UsageError
from burnish.runtime.compiled_module import CompiledModule
from burnish.runtime.exportable import Exportable
from burnish.runtime.model import CompiledModel

FLAVORS: tuple[Flavor, ...] = ("standard", "ort")
SUFFIX = ".onnx"
_IN_A_FOLDER = "model.onnx"


def export(
    compiled: Exportable,
    path: Path | str,
    flavor: str = "standard",
    genai: bool = False,
    verify: bool = True,
) -> Path:
    """See `Exportable.export`. Gives the path of the ONNX file."""
    assert isinstance(compiled, CompiledModel | CompiledModule)
    artifact, path = compiled.artifact, Path(path)
    chosen = next((each for each in FLAVORS if each == flavor), None)
    if chosen is None:
        raise UsageError(f"there is no flavor {flavor!r}: there are {' and '.join(FLAVORS)}")
    if genai:
        check_genai(artifact)
        path = path if path.suffix == SUFFIX else path / _IN_A_FOLDER
    elif path.suffix != SUFFIX:
        raise UsageError(f"{path} should end with {SUFFIX}: it is the file to write")
    model = model_of(artifact, chosen)
    beside = genai_files(artifact, model, path.name, compiled.backend) if genai else {}

    def check(file: Path) -> None:
        if not verify:
            return
        if isinstance(compiled, CompiledModule):
            verify_graph(compiled, file)
        else:
            verify_language_model(compiled, file)

    write(model, path, beside, check, lambda: set_accuracy_level(model, accuracy_level(compiled.backend)))
    return path
