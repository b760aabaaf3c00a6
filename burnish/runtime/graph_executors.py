"""What runs the graph of a compiled module: ONNX Runtime, or PyTorch node by node."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from burnish.ir.errors import ArtifactError, InvalidProgramError
from burnish.ir.interpreter import run_by_name
from burnish.ir.program import Program
from burnish.ir.torch_types import torch_dtype
from burnish.runtime.executor_onnx import ONNX_TYPES, create_session, place_of
from burnish.runtime.manifest import GraphEntry
from burnish.runtime.processors import processors


class OnnxGraphExecutor:
    """A session on `model.onnx`, whose inputs and outputs have the names that callers have for them."""

    def __init__(self, model: Path, graph: GraphEntry, threads: int | None = None) -> None:
        """Raises ArtifactError if ONNX Runtime refuses the model, or it is not one for this graph."""
        self._graph = graph
        self._session: Any = create_session(model, threads or processors())
        self._present = {each.name for each in self._session.get_inputs()}
        for what, entries, found in (
            ("input", graph.inputs, self._session.get_inputs()),
            ("output", graph.outputs, self._session.get_outputs()),
        ):
            declared = {each.called: each for each in entries}
            for argument in found:
                entry = declared.pop(argument.name, None)
                dtype = None if entry is None else torch_dtype(entry.dtype)
                if dtype not in ONNX_TYPES or ONNX_TYPES[dtype][1] != argument.type:
                    raise ArtifactError(f"{model} is not the model of this manifest: its {what} {argument.name}")
            if declared and what == "output":
                raise ArtifactError(f"{model} is not the model of this manifest: it lacks {', '.join(declared)}")

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `GraphExecutor.run`."""
        io = self._session.io_binding()
        for each in self._graph.inputs:
            if each.called in self._present:
                io.bind_input(each.called, "cpu", 0, *place_of(inputs[each.name]))
        for each in self._graph.outputs:
            io.bind_output(each.called, "cpu")
        try:
            self._session.run_with_iobinding(io)
        except Exception as error:  # ONNX Runtime's exceptions have no common base
            raise InvalidProgramError(f"ONNX Runtime failed: {error}") from error
        found = io.get_outputs()
        return {each.called: _tensor(value) for each, value in zip(self._graph.outputs, found, strict=True)}

    def close(self) -> None:
        """See `GraphExecutor.close`."""
        self._session = None


def _tensor(value: Any) -> Tensor:
    """An output, in memory of its own."""
    kind = value.data_type()
    dtype = next(dtype for dtype, (_, name) in ONNX_TYPES.items() if name == kind)
    if "float8" not in kind and dtype not in (torch.bfloat16, torch.uint64):
        return torch.from_numpy(value.numpy())
    shape = value.shape()  # of types that numpy lacks, or has by another name
    size = math.prod(shape) * dtype.itemsize
    if not size:
        return torch.empty(shape, dtype=dtype)
    place = (ctypes.c_uint8 * size).from_address(value.data_ptr())
    return torch.frombuffer(place, dtype=torch.uint8).clone().view(dtype).reshape(shape)


class ReferenceGraphExecutor:
    """The graph, node by node, over memory-mapped weights."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See `GraphExecutor.run`."""
        return run_by_name(self._program, inputs, self._program.interface.outputs)

    def close(self) -> None:
        """See `GraphExecutor.close`: it holds nothing."""
