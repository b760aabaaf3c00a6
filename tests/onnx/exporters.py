"""Small models of every kind, as torch's two exporters write them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM


class Perceptron(nn.Module):
    """Two linears."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.gelu(self.first(x)))


class Convolutional(nn.Module):
    """A convolution, a norm, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.BatchNorm2d(8)
        self.pool, self.head = nn.MaxPool2d(2), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(torch.relu(self.norm(self.conv(x)))).mean((2, 3)))


class Recurrent(nn.Module):
    """An LSTM of two layers in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(6, 8, num_layers=2, bidirectional=True, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0])


class Encoder(nn.Module):
    """A transformer without a mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
        self.embed, self.layers = nn.Embedding(50, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(self.embed(x))


class Llama(nn.Module):
    """transformers' Llama without a cache."""

    def __init__(self) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            attn_implementation="eager",
        )
        self.model = LlamaForCausalLM(config)

    def forward(self, x: Tensor) -> Tensor:
        # Positions that are given are not looked through for texts that are packed, which the older exporter
        # has no operator for.
        places = torch.arange(x.shape[1]).unsqueeze(0)
        mask = torch.full((x.shape[1], x.shape[1]), -1e9).triu(1)[None, None]
        logits: Tensor = self.model(input_ids=x, position_ids=places, attention_mask=mask, use_cache=False).logits
        return logits


@dataclass(frozen=True)
class Example:
    """A model, inputs of two sizes, and the names of the axes that are dynamic."""

    make: Callable[[], nn.Module]
    inputs: Callable[[int, int], Tensor]  # of a batch and a length
    axes: dict[int, str]
    older: bool = True  # whether the older exporter keeps these axes


def _tokens(batch: int, length: int) -> Tensor:
    return torch.randint(0, 50, (batch, length))


EXAMPLES = {
    "perceptron": Example(Perceptron, lambda batch, length: torch.randn(batch, 8), {0: "batch"}),
    "convolutional": Example(Convolutional, lambda batch, length: torch.randn(batch, 3, 16, 16), {0: "batch"}),
    "recurrent": Example(Recurrent, lambda batch, length: torch.randn(batch, 7, 6), {0: "batch"}),
    "encoder": Example(Encoder, _tokens, {0: "batch", 1: "sequence"}, older=False),
    "llama": Example(Llama, _tokens, {0: "batch", 1: "sequence"}),
}


def write(name: str, path: Path, newer: bool) -> Tensor:
    """Writes a model by the newer or the older exporter; gives the inputs that it was traced with."""
    example = EXAMPLES[name]
    torch.manual_seed(0)
    model = example.make().eval()
    x = example.inputs(3, 7)
    with _quiet(), torch.no_grad():
        if newer:
            sizes = {axis: torch.export.Dim(size) for axis, size in example.axes.items()}
            torch.onnx.export(model, (x,), str(path), dynamo=True, dynamic_shapes=(sizes,), verbose=False)
        else:
            torch.onnx.export(
                model,
                (x,),
                str(path),
                dynamo=False,
                input_names=["x"],
                output_names=["y"],
                dynamic_axes={"x": example.axes},
                opset_version=17,
            )
    return x


@contextmanager
def _quiet() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # an operator of its own, which no exporter knows
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
        logging.disable(level)
