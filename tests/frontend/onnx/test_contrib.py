"""Contributed operators give what ONNX Runtime gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from burnish.frontend.onnx import OnnxModule
from burnish.frontend.onnx.read import from_proto
from burnish.ir.errors import UnsupportedError
from tests.frontend.onnx.contrib_models import CASES, Case, by_runtime, model_of, normal, number


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_as_onnx_runtime(case: Case) -> None:
    given = {
        f"x{index}": each
        for index, each in enumerate(case.operands)
        if each is not None and index not in case.constants
    }
    wanted, model = by_runtime(model_of(case), given)
    module = OnnxModule(from_proto(model, Path(".")))
    tensors = [torch.from_numpy(each.copy()) for each in given.values()]
    for call in (module, torch.export.export(module, tuple(tensors)).module()):
        for found, reference in zip(call(*tensors), wanted, strict=True):
            assert found.shape == reference.shape
            if reference.dtype.kind in "ui":  # of which the nearest may be two
                distance = found.to(torch.int64).numpy() - reference.astype(np.int64)
                assert np.abs(distance).max() <= 1
                assert (distance != 0).mean() < 0.05
            else:
                np.testing.assert_allclose(found.numpy(), reference, rtol=case.tolerance, atol=case.tolerance)


def test_rows_of_unequal_lengths_are_refused() -> None:
    (case,) = (each for each in CASES if each.name == "grouped query attention with a cache and a window")
    operands = [each for each in case.operands if each is not None]
    _, model = by_runtime(
        model_of(case), {f"x{index}": each for index, each in enumerate(case.operands) if each is not None}
    )
    module = OnnxModule(from_proto(model, Path(".")))
    tensors = [torch.from_numpy(each.copy()) for each in operands]
    tensors[5] = tensors[5] - torch.tensor([0, 1], dtype=torch.int32)
    with pytest.raises(Exception, match="unequal lengths"):
        module(*tensors)


def test_a_term_of_the_softmax_is_refused() -> None:
    lengths = np.full(1, 1, np.int32)
    operands = [normal(1, 2, 32), normal(1, 2, 32), normal(1, 2, 32), None, None, lengths, number(2, np.int32)]
    case = Case("smooth", "GroupQueryAttention", operands, {"num_heads": 2, "kv_num_heads": 2, "smooth_softmax": 1})
    given = {f"x{index}": each for index, each in enumerate(operands) if each is not None}
    _, model = by_runtime(model_of(case), given)
    module = OnnxModule(from_proto(model, Path(".")))
    with pytest.raises(UnsupportedError, match=r"the node 'it' \(com.microsoft.GroupQueryAttention\): its softmax"):
        module(*(torch.from_numpy(each) for each in given.values()))


def test_packed_operands_are_those_apart() -> None:
    """Which ONNX Runtime has on GPUs alone."""
    qkv = normal(2, 5, 4, 3, 8)
    apart = [np.ascontiguousarray(qkv[:, :, :, i].reshape(2, 5, 32)) for i in range(3)]
    given = {f"x{index}": each for index, each in enumerate(apart)}
    (wanted,), model = by_runtime(model_of(Case("", "MultiHeadAttention", [*apart], {"num_heads": 4})), given)
    packed = model_of(Case("", "MultiHeadAttention", [qkv], {"num_heads": 4}))
    packed.graph.output[0].CopyFrom(model.graph.output[0])
    (found,) = OnnxModule(from_proto(packed, Path(".")))(torch.from_numpy(qkv))
    np.testing.assert_allclose(found.numpy(), wanted, rtol=2e-5, atol=2e-5)
