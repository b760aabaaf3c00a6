"""Layers of networks that are no language models, lowered to ONNX: each as PyTorch has it, for one row and for more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

import burnish
from burnish.runtime.compiled_module import CompiledModule


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
