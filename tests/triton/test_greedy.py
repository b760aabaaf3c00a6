"""The last kernel chooses: greedy generation gets ids alone from a step, sampling with top-k a few scores."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import burnish
from burnish.codegen.plan.planner import fallbacks
from burnish.codegen.triton.interpreted import InterpretedExecutor, InterpretedLauncher
from burnish.codegen.triton.lower import plan
from burnish.frontend import read
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import lower_for_gpu, make_incremental
from burnish.runtime.executor import Wanted, narrowed
from burnish.runtime.model import CompiledModel
from burnish.runtime.states import States
from tests.triton.planned import interpreted
from tests.zoo.configs import build

PROMPTS = [[5, 7, 9], [11], [3, 1, 4, 1, 5, 9, 2, 6]]


@pytest.fixture(scope="module")
def models() -> Iterator[tuple[CompiledModel, CompiledModel]]:
    """The kernels, and the reference."""
    torch.manual_seed(2)
    model = build("llama")
    with (
        burnish.compile(model, backend="triton-interpret") as found,
        burnish.compile(model, backend="reference") as reference,
    ):
        yield found, reference


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """All that steps by the interpreter give."""
    seen: list[torch.Tensor] = []
    step = InterpretedExecutor.step

    def noted(self: InterpretedExecutor, *args: Any) -> torch.Tensor:
        seen.append(step(self, *args))
        return seen[-1]

    monkeypatch.setattr(InterpretedExecutor, "step", noted)
    return seen


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that the interpreter runs."""
    seen: list[str] = []
    launch = InterpretedLauncher.launch

    def noted(self: InterpretedLauncher, kernel: str, grid: tuple[int, int, int], arguments: Sequence[Any]) -> None:
        seen.append(kernel)
        launch(self, kernel, grid, arguments)

    monkeypatch.setattr(InterpretedLauncher, "launch", noted)
    return seen


Models = tuple[CompiledModel, CompiledModel]


def test_rows_of_unequal_length(models: Models, results: list[torch.Tensor]) -> None:
    found, reference = (model.generate(PROMPTS, max_new_tokens=6, do_sample=False) for model in models)
    assert found.tokens == reference.tokens
    assert [each.dtype for each in results] == [torch.int64] * 8  # three prompts, and five steps of all rows
    assert {tuple(each.shape) for each in results} == {(1, 1), (3, 1)}


def test_it_stops_at_stop_tokens(models: Models, results: list[torch.Tensor]) -> None:
    tokens = models[1].generate(PROMPTS, max_new_tokens=6, do_sample=False).tokens
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": [tokens[0][1], tokens[2][3]]}
    found, reference = (model.generate(PROMPTS, **options) for model in models)
    assert (found.tokens, found.finish) == (reference.tokens, reference.finish)
    assert "eos" in found.finish
    assert {each.dtype for each in results} == {torch.int64}


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "seed": 3, "top_k": 0, "top_p": 0.9},
        {"repetition_penalty": 1.5},
        {"suppress_tokens": [8, 9, 10]},
    ],
    ids=str,
)
def test_what_needs_logits_gets_them(models: Models, results: list[torch.Tensor], options: dict[str, Any]) -> None:
    found, reference = (model.generate(PROMPTS[0], max_new_tokens=5, **options).tokens for model in models)
    assert found == reference
    assert {each.dtype for each in results} == {torch.float32}


@pytest.mark.parametrize("options", [{"temperature": 1.4}, {"top_k": 7, "top_p": 0.8}, {"min_p": 0.1}], ids=str)
def test_what_draws_from_few_gets_the_top(models: Models, results: list[torch.Tensor], options: dict[str, Any]) -> None:
    found, reference = (
        model.generate(PROMPTS, max_new_tokens=5, do_sample=True, seed=4, **options).tokens for model in models
    )
    assert found == reference
    assert [each.dtype for each in results] == [torch.float32] * 3 + [torch.int32] * 4


def test_a_session_gives_any(models: Models) -> None:
    sessions = [model.session(2) for model in models]
    for wanted in ("ids", "logits", "top", "ids"):
        kind: Wanted = wanted  # type: ignore[assignment]
        mine, theirs = (session.append([[3, 4], [5, 6]], every=True, wanted=kind) for session in sessions)
        assert_near(mine, theirs)
        mine, theirs = (session.step([7, 8], wanted=kind).clone() for session in sessions)
        assert_near(mine, theirs)
        mine, theirs = (session.logits() for session in sessions)
        assert_near(mine, theirs)


def assert_near(found: torch.Tensor, expected: torch.Tensor) -> None:
    """A top by its scores and its ids."""
    if found.dtype == torch.int32:
        assert torch.equal(found[..., 1, :], expected[..., 1, :])
        found, expected = (each[..., 0, :].contiguous().view(torch.float32) for each in (found, expected))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_step_makes_only_what_is_wanted(launched: list[str]) -> None:
    """Of a vocabulary that takes several programs a row, in half precision."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_hidden_layers=1,
        vocab_size=2100,
    )
    program = read(LlamaForCausalLM(config).eval()).program
    program = run_passes(program, [*make_incremental(), *lower_for_gpu(torch.float16)], Trace())
    launches, _ = plan(program)
    assert fallbacks(launches) == {}
    executor = interpreted(program, launches)
    states = [States.allocate(program.states, 2, 16, in_place=True) for _ in range(3)]
    for position, count in ((0, 3), (3, 1)):
        inputs = (torch.randint(1, 90, (2, count)), torch.full((2,), position), torch.arange(count))
        del launched[:]
        logits = executor.step(*inputs, states[0])
        assert (logits.dtype, logits.shape) == (torch.float32, (2, count, 2100))
        assert [sum(name in key for key in launched) for name in ("_to_copy", "argmax")] == [1, 0]
        del launched[:]
        ids = executor.step(*inputs, states[1], "ids")
        assert torch.equal(ids, logits.argmax(-1))
        assert [sum(name in key for key in launched) for name in ("_to_copy", "argmax")] == [0, 1]
        top = executor.step(*inputs, states[2], "top").clone()
        assert torch.equal(top, narrowed(logits, "top"))
        assert torch.equal(executor.logits(), logits)
