"""Modules that are no language models: `compile(model, example_inputs=...)`, and what it gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import burnish
from burnish.frontend.graphs import read_graph
from burnish.ir.errors import ArtifactError, BurnishError, CaptureError, InvalidInputError, UsageError
from burnish.ir.full_text import full_text
from burnish.ir.graph_inputs import inputs_of
from burnish.ir.parse import parse_program
from burnish.runtime.compiled_module import CompiledModule

BATCH = {"pixels": {0: Dim("batch")}}


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, pixels: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        x = torch.relu(self.norm(self.convolution(pixels))) * scale
        return {"features": x, "scores": self.head(x.mean((2, 3))).softmax(-1)}


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier().eval()


@pytest.fixture(scope="module")
def compiled(classifier: Classifier) -> CompiledModule:
    found = burnish.compile(classifier, example_inputs=(torch.randn(2, 3, 8, 8),), dynamic_shapes=BATCH)
    assert isinstance(found, CompiledModule)
    return found


def _equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_it_gives_what_the_module_gives_for_any_batch(
    classifier: Classifier, compiled: CompiledModule, rows: int
) -> None:
    pixels = torch.randn(rows, 3, 8, 8)
    with torch.no_grad():
        wanted = classifier(pixels)
    _equal(compiled(pixels), wanted)
    _equal(compiled(pixels=pixels), wanted)
    _equal(compiled({"pixels": pixels}), wanted)


def test_it_says_what_it_takes_and_gives(compiled: CompiledModule) -> None:
    assert compiled.inputs == {"pixels": "float32[batch, 3, 8, 8]"}
    assert compiled.outputs == {"features": "float32[batch, 8, 8, 8]", "scores": "float32[batch, 5]"}
    assert "batch, 3, 8, 8" in repr(compiled)
    assert [check.fed for check in compiled.trace.checks] == [f"inputs of batch {size}" for size in (2, 1, 3, 4)]


def test_arrays_are_given_for_arrays(compiled: CompiledModule) -> None:
    found = compiled(np.zeros((1, 3, 8, 8), np.float32))
    assert all(isinstance(each, np.ndarray) for each in found.values())


def test_a_saved_one_runs_without_the_module(compiled: CompiledModule, tmp_path: Path) -> None:
    compiled.save(tmp_path / "classifier.burnish")
    pixels = torch.randn(3, 3, 8, 8)
    wanted = compiled(pixels)
    for backend in (None, "onnxruntime", "reference"):
        with burnish.load(tmp_path / "classifier.burnish", backend=backend) as loaded:
            _equal(loaded(pixels), wanted)
            assert loaded.trace.passes[-1].stage == "graph"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(1, 3, 8, 9),), r"pixels is \[1, 3, 8, 9\], and has to be float32\[batch, 3, 8, 8\]: axis 3 is 9"),
        ((torch.zeros(3, 8, 8),), r"pixels is \[3, 8, 8\], and has to be float32"),
        ((torch.zeros(1, 3, 8, 8, dtype=torch.float64),), r"pixels is float64, and has to be float32: .*torch.float32"),
        ((), "the input pixels is missing: it takes pixels: float32"),
        ((1, 2), r"it takes 1 inputs .*, and was given 2"),
        (({"pixel": 1},), "it has no input 'pixel': it takes pixels"),
        (("a",), "pixels is no tensor"),
        ((torch.zeros(0, 3, 8, 8),), "pixels has 0 for batch, which can be from 1 on"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(compiled: CompiledModule, given: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        compiled(*given)


@pytest.mark.parametrize("turned", [lambda x: x[:, ::-1], lambda x: np.asfortranarray(x), lambda x: x.astype(">f4")])
def test_arrays_in_any_order_are_taken(compiled: CompiledModule, turned: Any) -> None:
    pixels = turned(np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32))
    wanted = compiled(np.ascontiguousarray(pixels, np.float32))
    found = compiled(pixels)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (torch.zeros(1, 3, 8, 8, device="meta"), "meta"),
        (torch.zeros(1, 3, 8, 8).to_sparse(), "torch.sparse_coo"),
        (torch.nested.nested_tensor([torch.zeros(3, 8, 8)]), "nested"),
    ],
)
def test_tensors_without_numbers_in_memory_are_refused(compiled: CompiledModule, given: Tensor, kind: str) -> None:
    with pytest.raises(InvalidInputError, match=f"pixels is a tensor of the kind {kind}"):
        compiled(given)


class Bytes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.float()


def test_numbers_that_a_narrow_input_does_not_have_are_refused() -> None:
    with burnish.compile(Bytes(), example_inputs=(torch.zeros(2, dtype=torch.uint8),)) as compiled:
        assert compiled([0, 255]).tolist() == [0, 255]
        for wrong in ([0, 256], [-1, 0]):
            with pytest.raises(InvalidInputError, match="x has numbers that are none of uint8"):
                compiled(wrong)
        with pytest.raises(InvalidInputError, match="a dict of tensors by their names, not list"):
            compiled.run([1])


class Two(nn.Module):
    def forward(self, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
        return left @ right, left.sum(1)


def test_sizes_that_inputs_share_have_to_agree() -> None:
    rows, inner = Dim("rows"), Dim("inner", max=64)
    shapes = {"left": {0: rows, 1: inner}, "right": {0: inner}}
    with burnish.compile(
        Two(), example_inputs={"left": torch.randn(3, 4), "right": torch.randn(4, 2)}, dynamic_shapes=shapes
    ) as compiled:
        assert list(compiled.outputs) == ["output_0", "output_1"]
        left, right = torch.randn(5, 6), torch.randn(6, 2)
        torch.testing.assert_close(compiled(left, right)["output_0"], left @ right)
        with pytest.raises(InvalidInputError, match=r"right has 7 on axis 0, its inner, and left has 6"):
            compiled(left, torch.randn(7, 2))
        with pytest.raises(InvalidInputError, match=r"left has 65 for inner, which can be from 1 to 64"):
            compiled(torch.randn(1, 65), torch.randn(65, 2))


class Weighed(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + 2 * y


@pytest.mark.parametrize("shapes", [None, {"x": {0: Dim("batch")}, "y": {0: Dim("batch")}}])
def test_a_tensor_that_is_the_example_of_two_inputs_stands_for_two(shapes: Any) -> None:
    x, y = torch.randn(2, 3), torch.randn(2, 3)
    with burnish.compile(Weighed(), (x, x), dynamic_shapes=shapes) as compiled:
        torch.testing.assert_close(compiled(x, y), Weighed()(x, y))


class OneTensor(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0] // 2, 2, -1).sum(1)


def test_what_the_sizes_have_to_be_is_checked() -> None:
    even = 2 * Dim("half", min=1, max=100)
    with burnish.compile(OneTensor(), example_inputs=(torch.randn(6, 3),), dynamic_shapes={"x": {0: even}}) as compiled:
        x = torch.randn(8, 3)
        torch.testing.assert_close(compiled(x), OneTensor()(x))
        with pytest.raises(InvalidInputError, match=r"x has 7 on axis 0, which has to be 2\*x_0 for some x_0"):
            compiled(torch.randn(7, 3))


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] == 1 else x


def test_a_branch_on_one_row_is_refused() -> None:
    with pytest.raises(CaptureError, match=r"branches on a size, .* for inputs of batch 1 than the module"):
        burnish.compile(Branches(), example_inputs=(torch.randn(3, 2),), dynamic_shapes={"x": {0: Dim("batch")}})


def test_an_example_of_one_row_is_told_to_be_one() -> None:
    with pytest.raises(CaptureError, match=r"batch is 1 in example_inputs, .*: give an example of 2 or more"):
        burnish.compile(Branches(), example_inputs=(torch.randn(1, 2),), dynamic_shapes={"x": {0: Dim("batch")}})


class Halves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


def test_what_the_trace_asks_of_sizes_is_told_with_what_is_suggested() -> None:
    with pytest.raises(CaptureError, match=r"Not all values of rows .* torch.export suggests .*rows = 2\*_rows"):
        burnish.compile(Halves(), example_inputs=(torch.randn(4, 3),), dynamic_shapes={"x": {0: Dim("rows")}})


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def test_random_numbers_are_no_branch_on_a_size() -> None:
    with pytest.raises(CaptureError, match="draws random numbers"):
        burnish.compile(Random(), example_inputs=(torch.randn(3, 2),), dynamic_shapes={"x": {0: Dim("batch")}})


class Neighbours(nn.Module):
    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return torch.zeros_like(x).index_add(0, edges[1], x[edges[0]])


def test_ids_of_places_on_an_axis_are_not_tried_on_a_shorter_one() -> None:
    edges = torch.tensor([[0, 1, 2, 3, 0], [1, 1, 3, 1, 2]])
    shapes = {"x": {0: Dim("nodes")}, "edges": {1: Dim("edges")}}
    with burnish.compile(Neighbours(), (torch.randn(4, 3), edges), dynamic_shapes=shapes) as compiled:
        assert "inputs of nodes 5, edges 5" in [check.fed for check in compiled.trace.checks]
        x = torch.randn(7, 3)
        torch.testing.assert_close(compiled(x, edges + 3), Neighbours()(x, edges + 3))


class SameNames(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Any]:
        return {"a": [x + 1, x + 2], "a.0": x + 3}


def test_two_outputs_of_one_name_are_refused() -> None:
    with pytest.raises(BurnishError, match=r"two tensors that would be called a\.0"):
        burnish.compile(SameNames(), example_inputs=(torch.randn(3, 2),))


class Spectrum(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(x)


def test_complex_numbers_are_compared_whole() -> None:
    from burnish.ir.graph_inputs import difference_of

    assert difference_of(torch.tensor([1 + 2j]), torch.tensor([1 - 2j])) > 1
    x = torch.randn(3, 8)
    with burnish.compile(Spectrum(), example_inputs=(x,)) as compiled:
        torch.testing.assert_close(compiled(x), Spectrum()(x))


class OfValues(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if bool(x.sum() > 0) else x


def test_a_branch_on_values_is_refused_by_line() -> None:
    with pytest.raises(CaptureError, match="OfValues cannot be traced"):
        burnish.compile(OfValues(), example_inputs=(torch.randn(3, 2),))


def test_torchscript_is_refused() -> None:
    scripted = torch.jit.trace(Two(), (torch.randn(2, 3), torch.randn(3, 2)))
    with pytest.raises(BurnishError, match="TorchScript has no Python"):
        burnish.compile(scripted, example_inputs=(torch.randn(2, 3), torch.randn(3, 2)))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x + self.calls


def test_a_module_that_keeps_something_is_refused() -> None:
    with pytest.raises(BurnishError, match="changes calls in place"):
        burnish.compile(Counts(), example_inputs=(torch.randn(3, 2),))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 5}, "max_length= is for language models"),
        ({"quantize": "int8"}, "quantize= is for language models"),
        ({"target": "cuda:sm_90"}, "compiled for target='cpu'"),
        ({"verify": "full"}, "verify='full' is for language models"),
        ({"example_inputs": 3}, "example_inputs is a tuple of .*, not int"),
        ({"example_inputs": "pixels"}, "example_inputs is a tuple of .*, not str"),
        ({"backend": "native"}, "run by onnxruntime or reference, not by native"),
        ({"dynamic_shapes": {"pixel": {0: Dim("batch")}}}, "dynamic_shapes names 'pixel'"),
        (
            {"example_inputs": (torch.randn(2, 4, 8, 8),)},
            r"cannot be called with example_inputs \(float32\[2, 4, 8, 8\]",
        ),
    ],
)
def test_options_that_do_not_fit_are_refused(classifier: Classifier, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        burnish.compile(classifier, **{"example_inputs": (torch.randn(2, 3, 8, 8),), **options})


def test_an_exported_program_is_compiled_as_it_was_exported(classifier: Classifier) -> None:
    exported = torch.export.export(classifier, (torch.randn(2, 3, 8, 8),), dynamic_shapes=BATCH)
    with burnish.compile(exported) as compiled:
        pixels = torch.randn(4, 3, 8, 8)
        with torch.no_grad():
            _equal(compiled(pixels), classifier(pixels))


def test_its_program_is_read_back_from_its_text(classifier: Classifier) -> None:
    programs = []
    burnish.compile(
        classifier,
        example_inputs=(torch.randn(2, 3, 8, 8),),
        dynamic_shapes=BATCH,
        observer=lambda record, program: programs.append(program),
    ).close()
    for program in programs:
        text = full_text(program)
        assert 'program graph: inputs=["pixels"], outputs=["features", "scores"]' in text
        again = full_text(parse_program(text, program.weights))
        # How large a size may be is narrower behind a convolution, which asks.
        assert [line for line in again.split("\n") if not line.startswith("size ")] == [
            line for line in text.split("\n") if not line.startswith("size ")
        ]


def test_a_stored_graph_that_calls_what_checks_nothing_is_refused(compiled: CompiledModule, tmp_path: Path) -> None:
    compiled.save(tmp_path / "changed.burnish")
    step = json.loads((tmp_path / "changed.burnish" / "step.json").read_text())
    call = next(node for node in step["nodes"] if node["op"] == "call" and node["target"] == "aten.relu.default")
    call["target"], call["args"] = "aten.as_strided.default", [call["args"][0], [9999999], [1]]
    from burnish.ir.serialize import program_from_data

    artifact = compiled.artifact
    with pytest.raises(ArtifactError, match=r"calls 'aten.as_strided.default', which an artifact may not"):
        program_from_data(step, artifact.weights, artifact.interface)


def test_a_language_model_s_commands_refuse_it(compiled: CompiledModule, tmp_path: Path) -> None:
    from burnish.runtime.model import load

    compiled.save(tmp_path / "graph.burnish")
    with pytest.raises(UsageError, match="is no language model, with tokens and logits: it takes pixels and gives"):
        load(tmp_path / "graph.burnish")


class AttendsPixels(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pixels = x.flatten(2).transpose(1, 2)
        return torch.softmax(pixels @ pixels.transpose(1, 2), -1) @ pixels


def test_sizes_whose_values_on_the_way_would_be_too_large_are_not_tried() -> None:
    x = torch.randn(1, 2, 32, 32)
    source = read_graph(AttendsPixels(), (x,), {"x": {2: Dim("height")}})
    assert inputs_of(source.program, {"height": 64}, source.examples) is not None
    assert inputs_of(source.program, {"height": 400}, source.examples) is None  # scores of 12800 x 12800
