"""`compiled.export` of modules that are no language models, and the way back: `burnish.compile` of what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import burnish
from burnish.ir.errors import UsageError
from burnish.runtime.compiled_module import CompiledModule
from tests.export.running import checked
from tests.export.test_models import FLAVORS
from tests.zoo.configs import build


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.scale = nn.RMSNorm(8)
        self.head = nn.Linear(8, 5)

    def forward(self, pixels: Tensor, shift: Tensor) -> dict[str, Tensor]:
        x = nn.functional.silu(self.norm(self.convolution(pixels))) + shift
        return {"features": x, "scores": self.head(self.scale(x.mean((2, 3)))).softmax(-1)}


@pytest.fixture(scope="module")
def compiled() -> CompiledModule:
    torch.manual_seed(0)
    examples = {"pixels": torch.randn(2, 3, 8, 8), "shift": torch.randn(1)}
    found: CompiledModule = burnish.compile(
        Classifier().eval(), examples, dynamic_shapes={"pixels": {0: Dim("batch")}, "shift": None}
    )
    return found


@pytest.mark.parametrize("flavor", FLAVORS)
def test_plain_onnx_runtime_gives_the_same_and_so_does_what_is_compiled_again(
    compiled: CompiledModule, flavor: Any, tmp_path: Path
) -> None:
    file = compiled.export(tmp_path / "out.onnx", flavor)
    proto = checked(file)
    assert {node.domain for node in proto.graph.node} == ({""} if flavor == "standard" else {"", "com.microsoft"})
    assert "/convolution/Conv" in {node.name for node in proto.graph.node}
    given = {"pixels": np.random.default_rng(0).random((3, 3, 8, 8), np.float32), "shift": np.ones(1, np.float32)}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [each.shape for each in session.get_inputs()] == [["batch", 3, 8, 8], [1]]
    wanted = compiled(given)
    again = burnish.compile(str(file))
    for found in (dict(zip(wanted, session.run(list(wanted), given), strict=True)), again(given)):
        for name, array in wanted.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_a_language_model_compiled_again_as_a_graph(flavor: Any, tmp_path: Path) -> None:
    """With its pasts as inputs, for other sizes than those of the examples, part of the past masked."""
    model = burnish.compile(build("mistral"), max_length=64, verify=False)
    file = model.export(tmp_path / "out.onnx", flavor)
    generator = torch.Generator().manual_seed(0)

    def given(before: int, new: int, hidden: int) -> dict[str, Tensor]:
        roles = [f"past_key_values.{number}.{role}" for number in range(2) for role in ("key", "value")]
        mask = (torch.arange(before + new) >= hidden).long().repeat(2, 1)
        ids = torch.randint(0, 131, (2, new), generator=generator)
        return {"input_ids": ids, "attention_mask": mask} | {name: torch.zeros(2, 2, before, 16) for name in roles}

    again = burnish.compile(str(file), given(4, 5, 0))
    inputs = given(3, 12, 3)
    found = again(inputs)["logits"]
    torch.testing.assert_close(found, model(inputs["input_ids"]), rtol=1e-3, atol=1e-3)


def test_a_graph_without_an_onnx_model_is_refused_with_what_works(tmp_path: Path) -> None:
    compiled = burnish.compile(nn.Linear(3, 4).eval(), (torch.randn(2, 3),), backend="reference")
    with pytest.raises(UsageError, match="compile it with backend='onnxruntime'"):
        compiled.export(tmp_path / "out.onnx")


class OfFunctions(nn.Module):
    """What torch's table makes functions of, which ONNX defines by functions itself."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return nn.functional.mish(x), torch.linalg.cross(x, x.flip(-1))


def test_functions_of_torch_s_table_have_the_opset_of_the_model(tmp_path: Path) -> None:
    x = torch.randn(4, 3)
    with burnish.compile(OfFunctions(), (x,)) as compiled:
        compiled.export(tmp_path / "functions.onnx")
        with burnish.compile(tmp_path / "functions.onnx") as again:
            for found, wanted in zip(again(x).values(), compiled(x).values(), strict=True):
                torch.testing.assert_close(found, wanted)


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=2, dilation=2, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        halves: Tensor = self.convolution(x)
        return halves


def test_one_row_is_taken_of_a_file_whose_other_axes_have_limits(tmp_path: Path) -> None:
    x, shapes = (
        torch.randn(2, 3, 9, 8),
        {"x": {0: Dim("rows"), 2: Dim("height", min=8, max=64), 3: Dim("width", min=8)}},
    )
    module = Halves().eval()
    with burnish.compile(module, (x,), dynamic_shapes=shapes) as compiled:
        compiled.export(tmp_path / "halves.onnx")
    with burnish.compile(tmp_path / "halves.onnx") as again, torch.no_grad():
        for rows in (1, 3):
            x = torch.randn(rows, 3, 12, 8)
            torch.testing.assert_close(again(x), module(x), rtol=1e-4, atol=1e-5)
