"""Layers that are alike are traced once, and those that are not are not taken for it."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig

from burnish.frontend.alike_layers import AlikeLayers
from burnish.frontend.capture import capture
from burnish.frontend.hugging_face import capture_model
from burnish.ir.interpreter import run
from burnish.ir.program import Program

ran: list[str] = []  # the layers whose forward ran; a global, which is what a trace cannot see


@pytest.fixture(autouse=True)
def _none_ran() -> None:
    ran.clear()
    torch.manual_seed(0)


class Layer(nn.Module):
    def __init__(self, index: int, **given: Any) -> None:
        super().__init__()
        self.index = index
        self.linear = nn.Linear(8, 8)
        for name, value in given.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        ran.append(type(self).__name__)
        return x + torch.tanh(self.linear(x))


class Model(nn.Module):
    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(8, 11)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def _captured(model: nn.Module) -> tuple[Program, int]:
    """The program, which gives what the model gives, and how many layers ran for the trace."""
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    program = capture(model, max_length=32)
    counted = len(ran)
    tokens = torch.randint(0, 11, (2, 9))
    with torch.no_grad():
        expected = model.eval()(tokens)
    torch.testing.assert_close(run(program, [tokens])[0], expected, rtol=1e-5, atol=1e-6)
    for name, module in model.named_modules():
        assert vars(module).keys() == before[name].keys()
    return program, counted


def _traced(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many layers ran, but for those that compare the trace with the model at a few lengths."""
    monkeypatch.setattr("burnish.frontend.capture.check_short_texts", lambda *_: None)
    return _captured(model)[1]


def test_one_of_four_layers_is_traced(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "burnish"):
        assert _traced(Model(*map(Layer, range(4))), monkeypatch) == 1
    assert "1 layers are traced, and 3 written down as copies of these" in caplog.text


def test_each_copy_has_the_weights_and_the_origin_of_its_own_layer() -> None:
    program, _ = _captured(Model(*map(Layer, range(3))))
    linears = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default][:3]
    assert [node.args[1].target for node in linears] == [f"layers.{i}.linear.weight" for i in range(3)]
    origins = [node.meta["origin"] for node in linears]
    assert [origin.module for origin in origins] == [f"layers.{i}.linear" for i in range(3)]
    assert len({(origin.file, origin.line) for origin in origins}) == 1


class Parity(Layer):
    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        return x + self.linear(x) * (1 if self.index % 2 else -2)


def test_a_layer_that_reads_what_tells_it_apart_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _traced(Model(*map(Parity, range(4))), monkeypatch) == 4


class Kind(Layer):
    kind: str

    def forward(self, x: Tensor) -> Tensor:
        ran.append(self.kind)
        return torch.tanh(self.linear(x)) if self.kind == "tanh" else torch.relu(self.linear(x))


def test_one_of_each_kind_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Model(*(Kind(i, kind=kind) for i, kind in enumerate(("tanh", "relu", "relu", "tanh", "relu"))))
    assert _traced(model, monkeypatch) == 2
    assert ran[:2] == ["tanh", "relu"]


class Asks(Layer):
    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        return self.linear(x) if getattr(self, "index", 0) < 2 else x


class ByProperty(Layer):
    @property
    def first(self) -> bool:
        return self.index == 0

    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        return self.linear(x) if self.first else x


class WithDefault(Layer):
    index = 7

    def __init__(self, index: int) -> None:
        super().__init__(index)
        if index != 1:
            del self.index  # the class's own

    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        return self.linear(x) if self.index == 7 else x


class Numbers(Layer):
    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.scale = torch.tensor(float(index))

    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        return self.linear(x) * self.scale


@pytest.mark.parametrize("kind", [Asks, ByProperty, Numbers])
def test_however_it_reads_it(kind: type[Layer], monkeypatch: pytest.MonkeyPatch) -> None:
    assert _traced(Model(*map(kind, range(3))), monkeypatch) == 3


def test_an_attribute_that_some_have_makes_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _traced(Model(*map(WithDefault, range(4))), monkeypatch) == 2


class Writes(Layer):
    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        return x.add_(self.linear(x))


class WritesAndGivesAnother(Layer):
    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        x.mul_(0.5)
        return self.linear(x)


class ReadTwice(Model):
    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            y = x * 1
            x = layer(y) + y
        return self.head(x)


@pytest.mark.parametrize("model", [Model, ReadTwice])
@pytest.mark.parametrize("kind", [Writes, WritesAndGivesAnother])
def test_a_layer_that_writes_to_its_input(
    kind: type[Layer], model: type[Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _traced(model(*map(kind, range(3))), monkeypatch) >= 3


class Passes(Layer):
    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        return x


def test_a_layer_that_gives_its_input(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _traced(Model(*map(Passes, range(3))), monkeypatch) == 3


class Shares(Layer):
    """The first layer's product is all layers'."""

    def forward(self, x: Tensor, found: dict[str, Tensor]) -> Tensor:
        ran.append("")
        if "y" not in found:
            found["y"] = self.linear(x)
        return x + found["y"]


class Sharing(Model):
    def forward(self, tokens: Tensor) -> Tensor:
        x, found = self.embedding(tokens), dict[str, Tensor]()
        for layer in self.layers:
            x = layer(x, found)
        return self.head(x)


def test_a_dict_that_layers_hand_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _traced(Sharing(*map(Shares, range(4))), monkeypatch) == 2  # the first, and one of those that find it


class Numbered(Model):
    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for number, layer in enumerate(self.layers):
            x = layer(x, number // 2, mask=tokens if number == 3 else None)
        return self.head(x)


class TakesNumber(Layer):
    def forward(self, x: Tensor, number: int, mask: Tensor | None) -> Tensor:
        ran.append("")
        return self.linear(x) * number + (0 if mask is None else mask[..., None])


def test_layers_that_are_called_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _traced(Numbered(*map(TakesNumber, range(5))), monkeypatch) == 4  # 0, 1 with a mask, 1 without, 2


class Keeps(Layer):
    def __init__(self, index: int, kept: list[Tensor]) -> None:
        super().__init__(index)
        self.kept = kept

    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        self.kept.append(x)
        return self.linear(x) + self.kept[0]


class Cleared(Model):
    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layers:
            assert isinstance(layer, Keeps)
            layer.kept.clear()
        return super().forward(tokens)


def test_a_list_that_layers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Tensor] = []
    assert _traced(Cleared(*(Keeps(i, kept) for i in range(3))), monkeypatch) == 3


def test_one_layer_run_three_times(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = Layer(0)
    assert _traced(Model(layer, Layer(1), layer, layer), monkeypatch) == 1


def test_weights_that_some_layers_share() -> None:
    layers = [Layer(i) for i in range(4)]
    layers[1].linear = layers[0].linear
    layers[3].linear.weight = layers[2].linear.weight
    _captured(Model(*layers))


class Two(Layer):
    def __init__(self, index: int, tied: bool) -> None:
        super().__init__(index)
        self.other = nn.Linear(8, 8)
        if tied:
            self.other.weight = self.linear.weight

    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        return self.linear(x) + self.other(x).tanh()


@pytest.mark.parametrize("first", [False, True])
def test_weights_that_are_one_within_some_layers(first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [Two(i, (i % 2 == 0) is first) for i in range(4)]
    assert _traced(Model(*layers), monkeypatch) == 2


def test_layers_with_hooks_are_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = [Layer(i) for i in range(3)]
    layers[1].register_forward_hook(lambda module, args, output: output * 2)
    assert _traced(Model(*layers), monkeypatch) == 2  # the other two are alike


class Reads(Model):
    """What a layer computed inside is read outside of it, behind its back."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(x + behind[-1])


behind: list[Tensor] = []


class Leaves(Layer):
    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        behind.append(self.linear(x))
        return behind[-1].tanh()


def test_what_leaves_a_layer_behind_its_back(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "burnish"):
        assert _traced(Reads(*map(Leaves, range(3))), monkeypatch) == 4  # all of them, after the one
    assert "every layer is traced by itself: linear is read outside of its layer" in caplog.text


class Nested(Layer):
    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.inner = nn.Sequential(*map(Layer, range(3)))

    def forward(self, x: Tensor) -> Tensor:
        ran.append("")
        return self.inner(x)


def test_layers_in_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _traced(Model(*map(Nested, range(3))), monkeypatch) == 4  # the first one, and what is in it
    ran.clear()
    assert _traced(Model(Nested(0)), monkeypatch) == 2


def test_a_module_is_left_as_it_was() -> None:
    model = Model(*map(Kind, range(2)))
    for layer in model.layers:
        layer.kind = "tanh"
    with AlikeLayers(model).tracing():
        pass
    assert "forward" not in vars(model.layers[0])
    assert "index" not in vars(Kind)
    assert model.layers[1].index == 1


def _calls(program: Program) -> list[tuple[Any, ...]]:
    """The operations in their order, each with what it reads by its place."""
    places = {node: place for place, node in enumerate(program.graph.nodes)}
    return [
        (
            node.op,
            str(node.target),
            fx.map_arg((node.args, node.kwargs), places.__getitem__),
            node.meta["origin"].module,
        )
        for node in program.graph.nodes
    ]


@pytest.mark.parametrize(
    ("kind", "options", "traced"),
    [(LlamaConfig, {}, 1), (Gemma2Config, {"head_dim": 16, "sliding_window": 8}, 2)],
)
def test_models_of_transformers_have_the_same_programs(
    kind: type[Any],
    options: dict[str, Any],
    traced: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = kind(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=6, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, **options,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    with caplog.at_level(logging.INFO, "burnish"):
        copied = capture_model(model, max_length=32)
    assert f"{traced} layers are traced, and {6 - traced} written down" in caplog.text
    monkeypatch.setattr("burnish.frontend.alike_layers._groups", lambda module: [])
    apart = capture_model(model, max_length=32)
    assert _calls(copied) == _calls(apart)
