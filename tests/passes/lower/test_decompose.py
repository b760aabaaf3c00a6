"""Operations that ONNX lacks, taken apart; and graphs that ONNX Runtime does not run, which PyTorch does."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import Tensor, nn
from torch.export import Dim

import burnish
from burnish.frontend.graphs import read_graph
from burnish.ir.errors import UnsupportedError
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.text import program_text
from burnish.ir.trace import Trace
from burnish.passes.lower.decompose import Decompose
from burnish.passes.pipeline import run_passes
from burnish.passes.raise_.clean import Clean


class Deviation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.std(x, 1)


class Attends(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, scale=0.5)


class Halves(nn.Module):
    """A size of the other one's, in what is taken apart."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(x, scale_factor=2.0, mode="linear")


def graph(module: nn.Module, *shape: int) -> tuple[Program, Tensor]:
    x = torch.randn(shape)
    source = read_graph(module.eval(), (x,), {"x": {0: Dim("rows")}})
    return run_passes(source.program, [Clean()], Trace()), x


def taken_apart(program: Program, *ops: str) -> tuple[Program, Trace]:
    trace = Trace()
    return run_passes(program, [Decompose(ops)], trace), trace


def text_of(program: Program) -> str:
    return program_text(program).partition("\n")[2]


def test_before_and_after() -> None:
    before, x = graph(Deviation(), 3, 5)
    assert text_of(before) == snapshot("""\
input %x: f32[rows, 5]
%std: f32[rows] = aten.std.dim(%x, [1])  # test_decompose.py:28
return [%std]
""")
    after, trace = taken_apart(before, "aten.std.correction", "aten.std.dim")
    assert text_of(after) == snapshot("""\
input %x: f32[rows, 5]
%std: f32[rows] = aten.std.correction(%x, [1], correction=1)  # test_decompose.py:28
return [%std]
""")
    assert [entry.text for entry in trace.passes[-1].rewrites] == snapshot(["taken apart into aten.std.correction"])
    torch.testing.assert_close(run(after, [x])[0], x.std(1))


def test_an_attention_of_three_axes_gets_a_fourth() -> None:
    before, x = graph(Attends(), 3, 5, 4)
    after, _ = taken_apart(before, "aten.scaled_dot_product_attention.default")
    targets = [str(node.target) for node in after.graph.nodes if node.op == "call_function"]
    assert targets == [
        *["aten.unsqueeze.default"] * 3,
        "aten.scaled_dot_product_attention.default",
        "aten.squeeze.dims",
    ]
    assert after.results["output"].meta["val"].shape[1:] == (5, 4)
    torch.testing.assert_close(run(after, [x])[0], Attends()(x))


def test_sizes_are_those_of_inputs() -> None:
    before, _ = graph(Halves(), 3, 2, 5)
    after, _ = taken_apart(before, "aten.upsample_linear1d.vec")
    other = torch.randn(7, 2, 5)
    torch.testing.assert_close(run(after, [other])[0], Halves()(other))
    assert not any("upsample" in str(node.target) for node in after.graph.nodes)


def test_what_is_not_named_stays() -> None:
    before, _ = graph(Deviation(), 3, 5)
    after, trace = taken_apart(before, "aten.var.dim")
    assert text_of(after) == text_of(before)
    assert not trace.passes[-1].rewrites


class Sorts(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sort(-1).values


def test_what_pytorch_has_no_parts_of_stays_and_says_why() -> None:
    before, _ = graph(Sorts(), 3, 5)
    after, trace = taken_apart(before, "aten.sort.default")
    assert text_of(after) == text_of(before)
    assert [entry.text for entry in trace.passes[-1].refusals] == snapshot(
        ["PyTorch does not take aten.sort.default apart"]
    )


class Bits(nn.Module):
    """Which ONNX has no operator for."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(torch.int32) + 1


def test_what_onnx_runtime_does_not_run_is_run_by_pytorch_and_told(caplog: pytest.LogCaptureFixture) -> None:
    x = torch.randn(3, 4)
    with caplog.at_level(logging.WARNING), burnish.compile(Bits(), (x,)) as compiled:
        assert compiled.backend == "reference"
        assert torch.equal(compiled(x), Bits()(x))
        (told,) = [check for check in compiled.trace.checks if check.by == "not run by ONNX Runtime"]
    assert "aten.view.dtype" in told.fed
    assert "runs node by node in PyTorch: view" in caplog.text
    with pytest.raises(UnsupportedError, match="has no ONNX translation"):
        burnish.compile(Bits(), (x,), backend="onnxruntime")


def _modules() -> list[Any]:
    return [nn.AdaptiveAvgPool2d(3), nn.LocalResponseNorm(2), nn.Softmin(1), nn.PixelUnshuffle(2)]


@pytest.mark.parametrize("module", _modules(), ids=str)
def test_whole_models(module: nn.Module) -> None:
    x = torch.randn(2, 4, 8, 8)
    with burnish.compile(module, (x,), dynamic_shapes=({0: Dim("batch")},), backend="onnxruntime") as compiled:
        other = torch.randn(5, 4, 8, 8)
        torch.testing.assert_close(compiled(other), module(other), rtol=1e-4, atol=1e-5)
