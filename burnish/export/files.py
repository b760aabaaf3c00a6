"""An ONNX model as files, checked: all of them or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import onnx
import onnx_ir as ir

from burnish.ir.errors import ArtifactError, InvalidProgramError

_LARGEST_ALONE = (
    1 << 28
)  # bytes of weights in the .onnx file itself: protobuf ends at 2 GiB, and browsers like one file
_KEPT_INSIDE = 1024  # bytes of a tensor that stays in the .onnx file: shape inference looks at small ones


def write(
    model: ir.Model,
    path: Path,
    beside: Mapping[str, str],
    check: Callable[[Path], None],
    settle: Callable[[], bool],
) -> None:
    """Write `model` to `path`, large weights to PATH.data, and the texts `beside` by their names.

    Before any file is in its place, ONNX's checker has seen the model, with strict inference of shapes, and so has
    `check`; then `settle` may change the model's attributes, and says whether it did.
    Raises InvalidProgramError where the checker refuses it, ArtifactError where there cannot be written.
    """
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    data = f"{path.name}.data" if weights > _LARGEST_ALONE else None
    folder: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        file = folder / path.name
        ir.save(model, file, external_data=data, size_threshold_bytes=_KEPT_INSIDE)
        for name, text in beside.items():
            (folder / name).write_text(text, encoding="utf-8")
        _check_model(file)
        check(file)
        if settle():
            ir.save(model, file, external_data=data, size_threshold_bytes=_KEPT_INSIDE)
        for each in folder.iterdir():
            os.replace(each, path.parent / each.name)
        if data is None:  # of an export before this one
            (path.parent / f"{path.name}.data").unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(
            f"could not write {path} ({error.strerror or error}): check the space and the permissions there"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _check_model(file: Path) -> None:
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise InvalidProgramError(f"ONNX's checker refuses the exported model: {error}") from error
