"""Anything that is a causal language model -> `Program`. Imports PyTorch when there is one to read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.frontend.folder_checks import check_code, check_folder
from burnish.frontend.own_code import ACCEPTED
from burnish.hub import name_of, snapshot
from burnish.ir.errors import InvalidModelError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from burnish.frontend.onnx.language_model import OnnxFile
    from burnish.frontend.rotary_scaling import Context
    from burnish.frontend.source import Source


def read(
    model: Any,
    *,
    max_length: int | None = None,
    tokenizer: Any = None,
    context: Context | None = None,
    trust_remote_code: bool = False,
) -> Source:
    """Read a model of any kind.

    Args:
        model: a transformers `PreTrainedModel`, a folder, org/name[@revision] of one in the local Hugging Face cache, a
            `.gguf` or `.onnx` file, an `nn.Module`, an `ExportedProgram`.
        max_length: the most tokens that the program must take; the model's own limit if None.
        tokenizer: a tokenizer of transformers, or the folder of one; a folder's or file's own if None.
        context: "short" or "long", for a model of transformers whose rotary frequencies change at a length: for texts
            of up to that, or for longer ones; if None, by `max_length`.
        trust_remote_code: run the code in a folder whose model is no class of transformers.

    Raises:
        BurnishError: InvalidModelError for what is no model, WeightError for its weights, CaptureError if it cannot be
            traced, UsageError for a length that it does not take.
    """
    if isinstance(tokenizer, str | Path):
        tokenizer = _tokenizer_data(tokenizer)  # before the model is captured, which takes long
    if isinstance(model, str | Path):
        return _read_path(Path(model), max_length, tokenizer, context, trust_remote_code)
    from torch import nn
    from torch.export import ExportedProgram

    from burnish.frontend.capture import from_exported
    from burnish.frontend.own_module import capture_own
    from burnish.frontend.source import Source

    if isinstance(model, nn.Module) and _is_pretrained(model):
        from burnish.frontend.hugging_face import read_model

        return read_model(model, max_length=max_length, tokenizer=tokenizer, context=context)
    if context is not None:
        raise UsageError(f"context={context!r} is for models of transformers: leave it out")
    if (onnx := opened_onnx(model)) is not None:
        return _read_onnx(onnx, max_length, tokenizer)
    if isinstance(model, nn.Module):
        return Source(capture_own(model, max_length), type(model).__name__, _tokenizer_data(tokenizer))
    if isinstance(model, ExportedProgram):
        return Source(from_exported(model, max_length=max_length), "exported", _tokenizer_data(tokenizer))
    raise InvalidModelError(f"{type(model).__name__} is no model that burnish reads: give {ACCEPTED}")


def _read_path(
    path: Path, max_length: int | None, tokenizer: Any, context: Context | None, trust_remote_code: bool
) -> Source:
    name = None
    if not path.exists() and (found := snapshot(str(path))) is not None:
        path, name = found, name_of(str(path))
    if path.is_dir():
        check_folder(path)
        if not trust_remote_code:
            check_code(path)
        from burnish.frontend.folder import read_folder

        return read_folder(
            path,
            max_length=max_length,
            tokenizer=tokenizer,
            context=context,
            trust_remote_code=trust_remote_code,
            name=name,
        )
    if not path.exists():
        raise InvalidModelError(f"there is no file or folder {path}: give {ACCEPTED}")
    if is_onnx(path):
        from burnish.frontend.onnx.language_model import open_onnx

        return _read_onnx(open_onnx(path), max_length, tokenizer)
    if path.suffix.lower() != ".gguf":
        raise InvalidModelError(f"{path} is a file, but neither .gguf nor .onnx: give {ACCEPTED}")
    from burnish.frontend.gguf import read_gguf

    return read_gguf(path, max_length=max_length, tokenizer=tokenizer, context=context)


def _read_onnx(file: OnnxFile, max_length: int | None, tokenizer: Any) -> Source:
    if file.decoder is None:
        raise InvalidModelError(f"{file.path} is no language model: {file.reason}")
    from burnish.frontend.onnx.language_model import read_decoder

    return read_decoder(file, max_length, _tokenizer_data(tokenizer))


def is_onnx(model: Any) -> bool:
    """Whether it is the path of an ONNX file."""
    return isinstance(model, str | Path) and Path(model).suffix.lower() == ".onnx"


def opened_onnx(model: Any) -> OnnxFile | None:
    """The ONNX file that `model` is, if one was opened."""
    module = sys.modules.get("burnish.frontend.onnx.language_model")
    return model if module is not None and isinstance(model, module.OnnxFile) else None


def is_graph(model: Any) -> bool:
    """Whether it can only be a graph that is no language model: an exported program, or ONNX file, without tokens."""
    if (onnx := opened_onnx(model)) is not None:
        return onnx.decoder is None
    export = sys.modules.get("torch.export")
    if export is None or not isinstance(model, export.ExportedProgram):
        return False
    from burnish.frontend.exported import tokens_of

    try:
        tokens_of(model, model.graph)
    except InvalidModelError:
        return True
    return False


def why_graph(model: Any) -> str:
    """Why an ONNX file is no language model; "" for what is none."""
    onnx = opened_onnx(model)
    return "" if onnx is None else f"{onnx.path.name} is compiled as a graph, as {onnx.reason}"


def _is_pretrained(module: nn.Module) -> bool:
    """Whether it is transformers' model; if transformers was never imported it is not, and need not be now."""
    transformers = sys.modules.get("transformers")
    return transformers is not None and isinstance(module, transformers.PreTrainedModel)


def _tokenizer_data(tokenizer: Any) -> Any:
    if tokenizer is None:
        return None
    from burnish.frontend.hugging_face import tokenizer_data

    return tokenizer_data(tokenizer)
