"""Whole models on a GPU, from an artifact, against the model in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
)

import burnish
from burnish.runtime.executor import Step
from burnish.runtime.model import CompiledModel
from burnish.runtime.states import States
from tests.triton.test_torch_backend import Feedforward

VOCABULARY = 2000
_SIZES = {"vocab_size": VOCABULARY, "num_hidden_layers": 2, "max_position_embeddings": 256}
_GROUPS = {"hidden_size": 256, "intermediate_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2}


def smollm2() -> PreTrainedModel:
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    return LlamaForCausalLM(LlamaConfig(**_SIZES, **sizes, tie_word_embeddings=True))


def mixtral() -> PreTrainedModel:
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return MixtralForCausalLM(MixtralConfig(**_SIZES, **_GROUPS, **experts))


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=256, n_head=4, n_layer=2, n_positions=256))


def sliding() -> PreTrainedModel:
    return MistralForCausalLM(MistralConfig(**_SIZES, **_GROUPS, sliding_window=16))


# Mixtral in half precision may send a token to another expert, whose result is another.
MODELS = [
    *((make, torch.float32) for make in (smollm2, mixtral, gpt2, sliding)),
    *((make, dtype) for make in (smollm2, gpt2, sliding) for dtype in (torch.bfloat16, torch.float16)),
]
TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}  # of the largest logit
Truth = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module", params=MODELS, ids=lambda param: f"{param[0].__name__}-{param[1]}")
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[CompiledModel, Truth, float]]:
    """A model on the GPU, the same in float64, and how far they may be apart."""
    make, dtype = request.param
    torch.manual_seed(0)
    model = make().eval().to(dtype)  # both have the rounded weights
    with burnish.compile(model, target="cuda", dtype=dtype) as compiled:
        wide = model.double()

        def truth(ids: Tensor) -> Tensor:
            with torch.no_grad():
                return wide(input_ids=ids).logits

        yield compiled, truth, TOLERANCE[dtype]


def assert_near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    limit = tolerance * float(expected.abs().max())
    torch.testing.assert_close(found.cpu().double(), expected, rtol=0, atol=limit)


def ids_of(batch: int, length: int) -> Tensor:
    return torch.randint(VOCABULARY, (batch, length), generator=torch.Generator().manual_seed(length))


def test_all_at_once_and_token_by_token(pair: tuple[CompiledModel, Truth, float]) -> None:
    model, truth, tolerance = pair
    ids = ids_of(1, 40)
    expected = truth(ids)
    assert_near(model(ids), expected, tolerance)
    session = model.session()
    for place in range(40):
        assert_near(session.append(ids[:, place : place + 1])[0, 0], expected[0, place], tolerance)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 5, 18])
def test_ragged_chunks(pair: tuple[CompiledModel, Truth, float], batch: int) -> None:
    model, truth, tolerance = pair
    ids = ids_of(batch, 90)
    expected, session, start = truth(ids), model.session(batch), 0
    for count in (1, 7, 1, 1, 30, 2, 1, 1, 46):  # past the 64 tokens that there is room for at first
        found = session.append(ids[:, start : start + count], every=True)
        assert_near(found, expected[:, start : start + count], tolerance)
        start += count


def test_rows_of_unequal_length(pair: tuple[CompiledModel, Truth, float]) -> None:
    model, truth, tolerance = pair
    ids, session, lengths = ids_of(3, 50), model.session(3), [5, 1, 33]
    session.append([ids[row, :length].tolist() for row, length in enumerate(lengths)])
    for step in range(4):
        found = session.step([int(ids[row, length + step]) for row, length in enumerate(lengths)])
        for row, length in enumerate(lengths):
            expected = truth(ids[row : row + 1, : length + step + 1])
            assert_near(found[row, 0], expected[0, -1], tolerance)


def test_after_a_rewind(pair: tuple[CompiledModel, Truth, float]) -> None:
    model, truth, tolerance = pair
    ids, session = ids_of(2, 40), model.session(2)
    session.append(ids)
    session.rewind(11)
    other = torch.cat([ids[:, :11], ids.flip(1)[:, :9]], dim=1)
    for place in range(11, 20):
        found = session.append(other[:, place : place + 1])
    assert_near(found[:, 0], truth(other)[:, -1], tolerance)


def test_ids_are_those_of_the_greatest_logits(pair: tuple[CompiledModel, Truth, float]) -> None:
    model = pair[0]
    ids, sessions = ids_of(2, 12), [pair[0].session(2) for _ in range(2)]
    for piece in ids.split([9, 1, 1, 1], dim=1):
        logits = sessions[0].append(piece, every=True)
        assert torch.equal(sessions[1].append(piece, every=True, wanted="ids"), logits.argmax(-1))
    assert model.generate(ids[:1], max_new_tokens=8).tokens == model.generate(ids[:1], max_new_tokens=8).tokens


def test_other_streams_and_tensors_on_the_gpu(pair: tuple[CompiledModel, Truth, float]) -> None:
    model, truth, tolerance = pair
    executor = model.executor
    ids = ids_of(2, 30)
    expected = truth(ids)
    states = States.allocate(model.artifact.states, 2, 64, executor.memory, executor.in_place)
    start = 0
    with torch.cuda.stream(torch.cuda.Stream()):
        for count in (20, 1, 1, 1, 7):
            position = torch.full((2,), start, device="cuda")
            piece = ids[:, start : start + count].cuda()
            found = executor.step(Step(piece, position, torch.tensor([count - 1])), states).values
            start += count
            assert_near(found[:, 0], expected[:, start - 1], tolerance)


@pytest.mark.parametrize("bits", ["int8", "int4"])
def test_integers(bits: str, tmp_path: Path) -> None:
    """Against the reference, which reads the same integers."""
    torch.manual_seed(0)
    options = {"target": "cuda", "dtype": torch.float32, "quantize": bits}
    with burnish.compile(smollm2().eval(), **options) as compiled:
        compiled.save(tmp_path / "a.burnish")
        found = [compiled(ids_of(batch, 20)) for batch in (1, 3)]
    with burnish.load(tmp_path / "a.burnish", backend="reference") as reference:
        for batch, each in zip((1, 3), found, strict=True):
            assert_near(each, reference(ids_of(batch, 20)).double(), 1e-3)


def test_torch_compile() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    model = Feedforward().cuda()
    compiled = torch.compile(model, backend="burnish")
    for rows in (4, 7, 5):
        x = torch.randn(rows, 16, device="cuda")
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    x = torch.randn(4, 16, device="cuda", requires_grad=True)
    compiled(x).pow(2).sum().backward()
    found, x.grad = x.grad, None
    model(x).pow(2).sum().backward()
    torch.testing.assert_close(found, x.grad, rtol=1e-4, atol=1e-5)
