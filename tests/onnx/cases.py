"""The ONNX project's own tests of operators: which are counted, and how one is run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import torch

import burnish
from burnish.frontend.onnx import OnnxModule
from burnish.frontend.onnx.dtypes import DTYPES, to_torch
from burnish.frontend.onnx.read import from_proto
from burnish.ir.errors import BurnishError, CaptureError, UnsupportedError

_OTHER_DOMAINS = "another domain than ai.onnx"
_SEQUENCE = ("Sequence", "SplitToSequence", "ConcatFromSequence")
_TEXT = ("String", "RegexFullMatch")


# Tests whose expected numbers are off by more than their tolerance from the exact ones, which are computed here.
ROUNDING = {
    "test_dft_inverse": "the noise of another transform: numbers computed in float64 differ as well",
    "test_dft_inverse_opset19": "the noise of another transform: numbers computed in float64 differ as well",
    "test_attention_4d_causal_fp16_expanded": "a softmax whose steps are each rounded to float16: here its result is",
}


@dataclass(frozen=True)
class Outcome:
    """What came of a test: "right", "refused" (by burnish, with a reason), "rounding" or "wrong"."""

    kind: str
    reason: str = ""


@cache
def all_cases() -> list[Any]:
    """Every test of an operator in the installed onnx."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))


def excluded(case: Any) -> str:
    """Why a test is not counted; "" if it is."""
    model = case.model
    domains = {node.domain for node in model.graph.node} | {each.domain for each in model.opset_import}
    if domains - {"", "ai.onnx"}:
        return _OTHER_DOMAINS
    operators = {node.op_type for node in _nodes(model.graph)}
    values = [*model.graph.input, *model.graph.output]
    if any(operator.startswith(_SEQUENCE) for operator in operators):
        return "sequences"
    for value in values:
        kind = value.type.WhichOneof("value")
        if kind == "sequence_type":
            return "sequences"
        if kind == "optional_type":
            return "optional types"
        if value.type.tensor_type.elem_type == onnx.TensorProto.STRING:
            return "texts"
    if any(operator.startswith(_TEXT) for operator in operators):
        return "texts"
    if any(operator.startswith("Optional") for operator in operators):
        return "optional types"
    if "ImageDecoder" in operators:
        return "decoding of images"
    if "training" in case.name or any(
        each.op_type == "BatchNormalization" and len(each.output) > 1 for each in model.graph.node
    ):
        return "training"
    return ""


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def operator_of(case: Any) -> str:
    """The operator that a test is of, from its name where its graph writes it out."""
    nodes = case.model.graph.node
    return str(nodes[0].op_type) if len(nodes) == 1 else case.name.removeprefix("test_").split("_expanded")[0]


def as_array(data: Any) -> np.ndarray[Any, Any]:
    """The data of a test, which may be a message."""
    return np.asarray(onnx.numpy_helper.to_array(data) if isinstance(data, onnx.TensorProto) else data)


def to_tensor(array: Any) -> torch.Tensor:
    """An array of a test as what carries it."""
    array = as_array(array)
    if array.dtype in (ml_dtypes.int4, ml_dtypes.int2):
        array = array.astype(np.int8)
    elif array.dtype in (ml_dtypes.uint4, ml_dtypes.uint2):
        array = array.astype(np.uint8)
    elif array.dtype == ml_dtypes.float4_e2m1fn:
        array = array.astype(np.float32)
    kind = ir.DataType.from_numpy(array.dtype)
    return to_torch(np.array(array, order="C"), DTYPES[kind]).reshape(array.shape)


def to_array(tensor: torch.Tensor, like: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A result as an array; of the type that the test has, where another one carries it."""
    tensor = tensor.detach().contiguous()
    name = str(tensor.dtype).removeprefix("torch.")
    if name.startswith(("bfloat16", "float8")):
        bits = {1: torch.uint8, 2: torch.uint16}[tensor.dtype.itemsize]
        return tensor.view(bits).numpy().view(np.dtype(getattr(ml_dtypes, name)))
    array = tensor.numpy()
    return array.astype(like.dtype) if like.dtype.name in ("int4", "uint4", "int2", "uint2", "float4_e2m1fn") else array


def difference(case: Any, found: Sequence[torch.Tensor], wanted: Sequence[Any]) -> str:
    """Where results differ from those of a test, by its own tolerances; "" if nowhere."""
    if len(found) != len(wanted):
        return f"{len(found)} outputs, not {len(wanted)}"
    for index, (tensor, like) in enumerate(zip(found, wanted, strict=True)):
        reference = as_array(like)
        array = to_array(tensor, reference)
        if array.dtype != reference.dtype:
            return f"output {index} is {array.dtype}, not {reference.dtype}"
        if array.shape != reference.shape:
            return f"output {index} is {array.shape}, not {reference.shape}"
        rtol = case.rtol
        if reference.dtype.kind == "V" or reference.dtype == ml_dtypes.bfloat16:
            rtol = max(rtol, 2**-6) if reference.dtype == ml_dtypes.bfloat16 else rtol
            array, reference = array.astype(np.float32), reference.astype(np.float32)
        try:
            np.testing.assert_allclose(array, reference, rtol=rtol, atol=case.atol)
        except AssertionError as error:
            return f"output {index}: {' '.join(str(error).split())[:300]}"
    return ""


WAYS = ("itself", "exported", "reference", "onnxruntime")
"""The module that a file becomes; what `torch.export` makes of it; compiled, by the two backends of graphs."""


def run(case: Any, way: str) -> Outcome:
    """A test, by one of WAYS.

    A program has its shapes before it runs: where a test gives as an input what these depend on, or which axis is
    meant, the program is made with that input as a constant.
    """
    outcome = Outcome("refused", "")
    for least in (0,) if way == "itself" else (0, 1, 2):
        outcome = _run(case, way, least)
        if outcome.kind != "refused" or "data" not in outcome.reason:
            break
    if outcome.kind == "wrong" and case.name in ROUNDING:
        return Outcome("rounding", f"{ROUNDING[case.name]} ({outcome.reason})")
    return outcome


def _fixed(case: Any, data: list[torch.Tensor], least: int) -> dict[str, torch.Tensor]:
    """What is constant: nothing; small inputs but the first one; all small inputs."""
    if least == 0:
        return {}
    names = [info.name for info in case.model.graph.input]
    pairs = list(zip(names, data, strict=True))
    return {name: each for name, each in (pairs if least == 2 else pairs[1:]) if each.dim() <= 1}


def _results(module: OnnxModule, way: str, given: tuple[torch.Tensor, ...]) -> Sequence[torch.Tensor]:
    if way == "itself":
        return module(*given)  # type: ignore[no-any-return]
    if way == "exported":
        return torch.export.export(module, given).module()(*given)  # type: ignore[no-any-return]
    with burnish.compile(module, given, backend=way) as compiled:  # type: ignore[arg-type]
        named = {spec.argument: each for spec, each in zip(module.inputs, given, strict=True)}
        return list(compiled.run(named).values())


def _run(case: Any, way: str, least: int) -> Outcome:
    try:
        for inputs, outputs in case.data_sets:
            tensors = [to_tensor(each) for each in inputs]
            fixed = _fixed(case, tensors, least)
            module = OnnxModule(from_proto(case.model, Path("."), case.name), fixed)
            names = {spec.name for spec in module.inputs}
            given = tuple(
                each for info, each in zip(case.model.graph.input, tensors, strict=True) if info.name in names
            )
            with torch.no_grad():
                found = difference(case, _results(module, way, given), outputs)
            if found:
                return Outcome("wrong", found)
    except UnsupportedError as error:
        return Outcome("refused", str(error))
    except CaptureError as error:
        return Outcome("refused" if "the node" in str(error) else "wrong", str(error))
    except BurnishError as error:
        return Outcome("wrong", f"{type(error).__name__}: {error}")
    except Exception as error:
        return Outcome("wrong", f"not ours: {type(error).__name__}: {str(error)[:300]}")
    return Outcome("right")
