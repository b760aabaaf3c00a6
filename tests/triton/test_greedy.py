"""The last kernel chooses: greedy generation gets ids alone from a step, sampling with top-k a few scores."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import burnish
from burnish.codegen.plan.planner import fallbacks
from burnish.codegen.triton.fused_elementwise import MODULES
from burnish.codegen.triton.interpreted import InterpretedExecutor, InterpretedLauncher
from burnish.codegen.triton.lower import plan
from burnish.frontend import read
from burnish.ir.errors import ArtifactError
from burnish.ir.trace import Trace
from burnish.passes.lower.choose_ids import ChooseIds
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import lower_for_gpu, make_incremental
from burnish.runtime.executor import Step, StepResult, Wanted
from burnish.runtime.kernel_files import read_plan
from burnish.runtime.model import CompiledModel
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU
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
def results(monkeypatch: pytest.MonkeyPatch) -> list[StepResult]:
    """All that steps by the interpreter give."""
    seen: list[StepResult] = []
    step = InterpretedExecutor.step

    def noted(self: InterpretedExecutor, *args: Any) -> StepResult:
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


def test_rows_of_unequal_length(models: Models, results: list[StepResult]) -> None:
    found, reference = (model.generate(PROMPTS, max_new_tokens=6, do_sample=False) for model in models)
    assert found.tokens == reference.tokens
    assert [each.kind for each in results] == ["ids"] * 8  # three prompts, and five steps of all rows
    assert {tuple(each.values.shape) for each in results} == {(1, 1), (3, 1)}


def test_it_stops_at_stop_tokens(models: Models, results: list[StepResult]) -> None:
    tokens = models[1].generate(PROMPTS, max_new_tokens=6, do_sample=False).tokens
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": [tokens[0][1], tokens[2][3]]}
    found, reference = (model.generate(PROMPTS, **options) for model in models)
    assert (found.tokens, found.finish) == (reference.tokens, reference.finish)
    assert "eos" in found.finish
    assert {each.kind for each in results} == {"ids"}


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": True, "seed": 3, "top_k": 0, "top_p": 0.9},
        {"repetition_penalty": 1.5},
        {"suppress_tokens": [8, 9, 10]},
    ],
    ids=str,
)
def test_what_needs_logits_gets_them(models: Models, results: list[StepResult], options: dict[str, Any]) -> None:
    found, reference = (model.generate(PROMPTS[0], max_new_tokens=5, **options).tokens for model in models)
    assert found == reference
    assert {each.kind for each in results} == {"logits"}


@pytest.mark.parametrize("options", [{"temperature": 1.4}, {"top_k": 7, "top_p": 0.8}, {"min_p": 0.1}], ids=str)
def test_what_draws_from_few_gets_the_top(models: Models, results: list[StepResult], options: dict[str, Any]) -> None:
    found, reference = (
        model.generate(PROMPTS, max_new_tokens=5, do_sample=True, seed=4, **options).tokens for model in models
    )
    assert found == reference
    assert [each.kind for each in results] == ["logits"] * 3 + ["top"] * 4


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
    states = [States.allocate(program.states, 2, 16, ON_CPU, in_place=True) for _ in range(3)]
    for position, count in ((0, 3), (3, 1)):
        inputs = (torch.randint(1, 90, (2, count)), torch.full((2,), position), torch.arange(count))
        del launched[:]
        logits = executor.step(Step(*inputs), states[0]).values
        assert (logits.dtype, logits.shape) == (torch.float32, (2, count, 2100))
        assert [sum(name in key for key in launched) for name in ("_to_copy", "argmax")] == [1, 0]
        del launched[:]
        ids = executor.step(Step(*inputs, "ids"), states[1]).values
        assert torch.equal(ids, logits.argmax(-1))
        assert [sum(name in key for key in launched) for name in ("_to_copy", "argmax")] == [0, 1]
        top = executor.step(Step(*inputs, "top"), states[2]).values.clone()
        assert torch.equal(top, StepResult("logits", logits).narrowed("top").tensor)
        assert torch.equal(executor.logits(states[2]).tensor, logits)


def test_a_plan_without_choices_gives_logits_and_the_cpu_chooses(launched: list[str]) -> None:
    passes = [each for each in lower_for_gpu(torch.float32) if not isinstance(each, ChooseIds)]
    program = run_passes(read(build("llama")).program, [*make_incremental(), *passes], Trace())
    launches, _ = plan(program)
    assert {tuple(variant.results) for variant in launches.variants} == {("logits",)}
    executor = interpreted(program, launches)
    states = [States.allocate(program.states, 1, 16, ON_CPU, in_place=True) for _ in range(3)]
    inputs = (torch.tensor([[5, 6]]), torch.zeros(1).long(), torch.tensor([1]))
    kinds: tuple[Wanted, ...] = ("logits", "ids", "top")
    logits, *chosen = (executor.step(Step(*inputs, kind), each) for kind, each in zip(kinds, states, strict=True))
    assert [each.kind for each in chosen] == ["ids", "top"]
    for each in chosen:
        assert torch.equal(each.tensor, logits.narrowed(each.kind).tensor)
    assert not any("argmax" in key or "top_scores" in key for key in launched)


def test_an_artifact_is_interpreted_where_it_was_not_compiled(
    models: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its generated kernels are made again, from the program alone."""
    models[0].save(tmp_path / "a.burnish")
    for name in [name for name in sys.modules if name.startswith(f"{MODULES}.")]:
        monkeypatch.delitem(sys.modules, name)
    with burnish.load(tmp_path / "a.burnish") as again:
        found, right = (model.generate(PROMPTS[0], max_new_tokens=2).tokens for model in (again, models[1]))
    assert found == right


@pytest.mark.parametrize(("version", "told"), [(None, "version 1, .*compile the model"), (3, "version 3, .*newer")])
def test_a_plan_of_another_burnish_is_told(
    models: Models, tmp_path: Path, version: int | None, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = models[0].artifact
    stored = msgspec.json.decode(artifact.file("plan.json").read_bytes())
    other = stored["plan"] if version is None else {**stored, "version": version}
    file = tmp_path / "plan.json"
    file.write_bytes(msgspec.json.encode(other))
    monkeypatch.setattr(artifact, "file", lambda name: file)
    with pytest.raises(ArtifactError, match=f"has {told}"):
        read_plan(artifact)
