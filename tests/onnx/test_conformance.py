"""The ONNX project's own tests of operators: at least 95% right, the others refused by name, none wrong."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from tests.onnx.cases import ROUNDING, Outcome, all_cases, as_array, excluded, run, to_tensor

_SAMPLE = 120  # compiling one takes an eighth of a second, and there are 1774: make onnx-conformance runs all


def counted() -> list[Any]:
    """The tests that are counted."""
    return [case for case in all_cases() if not excluded(case)]


def _check(outcomes: dict[str, Outcome], least: float = 0.95) -> None:
    wrong = {name: each.reason for name, each in outcomes.items() if each.kind == "wrong"}
    assert not wrong
    refused = [each.reason for each in outcomes.values() if each.kind == "refused"]
    told = (
        "the node",
        "opset",
        "(aten.",
        "ONNX has no tensors of",
        "node with name",
        "of operator",
        "of node",
        "the size",
    )
    assert all(any(each in reason for each in told) for reason in refused)
    right = sum(each.kind == "right" for each in outcomes.values())
    assert right >= least * len(outcomes), (right, len(outcomes), refused)


def test_the_module_itself() -> None:
    cases = counted()
    assert len(cases) > 1500
    _check({case.name: run(case, "itself") for case in cases})


@pytest.mark.parametrize("way", ["reference", "onnxruntime"])
def test_compiled(way: str) -> None:
    cases = random.Random(0).sample(counted(), _SAMPLE)
    _check({case.name: run(case, way) for case in cases}, least=0.95 if way == "reference" else 0.9)


@pytest.mark.parametrize("name", ["test_dft_inverse", "test_dft_inverse_opset19"])
def test_where_exact_numbers_differ_too(name: str) -> None:
    """What is excused as rounding is what float64 misses as well."""
    assert name in ROUNDING
    (case,) = (each for each in all_cases() if each.name == name)
    x = to_tensor(case.data_sets[0][0][0]).double()
    exact = torch.view_as_real(torch.fft.ifft(torch.complex(x[..., 0], x[..., 1]), dim=1)).numpy()
    wanted = as_array(case.data_sets[0][1][0])
    assert not np.allclose(exact, wanted, rtol=case.rtol, atol=case.atol)
    assert np.allclose(exact, wanted, rtol=1e-3, atol=1e-5)
