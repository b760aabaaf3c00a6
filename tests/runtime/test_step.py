"""A step's inputs by name: declared in one place, checked, and read by name by all that runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

from burnish.frontend import read
from burnish.ir.errors import ArtifactError, InvalidInputError, InvalidProgramError
from burnish.ir.full_text import full_text
from burnish.ir.interpreter import run_by_name
from burnish.ir.parse import parse_program
from burnish.ir.program import Program
from burnish.ir.serialize import program_from_data, program_to_data
from burnish.ir.signature import LOGITS_INDEX, POSITION, STEP_INPUTS, TOKENS, Input
from burnish.ir.trace import Trace
from burnish.passes.check import check
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import make_incremental
from burnish.runtime.artifact import Artifact
from burnish.runtime.executor import Step
from burnish.runtime.executor_onnx import OnnxExecutor
from burnish.runtime.executor_reference import ReferenceExecutor
from burnish.runtime.manifest import signature_entry, signature_of
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU
from tests.own_modules.causal import NanoGPT
from tests.runtime.tiny import save_tiny, tiny

NAMES = ["tokens", "position", "logits_index"]
ACTIVE = Input("active", ("batch",), "bool")


def step(**given: torch.Tensor) -> Step:
    usual = {"tokens": torch.ones(2, 5).long(), "position": torch.zeros(2).long(), "logits_index": torch.tensor([4])}
    return Step(**{**usual, **given})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def programs() -> tuple[Program, Program]:
    torch.manual_seed(0)
    model: nn.Module = NanoGPT().eval()
    captured = read(model, max_length=40).program
    return captured, run_passes(captured, make_incremental(), Trace())


def test_a_step_is_what_the_program_declares(programs: tuple[Program, Program]) -> None:
    captured, incremental = programs
    assert captured.signature.inputs == (TOKENS,)
    assert incremental.signature.inputs == STEP_INPUTS == (TOKENS, POSITION, LOGITS_INDEX)
    assert list(incremental.inputs) == [*NAMES, *(state.name for state in incremental.states)]
    assert list(step().inputs) == NAMES
    assert step().sizes() == {"batch": 2, "sequence": 5, "kept": 1}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"tokens": torch.ones(2, 5)}, r"tokens are int64, not torch.float32"),
        ({"position": torch.zeros(2).int()}, r"position are int64, not torch.int32"),
        ({"tokens": torch.ones(2).long()}, r"position \[batch\] and|not tokens \[2\], position \[2\]"),
        ({"position": torch.zeros(3).long()}, r"not tokens \[2, 5\], position \[3\]"),
        ({"logits_index": torch.ones(0).long()}, r"none of them empty, not .*logits_index \[0\]"),
    ],
    ids=["dtype", "position", "rank", "rows", "empty"],
)
def test_what_is_no_step_is_refused(given: dict[str, torch.Tensor], told: str) -> None:
    with pytest.raises(InvalidInputError, match=told):
        step(**given).sizes()


def test_the_interpreter_takes_inputs_by_name() -> None:
    program = tiny().program
    states = States.allocate(program.states, 2, 8, ON_CPU)
    given = step().inputs | states.named
    found = run_by_name(program, dict(reversed(given.items())))
    assert torch.equal(found["logits"], ReferenceExecutor(program).step(step(), states).values)
    with pytest.raises(InvalidInputError, match="takes tokens, position, logits_index, memory, and was given tokens"):
        run_by_name(program, {"tokens": step().tokens})


def test_onnx_runtime_binds_by_name_and_again_where_one_tensor_is_another(tmp_path: Path) -> None:
    artifact = Artifact.open(save_tiny(tmp_path)[0])
    executor = OnnxExecutor(artifact.file("model.onnx"), artifact.states, artifact.signature, 1)
    reference = ReferenceExecutor(artifact.program())
    first = step()
    for each in (first, first, replace(first, tokens=first.tokens + 1), replace(first, logits_index=torch.tensor([2]))):
        mine, theirs = (States.allocate(artifact.states, 2, 8, ON_CPU) for _ in range(2))
        torch.testing.assert_close(executor.step(each, mine).values, reference.step(each, theirs).values)
    states = States.allocate(artifact.states, 2, 8, ON_CPU)
    executor.step(first, states)
    known = executor._bindings[states][0]
    executor.step(Step(**first.inputs, wanted="ids"), states)
    assert executor._bindings[states][0] is known, "the same memory, whatever is wanted of it"
    executor.step(replace(first, position=first.position + 1), states)
    assert executor._bindings[states][0] is not known


def test_an_input_of_another_type_is_seen_after_the_pass_that_made_it(programs: tuple[Program, Program]) -> None:
    wrong = programs[1].copy()
    wrong.inputs["position"].meta["val"] = wrong.inputs["tokens"].meta["val"]
    with pytest.raises(InvalidProgramError, match=r"the input position is torch.int64 of 2 axes, not torch.int64\['ba"):
        check(wrong, "a pass")
    wrong.interface = replace(wrong.signature, inputs=(TOKENS, POSITION))
    with pytest.raises(InvalidProgramError, match=r"the inputs are tokens, position, logits_index, .*declared: tokens"):
        check(wrong, "a pass")


def test_a_manifest_names_inputs_that_there_are() -> None:
    program = tiny().program
    entry = signature_entry(program.signature)
    assert signature_of(entry, NAMES) == program.signature
    with pytest.raises(ArtifactError, match="inputs are tokens, weather; a step's are tokens, position, logits_index"):
        signature_of(entry, ["tokens", "weather"])
    short = signature_of(entry, ["tokens", "logits_index"])
    with pytest.raises(ArtifactError, match=r"takes tokens, position, .*, and its manifest says tokens, logits_index"):
        program_from_data(program_to_data(program), program.weights, short, program.states)


def test_the_manifest_is_as_it_was(tmp_path: Path) -> None:
    """Names alone: what the inputs of those names are is the language's to say."""
    stored: Any = msgspec.json.decode((save_tiny(tmp_path)[0] / "manifest.json").read_bytes())
    assert stored["manifest"]["inputs"] == NAMES
    assert set(stored["manifest"]["signature"]) == {"vocabulary", "max_length", "token_limit", "logits_dtype"}


def test_a_fourth_input_is_one_entry(programs: tuple[Program, Program]) -> None:
    """As text, that is a line; its axes and its type come back with it."""
    text = full_text(programs[1])
    line = next(line for line in text.splitlines() if line.startswith("input %logits_index"))
    more = parse_program(text.replace(line, f"{line}\ninput %active: bool[batch]"), programs[1].weights)
    assert more.signature.inputs == (*STEP_INPUTS, ACTIVE)
    check(more, "the text")
    states = States.allocate(more.states, 2, 8, ON_CPU)
    found = run_by_name(more, step().inputs | states.named | {"active": torch.ones(2, dtype=torch.bool)})
    assert torch.equal(found["logits"], ReferenceExecutor(programs[1]).step(step(), states).values)
