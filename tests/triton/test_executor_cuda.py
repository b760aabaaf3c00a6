"""The executor for GPUs, on one that is none: what it loads, launches, captures and refuses."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from burnish.codegen.triton.lower import plan
from burnish.ir.errors import ArtifactError, InvalidInputError, UsageError
from burnish.ir.program import Program
from burnish.runtime.executor import Step, StepResult
from burnish.runtime.executor_reference import ReferenceExecutor
from burnish.runtime.plan import Plan
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU, TorchMemory
from tests.triton.fake_cuda import FakeGpu, executor_on
from tests.triton.planned import fused

FIRST = torch.zeros(1, dtype=torch.int64)


@pytest.fixture(scope="module")
def model() -> tuple[Program, Plan]:
    program = fused("llama")
    return program, plan(program)[0]


@pytest.fixture
def gpu(model: tuple[Program, Plan], monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu(model[1].kernels)
    gpu.install(monkeypatch)
    return gpu


def states_of(model: tuple[Program, Plan], batch: int = 1, capacity: int = 48, in_place: bool = True) -> States:
    return States.allocate(model[0].states, batch, capacity, ON_CPU, in_place)


def test_prompts_are_launched_and_tokens_are_a_graph(gpu: FakeGpu, model: tuple[Program, Plan]) -> None:
    executor, reference = executor_on(gpu, model), ReferenceExecutor(model[0])
    mine, theirs = states_of(model), states_of(model, in_place=False)
    assert {each.key for each in gpu.loaded} == model[1].kernels.keys()
    position, counts, launched = torch.zeros(1, dtype=torch.int64), [], []
    for count in (3, 3, 1, 1, 1):
        tokens = torch.randint(1, 90, (1, count))
        before, replays = len(gpu.launched), sum(each.replays for each in gpu.graphs)
        step = Step(tokens, position, torch.tensor([count - 1]))
        found, right = executor.step(step, mine), reference.step(step, theirs)
        torch.testing.assert_close(found.values, right.values, rtol=1e-4, atol=1e-4)
        counts.append(sum(each.replays for each in gpu.graphs) - replays)
        launched.append(len(gpu.launched) - before)
        position = position + count
    assert counts == [0, 0, 0, 1, 1]  # the first token's launches load what they need
    assert len(gpu.graphs) == 1
    assert launched[2] == launched[3] == launched[4] == len(model[1].variants[0].steps)
    ids = executor.step(Step(torch.tensor([[5]]), position, FIRST, "ids"), mine)
    assert ids.kind == "ids"
    assert ids.values.item() == reference.step(Step(torch.tensor([[5]]), position, FIRST), theirs).values.argmax()
    for number in range(3):  # by launches, then by a graph; all logits behind each
        top = executor.step(Step(torch.tensor([[6]]), position + 1 + number, FIRST, "top"), mine).values.clone()
        right = reference.step(Step(torch.tensor([[6]]), position + 1 + number, FIRST), theirs).values
        assert torch.equal(top[..., 1, :], StepResult("logits", right).narrowed("top").tensor[..., 1, :])
        torch.testing.assert_close(executor.logits(mine).tensor, right, rtol=1e-4, atol=1e-4)


def test_what_belongs_to_a_batch_goes_with_its_states(gpu: FakeGpu, model: tuple[Program, Plan]) -> None:
    executor, states = executor_on(gpu, model), states_of(model)
    for count in (2, 1):
        executor.step(Step(torch.ones(1, count, dtype=torch.int64), FIRST, FIRST, "ids"), states)
    assert (len(executor._tokens), len(executor._prompts)) == (1, 1)
    del states
    gc.collect()
    assert (len(executor._tokens), len(executor._prompts)) == (0, 0)
    executor.close()
    with pytest.raises(UsageError, match="was closed"):
        executor.step(Step(FIRST[None], FIRST, FIRST), states_of(model))


def test_a_step_that_failed_is_bound_again(gpu: FakeGpu, model: tuple[Program, Plan]) -> None:
    """Its counters may not be zero, and a graph that was half captured is none."""
    executor, states = executor_on(gpu, model), states_of(model)
    executor.step(Step(FIRST[None], FIRST, FIRST, "ids"), states)
    (before,) = executor._tokens[states].values()
    gpu.fails_after = len(gpu.launched) + 3
    with pytest.raises(RuntimeError, match="LAUNCH_FAILED"):
        executor.step(Step(FIRST[None], FIRST, FIRST, "ids"), states)
    gpu.fails_after = None
    executor.step(Step(FIRST[None], FIRST, FIRST, "ids"), states)
    (after,) = executor._tokens[states].values()
    assert after is not before


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((torch.ones(1, 2), FIRST, FIRST), "tokens are int64, not torch.float32"),
        ((torch.ones(1, 2).long(), FIRST.int(), FIRST), "position are int64, not torch.int32"),
        ((torch.ones(2).long(), FIRST, FIRST), r"not tokens \[2\], position \[1\]"),
        ((torch.ones(1, 2).long(), FIRST, FIRST[:0]), r"logits_index \[0\]"),
        ((torch.ones(2, 1).long(), FIRST.repeat(2), FIRST), "tokens for 2 rows, and states for 1"),
        ((torch.ones(1, 49).long(), FIRST, FIRST), "49 tokens are more than the 48"),
    ],
    ids=["dtype", "position", "rank", "none kept", "rows", "capacity"],
)
def test_bad_input_is_refused_before_a_launch(
    gpu: FakeGpu, model: tuple[Program, Plan], inputs: Any, message: str
) -> None:
    executor = executor_on(gpu, model)
    with pytest.raises(InvalidInputError, match=message):
        executor.step(Step(*inputs), states_of(model))
    assert gpu.launched == []


def test_states_elsewhere_are_refused(gpu: FakeGpu, model: tuple[Program, Plan]) -> None:
    executor, states = executor_on(gpu, model), states_of(model)
    states.past = tuple(each.to("meta") for each in states.past)
    with pytest.raises(InvalidInputError, match="a state is on meta, and the model is on cpu"):
        executor.step(Step(FIRST[None], FIRST, FIRST), states)


def test_an_old_driver_is_named_with_what_it_was_given(gpu: FakeGpu, model: tuple[Program, Plan]) -> None:
    gpu.refused, gpu.driver_version = "CUDA_ERROR_UNSUPPORTED_PTX_VERSION: too new", 12020
    with pytest.raises(ArtifactError, match=r"for CUDA 12\.2, .*ptxas 13\.4 built \(CUDA_ERROR_UNSUPPORTED.*install a"):
        executor_on(gpu, model)


def test_too_little_shared_memory_is_told(gpu: FakeGpu, model: tuple[Program, Plan]) -> None:
    gpu.shared = 1024
    with pytest.raises(ArtifactError, match=r"65,536 bytes of shared memory.*CUDA_ERROR_INVALID_VALUE"):
        executor_on(gpu, model)


def test_too_little_memory_says_for_what(
    gpu: FakeGpu, model: tuple[Program, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = executor_on(gpu, model)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", _out_of_memory)
        with pytest.raises(UsageError, match=r"the temporaries of a step of 1 rows of 2 tokens take 0\.\d\d GB"):
            executor.step(Step(torch.ones(1, 2).long(), FIRST, FIRST), states_of(model))
    with monkeypatch.context() as patch:
        patch.setattr(torch, "zeros", _out_of_memory)
        with pytest.raises(UsageError, match=r"the states of 3 rows of 48 tokens take"):
            States.allocate(model[0].states, 3, 48, TorchMemory(torch.device("meta")))
    gpu.free = 10
    with pytest.raises(UsageError, match=r"the weights take 0\.00 GB"):
        executor_on(gpu, model)


def _out_of_memory(*_: Any, **__: Any) -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_a_promise_that_a_plan_breaks_is_refused(gpu: FakeGpu, model: tuple[Program, Plan]) -> None:
    """Machine code that was promised multiples of 16 reads elsewhere, or stops the GPU, if it does not get them."""
    executor = executor_on(gpu, model)
    assert executor._runner is not None
    name = next(iter(executor._runner._weights))
    weight = executor._runner._weights[name]
    moved = torch.empty(weight.numel() + 1, dtype=weight.dtype)[1:].view(weight.shape)
    executor._runner._weights = {**executor._runner._weights, name: moved}
    with pytest.raises(ArtifactError, match="compiled for multiples of 16"):
        executor.step(Step(FIRST[None], FIRST, FIRST), states_of(model))
