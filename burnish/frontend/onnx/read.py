"""ONNX files as `onnx_ir.Model`s: checked, functions written out, external data left where it is."""

from __future__ import annotations

import stat
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.external_data import set_base_dir
from onnx_ir.passes.common import InlinePass

from burnish.frontend.onnx.checks import check_model
from burnish.ir.errors import InvalidModelError, UnsupportedError

_MOST_BYTES = 2**31  # protobuf's own limit


def read_file(path: Path) -> ir.Model:
    """The model in an ONNX file, opset 7 and later, with all its functions written out.

    Tensors in other files are neither read nor mapped, but their places are checked. Nothing of a file is run.

    Raises:
        InvalidModelError: it is no ONNX, or hostile; the node or tensor is named.
        UnsupportedError: it is ONNX of a kind that is not read.
        WeightError: a tensor has not the bytes that its shape and type say.
    """
    try:
        size = path.stat()
        if not stat.S_ISREG(size.st_mode):
            raise InvalidModelError(f"{path} is no file")
        if size.st_size >= _MOST_BYTES:
            raise InvalidModelError(
                f"{path} has {size.st_size} bytes, and protobuf ends at {_MOST_BYTES}: save it with external data"
            )
        data = path.read_bytes()
    except OSError as error:
        raise InvalidModelError(f"{path} cannot be read: {error.strerror or error}") from None
    return read_bytes(data, path.parent, str(path))


def read_bytes(data: bytes, folder: Path, name: str = "the model") -> ir.Model:
    """As `read_file`, of bytes; `folder` is where external data is."""
    try:
        proto = onnx.ModelProto.FromString(data)
    except (DecodeError, RecursionError, ValueError):
        raise InvalidModelError(f"{name} is no ONNX model: it is no protobuf of that kind, or cut off") from None
    return from_proto(proto, folder, name)


def from_proto(proto: onnx.ModelProto, folder: Path, name: str = "the model") -> ir.Model:
    """As `read_file`, of what is parsed already."""
    try:
        check_model(proto, folder)
        model = ir.from_proto(proto)
        for graph in (model.graph, *(function.graph for function in model.functions.values())):
            set_base_dir(graph, folder)
        _write_out_functions(model)
    except (InvalidModelError, UnsupportedError):
        raise
    except RecursionError:
        raise InvalidModelError(f"{name} is nested too deep") from None
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, IndexError, NotImplementedError) as error:
        # What the checks let through and the library does not take.
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise InvalidModelError(f"{name} is no sound ONNX model: {str(cause)[:300] or type(cause).__name__}") from error
    return model


def _write_out_functions(model: ir.Model) -> None:
    if not model.functions:
        return
    try:
        InlinePass()(model)
    except ValueError as error:
        raise UnsupportedError(f"a function of the file cannot be written out: {error}") from error
