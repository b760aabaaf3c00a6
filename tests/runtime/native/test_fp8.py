"""Weights in floats of 8 bits by native kernels: whole models have the numbers of the rounded weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import burnish
from burnish.ir.errors import UsageError
from burnish.passes.transforms.quantize import Quantize
from burnish.runtime.executor_native import NativeExecutor
from burnish.runtime.model import CompiledModel
from tests.tolerances import RELATIVE
from tests.zoo.configs import build

TOKENS = torch.tensor([[1, 5, 9, 33, 50, 2, 7, 7, 12, 40, 41, 3]])


def rounded(weight: torch.Tensor) -> torch.Tensor:
    """As float8_e4m3fn, so that the largest of a row is the largest that there is."""
    scale = weight.abs().amax(1, keepdim=True) / 448
    return (weight / scale).to(torch.float8_e4m3fn).float() * scale


def forms(model: CompiledModel) -> list[str]:
    (record,) = (each for each in model.trace.passes if each.name == "pack-panels")
    return sorted({entry.text.rsplit(" ", 1)[1] for entry in record.rewrites})


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_a_model_has_the_numbers_of_its_rounded_weights(kind: str) -> None:
    torch.manual_seed(0)
    eager: Any = build(kind)
    with burnish.compile(eager, backend="native", quantize="fp8", max_length=32) as model, torch.no_grad():
        assert forms(model) == ["f8"]
        assert isinstance(model.executor, NativeExecutor)
        found = model(TOKENS)
        with model.executor.computing("fast"):
            assert torch.equal(model(TOKENS), found), "what is multiplied with floats is rounded to nothing"
        before = eager(TOKENS).logits
        for parameter in eager.parameters():
            if parameter.dim() == 2:
                parameter.copy_(rounded(parameter))
        expected = eager(TOKENS).logits
    most = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=5 * RELATIVE[torch.float32] * most)
    assert float((found - before).abs().max()) > 1e-3 * most, "nothing was rounded"


def test_a_head_in_floats() -> None:
    transforms = [Quantize("fp8", head="float")]
    with burnish.compile(build("llama"), backend="native", transforms=transforms, max_length=32) as model:
        assert forms(model) == ["f32", "f8"]


@pytest.mark.parametrize("options", [{"backend": "onnxruntime"}, {"backend": "reference"}, {"target": "cuda:sm_90"}])
def test_other_backends_have_no_kernels_for_it(options: dict[str, Any]) -> None:
    for changes in ({"quantize": "fp8"}, {"transforms": [Quantize("fp8")]}):
        with pytest.raises(UsageError, match="only native kernels multiply with weights of fp8: give backend='native'"):
            burnish.compile(build("llama"), max_length=32, **options, **changes)
