"""Layers of networks that are no language models, lowered to ONNX: each as PyTorch has it, for one row and for more."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional

import burnish
from burnish.runtime.compiled_module import CompiledModule
from tests.optimized_onnx import optimized_nodes


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(*self.parts, x)


def _checked(module: nn.Module, x: Tensor, axis: int = 0) -> CompiledModule:
    """Compiled, which compares it with the module at several sizes; and compared once more here."""
    module.eval()
    compiled: CompiledModule = burnish.compile(module, (x,), dynamic_shapes={_input(module): {axis: Dim("rows")}})
    with torch.no_grad():
        wanted = module(x)
    found = compiled(x)
    tensors = [wanted] if isinstance(wanted, Tensor) else _leaves(wanted)
    for one, other in zip(found.values() if isinstance(found, dict) else [found], tensors, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    compiled.close()
    return compiled


def _leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [leaf for each in value for leaf in _leaves(each)]


def _input(module: nn.Module) -> str:
    return "x" if isinstance(module, Calls) else "input"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers(kind: Any, batch_first: bool, bidirectional: bool, bias: bool) -> None:
    layer = kind(5, 7, num_layers=2, batch_first=batch_first, bidirectional=bidirectional, bias=bias)
    _checked(layer, torch.randn((3, 6, 5) if batch_first else (6, 3, 5)), 0 if batch_first else 1)


def test_a_recurrent_layer_with_relu() -> None:
    _checked(nn.RNN(5, 7, nonlinearity="relu"), torch.randn(6, 3, 5), 1)


def test_a_recurrent_layer_with_projections_is_refused() -> None:
    with pytest.raises(burnish.ir.errors.UnsupportedError, match="projections"):  # type: ignore[attr-defined]
        burnish.compile(nn.LSTM(5, 7, proj_size=3), (torch.randn(6, 3, 5),), backend="onnxruntime")


PICTURE = (3, 4, 12, 12)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(4, 8, 3, groups=4, padding="same"),
        nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(3, 2, 1),
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d(3),
        nn.BatchNorm2d(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4),
        nn.Upsample(scale_factor=2),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.PixelShuffle(2),
        nn.PixelUnshuffle(2),
        nn.ReflectionPad2d(2),
        nn.ReplicationPad2d(2),
        nn.ZeroPad2d(1),
        nn.Hardswish(),
        nn.Hardsigmoid(),
        nn.ReLU6(),
        nn.ELU(),
        nn.PReLU(4),
        nn.LeakyReLU(0.1),
        nn.Softplus(),
        nn.Mish(),
        nn.SELU(),
        nn.LogSoftmax(1),
        nn.Flatten(),
        nn.Unfold(3),
    ],
    ids=lambda module: str(module).split("\n")[0][:60],
)  # fmt: skip
def test_layers_of_pictures(module: nn.Module) -> None:
    torch.manual_seed(0)
    _checked(module, torch.randn(PICTURE))


SOUND = (3, 4, 20)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv1d(4, 6, 5, stride=2, padding=2),
        nn.ConvTranspose1d(4, 6, 4, stride=2),
        nn.MaxPool1d(2),
        nn.AvgPool1d(2),
        nn.BatchNorm1d(4),
        nn.TransformerEncoderLayer(20, 4, 32, batch_first=True),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(20, 4, 32, batch_first=True), 2, enable_nested_tensor=False),
    ],
    ids=lambda module: str(module).split("\n")[0][:60],
)
def test_layers_of_sequences(module: nn.Module) -> None:
    torch.manual_seed(0)
    _checked(Calls(lambda part, x: part(x), module), torch.randn(SOUND))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.remainder(x, 0.7),
        lambda x: torch.remainder(x.to(torch.int64), 3),
        lambda x: torch.fmod(x, 0.7),
        lambda x: x.topk(3, dim=-1),
        lambda x: x.sort(dim=-1).values,
        lambda x: (x * 2).round().sort(dim=0, descending=True, stable=True),
        lambda x: torch.copysign(x, -x),
        lambda x: x.cumprod(1),
        lambda x: x.argmax(-1),
        lambda x: x.cumsum(1),
        lambda x: torch.einsum("bct,bdt->bcd", x, x),
        lambda x: x.unfold(2, 4, 2),
        lambda x: x.roll(1, 2),
        lambda x: x.flip(2),
        lambda x: torch.nn.functional.normalize(x, dim=1),
        lambda x: torch.logsumexp(x, 1),
        lambda x: x.std(1),
        lambda x: x.var(1, correction=0),
        lambda x: x.prod(1),
        lambda x: x.amax((1, 2)),
        lambda x: torch.where(x > 0, x, x.exp()),
        lambda x: torch.stack([x, x], 1).flatten(1, 2),
        lambda x: x.repeat(1, 2, 1),
        lambda x: x.repeat_interleave(2, 1),
        lambda x: torch.nn.functional.one_hot((x[:, 0] > 0).long(), 2),
        lambda x: x.tril(),
        lambda x: x.masked_fill(x < 0, -1.0),
        lambda x: x.clamp(-0.5, 0.5),
        lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x),
        lambda x: x.gather(2, (x[:, :, :3] > 0).long()),
        lambda x: torch.zeros_like(x).scatter(2, (x[:, :, :3] > 0).long(), x[:, :, :3]),
        lambda x: x.floor() + x.ceil() + x.round() + x.trunc() + x.sign(),
        lambda x: torch.nn.functional.interpolate(x, scale_factor=2.0, mode="linear"),
        lambda x: (x.chunk(2, 1)[0] * x.split([1, 3], 1)[0]),
        lambda x: x.softmax(1).log().neg().sqrt().erf(),
        lambda x: torch.meshgrid(x[0, 0], x[0, 1], indexing="ij")[0] + x.sum(),
    ],
)  # fmt: skip
def test_functions_of_tensors(function: Callable[[Tensor], Any]) -> None:
    torch.manual_seed(0)
    _checked(Calls(function), torch.randn(SOUND))


@pytest.mark.parametrize(
    "function",
    [
        functional.logsigmoid,
        lambda x: functional.softplus(x, beta=2.0, threshold=1.0),
        lambda x: functional.softplus(x, beta=0.5),
        lambda x: torch.logaddexp(x, -x),
        lambda x: torch.logaddexp(x, x),
        lambda x: x.clamp(min=0.0),
        lambda x: x.clamp(max=0.0),
    ],
)
def test_numbers_that_overflow_on_the_way(function: Callable[[Tensor], Tensor]) -> None:
    module = Calls(function)
    with burnish.compile(module, (torch.randn(2, 7),)) as compiled:
        assert compiled.backend == "onnxruntime"
        x = torch.tensor([[-math.inf, -500.0, -100.0, 0.0, 100.0, 500.0, math.inf], [-3.0, -2, -1, 0, 1, 2, 3]])
        torch.testing.assert_close(compiled(x), module(x))


@pytest.mark.parametrize(
    ("module", "x"),
    [
        (nn.AvgPool2d(3, 2, divisor_override=5), torch.randn(PICTURE)),
        (
            Calls(
                lambda x: functional.cross_entropy(x, torch.tensor([1, 0, 3]), ignore_index=0, label_smoothing=0.1),
            ),
            torch.randn(3, 5),
        ),
    ],
)
def test_what_torch_s_table_has_wrong_is_not_taken_from_it(module: nn.Module, x: Tensor) -> None:
    with burnish.compile(module.eval(), (x,)) as compiled, torch.no_grad():
        torch.testing.assert_close(compiled(x), module(x))


def test_what_crashes_onnx_runtime_is_not_given_to_it() -> None:
    bags = nn.EmbeddingBag(10, 4, mode="mean")
    with pytest.raises(burnish.BurnishError, match="_embedding_bag_forward_only"):
        burnish.compile(bags, (torch.randint(0, 10, (3, 5)),))


def test_convolutions_are_such_as_onnx_runtime_keeps_in_blocks() -> None:
    """A norm is folded into a convolution that has no bias, and both are blocked, as far as the pool of all pixels."""
    layers = nn.Sequential(nn.Conv2d(4, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 1))
    module = Calls(lambda layers, x: layers(x).mean((2, 3)), layers).eval()
    with burnish.compile(module, (torch.randn(PICTURE),)) as compiled:
        assert blocked_ops(compiled) == ["Conv", "Conv", "GlobalAveragePool", "ReorderOutput"]


def blocked_ops(compiled: CompiledModule) -> list[str]:
    """The operators on blocks of channels that ONNX Runtime makes of an artifact, in order."""
    return [node.op_type for node in optimized_nodes(compiled) if node.domain == "com.microsoft.nchwc"]
