"""Modules and exported programs captured: numbers, sizes, places in the source, limits, and what is refused."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from burnish.frontend.capture import capture, from_exported
from burnish.ir.errors import BurnishError, CaptureError, InvalidModelError, UsageError
from burnish.ir.interpreter import run
from burnish.ir.program import Program, origin
from burnish.ir.weights import Cast, Stored

VOCABULARY, WIDTH, POSITIONS = 50, 8, 32
SHAPES = ((1, 1), (1, 2), (2, 9), (3, 17), (1, 31))


class Model(nn.Module):
    """Embedding, a causal running mean, head; the head shares the embedding's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY + 3, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, VOCABULARY + 3, bias=False)
        self.head.weight = self.embed.weight
        self.dropout = nn.Dropout(0.5)

    def mix(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.shape[1] + 1).view(1, -1, 1)
        return x.cumsum(1) / count

    def forward(self, ids: Tensor) -> Any:
        x = self.dropout(self.embed(ids))
        return self.head(self.norm(x + self.mix(x)))


class LearnedPositions(Model):
    def __init__(self) -> None:
        super().__init__()
        self.positions = nn.Embedding(POSITIONS, WIDTH)

    def mix(self, x: Tensor) -> Tensor:
        return x.cumsum(1) + self.positions(torch.arange(x.shape[1]))


class SlicedPositions(LearnedPositions):
    def mix(self, x: Tensor) -> Tensor:
        return x.cumsum(1) + self.positions.weight[: x.shape[1]]


@pytest.fixture(autouse=True)
def _seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def check(module: nn.Module, program: Program, longest: int = 31) -> None:
    """The program gives the module's logits, at shapes other than the traced one."""
    module.eval()
    for batch, length in SHAPES:
        ids = torch.randint(0, VOCABULARY, (batch, min(length, longest)))
        expected = module(ids)
        torch.testing.assert_close(run(program, (ids,))[0], getattr(expected, "logits", expected))


def test_a_module_gives_the_same_logits_at_every_shape() -> None:
    module = Model()
    program = capture(module, max_length=40)
    check(module, program)
    assert program.signature.max_length == 40
    assert program.signature.vocabulary == program.signature.token_limit == VOCABULARY + 3
    assert [str(size) for size in program.tokens.meta["val"].shape] == [program.batch, program.sequence]
    assert program.tokens.name == "tokens"


@pytest.mark.parametrize("max_length", [2, 3, 4])
def test_a_short_limit_is_traced(max_length: int) -> None:
    module = Model()
    check(module, capture(module, max_length=max_length), longest=max_length)


def test_weights_are_the_module_s_own_and_tied_ones_are_one() -> None:
    module = Model()
    weights = capture(module, max_length=8).weights
    embedding = next(weight for name, weight in weights.items() if name in ("embed.weight", "head.weight"))
    assert sorted(set(weights) - {"embed.weight", "head.weight"}) == ["norm.bias", "norm.weight"]
    assert len(weights) == 3
    assert isinstance(embedding, Stored)
    assert embedding.tensor.data_ptr() == module.embed.weight.data_ptr()


def test_every_op_knows_its_module_and_line() -> None:
    program = capture(Model(), max_length=8)
    found = {str(node.target): origin(node) for node in program.graph.nodes if node.op == "call_function"}
    cumsum, norm = found["aten.cumsum.default"], found["aten.layer_norm.default"]
    lines, start = inspect.getsourcelines(Model.mix)
    assert (cumsum.file, cumsum.line) == (__file__, start + len(lines) - 1)
    assert cumsum.code == "return x.cumsum(1) / count"
    assert (norm.module, norm.module_type) == ("norm", "LayerNorm")
    assert norm.file == __file__


def test_the_module_is_left_as_it_was() -> None:
    module = Model()
    module.train()
    module.norm.eval()
    capture(module, max_length=8)
    assert module.training
    assert not module.norm.training
    with pytest.raises(CaptureError):
        capture(LoopsOverTokens().train())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_with_in_float32(dtype: torch.dtype) -> None:
    module = Model().to(dtype)
    values = {name: parameter.data_ptr() for name, parameter in module.named_parameters()}
    program = capture(module, max_length=31)
    assert {type(weight) for weight in program.weights.values()} == {Cast}
    assert len(program.weights) == 3  # the tied one once
    assert program.signature.logits_dtype == torch.float32
    assert {name: parameter.data_ptr() for name, parameter in module.named_parameters()} == values
    assert module.head.weight is module.embed.weight
    check(module.float(), program)


def test_weights_that_are_given_replace_those_of_the_module() -> None:
    module = Model()
    given = Stored(torch.zeros(WIDTH))
    program = capture(module, max_length=8, weights={"norm.weight": given})
    assert program.weights["norm.weight"] is given


class Returns(nn.Module):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.model = Model()
        self.make = make

    def forward(self, ids: Tensor) -> Any:
        return self.make(self.model(ids))


FORMS = {
    "object": lambda logits: SimpleNamespace(logits=logits, loss=None),
    "dict": lambda logits: {"hidden": logits[..., :2], "logits": logits},
    "tuple": lambda logits: (logits, logits.sum()),
}


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_found_in(form: str) -> None:
    module = Returns(FORMS[form])
    program = capture(module, max_length=31)
    check(module.model, program)


# ---------------------------------------------------------------- limits


@pytest.mark.parametrize("style", [LearnedPositions, SlicedPositions])
def test_a_table_of_positions_is_the_limit(style: type[Model]) -> None:
    module = style()
    program = capture(module)
    assert program.signature.max_length == POSITIONS
    check(module, program)
    with pytest.raises(UsageError, match=rf"max_length is {POSITIONS + 1}.*at most {POSITIONS} tokens"):
        capture(style(), max_length=POSITIONS + 1)


def test_a_configuration_states_the_limit() -> None:
    module = Model()
    module.config = SimpleNamespace(max_position_embeddings=24)  # type: ignore[assignment]
    assert capture(module).signature.max_length == 24
    with pytest.raises(UsageError, match=r"max_length is 25.*at most 24"):
        capture(module, max_length=25)


def test_the_trace_may_show_a_lower_limit_than_the_stated_one() -> None:
    module = SlicedPositions()
    module.config = SimpleNamespace(max_position_embeddings=POSITIONS + 8)  # type: ignore[assignment]
    assert capture(module).signature.max_length == POSITIONS
    with pytest.raises(UsageError, match=rf"at most {POSITIONS} tokens"):
        capture(module, max_length=POSITIONS + 8)


def test_a_branch_for_the_longest_text_alone_makes_the_limit_one_less(caplog: pytest.LogCaptureFixture) -> None:
    class Whole(Model):
        def mix(self, x: Tensor) -> Tensor:
            return x.cumsum(1) if x.shape[1] == POSITIONS else x.cumsum(1) + 1

    module = Whole()
    module.config = SimpleNamespace(max_position_embeddings=POSITIONS)  # type: ignore[assignment]
    assert capture(module).signature.max_length == POSITIONS - 1
    assert f"compiled for {POSITIONS - 1} tokens" in caplog.text
    with pytest.raises(UsageError, match=f"ask for {POSITIONS - 1}"):
        capture(module, max_length=POSITIONS)


def test_a_module_without_limits_gets_one_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert capture(Model()).signature.max_length == 2048
    assert "compiled for 2048 tokens" in caplog.text


@pytest.mark.parametrize("max_length", [1, 0, -3])
def test_a_limit_without_room_is_refused(max_length: int) -> None:
    with pytest.raises(UsageError, match="at least two tokens"):
        capture(Model(), max_length=max_length)


# ---------------------------------------------------------------- exported programs


def export(module: nn.Module, **sizes: Any) -> torch.export.ExportedProgram:
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", **sizes)}
    ids = torch.zeros(3, 11, dtype=torch.int64)
    return torch.export.export(module.eval(), (ids,), strict=False, dynamic_shapes=(dims,))


def test_an_exported_program_is_read() -> None:
    module = LearnedPositions()
    program = from_exported(export(module))
    assert program.signature.max_length == POSITIONS
    check(module, program)
    assert from_exported(export(module, max=20)).signature.max_length == 20


def test_an_exported_program_of_one_size_is_refused() -> None:
    exported = torch.export.export(Model().eval(), (torch.zeros(3, 11, dtype=torch.int64),), strict=False)
    with pytest.raises(CaptureError, match="the batch size became the constant 3"):
        from_exported(exported)


# ---------------------------------------------------------------- refusals


class LoopsOverTokens(Model):
    def mix(self, x: Tensor) -> Tensor:
        return torch.stack([x[:, token] for token in range(x.shape[1])], dim=1)


class BranchesOnTokens(Model):
    def forward(self, ids: Tensor) -> Any:
        if ids[0, 0] > 3:
            return super().forward(ids)
        return super().forward(ids + 1)


class LoopsOverChunks(Model):
    def mix(self, x: Tensor) -> Tensor:
        parts = [x[:, 8 * chunk : 8 * chunk + 8].cumsum(1) for chunk in range((x.shape[1] + 7) // 8)]
        return torch.cat(parts, dim=1)


class Fails(Model):
    def mix(self, x: Tensor) -> Tensor:
        return x @ x


class KeepsACache(Model):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def mix(self, x: Tensor) -> Tensor:
        self.count += 1
        return x * self.count


@pytest.mark.parametrize(
    ("style", "message"),
    [
        (LoopsOverTokens, r"makes the number of tokens a constant\nWhere: .*test_capture\.py:\d+: `.*for .* in range"),
        (BranchesOnTokens, r"values that differ from text to text(?s:.*)if ids\[0, 0\] > 3:"),
        (LoopsOverChunks, r"constant\nWhere: .*test_capture\.py:\d+: `parts = "),
        (Fails, r"return x @ x"),
    ],
)
def test_what_cannot_be_traced_is_refused_by_line(
    style: type[nn.Module], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(CaptureError, match=message):
        capture(style(), max_length=40)
    assert capfd.readouterr() == ("", "")  # torch prints graphs and advice


class LastToken(Model):
    def forward(self, ids: Tensor) -> Any:
        return super().forward(ids)[:, -1]


class Nothing(Model):
    def forward(self, ids: Tensor) -> Any:
        return None


class TakesVectors(Model):
    def forward(self, x: Tensor) -> Any:
        return self.head(x)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (LastToken(), r"float32 of 2 axes where logits, floats of 3 axes"),
        (Nothing(), r"NoneType where logits"),
        (KeepsACache(), r"changes count in place"),
        (Returns(lambda logits: logits.argmax(-1)), r"int64 of 2 axes where logits"),
        (Model().to("meta"), r"is on the device meta: move the model to the CPU"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_no_language_model_is_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(InvalidModelError, match=message):
        capture(module, max_length=16)


def test_an_exported_program_of_vectors_is_refused() -> None:
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    exported = torch.export.export(
        TakesVectors().eval(), (torch.zeros(3, 11, WIDTH),), strict=False, dynamic_shapes=(dims,)
    )
    with pytest.raises(InvalidModelError, match=r"the input x is float32 of 3 axes: one input is expected"):
        from_exported(exported)


class KeepsAMask(Model):
    def mix(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        if not hasattr(self, "mask") or len(self.mask) < size:
            self.mask = torch.ones(size, size).tril()
        return self.mask[:size, :size] @ x


def test_a_module_keeps_nothing_of_its_trace() -> None:
    """What its forward kept of it would be no tensor that it could go on with."""
    module = KeepsAMask().train()
    with suppress(BurnishError):
        capture(module, max_length=30)
    assert not hasattr(module, "mask")
    assert module.training
    assert type(module(torch.ones(1, 4, dtype=torch.int64))) is Tensor


class KeepsAMaskOfACall(Model):
    """As somebody saves making it again for shorter texts."""

    def __init__(self) -> None:
        super().__init__()
        self.mask: Tensor | None = None

    def mix(self, x: Tensor) -> Tensor:
        size = x.shape[1]
        if self.mask is None or self.mask.shape[0] < size:
            self.mask = torch.ones(size, size).tril()
        return self.mask[:size, :size] @ x


def test_a_tensor_of_an_earlier_call_that_limits_the_length_is_told() -> None:
    module = KeepsAMaskOfACall()
    module(torch.zeros(1, 20, dtype=torch.int64))
    with pytest.raises(UsageError, match=r"at most 20 tokens: .* if it keeps mask \[20, 20\] from an earlier call"):
        capture(module, max_length=64)
