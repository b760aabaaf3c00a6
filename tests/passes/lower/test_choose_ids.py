"""The ids and the top of a step's logits as results of the program, by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import burnish
from burnish.codegen.onnx import lower
from burnish.frontend import read
from burnish.ir.errors import ArtifactError, InvalidProgramError, ParseError, UsageError
from burnish.ir.full_text import full_text
from burnish.ir.fused_ops import fused_ops
from burnish.ir.interpreter import needed_only_for, run_by_name
from burnish.ir.parse import parse_program
from burnish.ir.program import Program
from burnish.ir.serialize import program_from_data, program_to_data
from burnish.ir.trace import Trace
from burnish.passes.check import check
from burnish.passes.lower.choose_ids import ChooseIds
from burnish.passes.lower.narrow_floats import NarrowFloats
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes, known_passes, make_incremental
from burnish.passes.spelling import read_pass, spelled
from burnish.passes.verify import Verifier, logits_of
from burnish.runtime.executor import TOP, Step, Wanted
from burnish.runtime.executor_reference import ReferenceExecutor
from burnish.runtime.manifest import signature_entry, signature_of
from burnish.runtime.states import States
from burnish.runtime.torch_memory import ON_CPU
from burnish.runtime.weights_writer import plan_weights
from tests.own_modules.causal import NanoGPT

NAMES = ("ids", "top", "logits")


@pytest.fixture(scope="module")
def step() -> Program:
    torch.manual_seed(0)
    return run_passes(read(NanoGPT().eval(), max_length=40).program, make_incremental(), Trace())


@pytest.fixture(scope="module")
def chosen(step: Program) -> Program:
    return run_passes(step, [ChooseIds()], Trace(), verifier=Verifier(step))


def given(program: Program, count: int = 3) -> dict[str, torch.Tensor]:
    states = program.first_states(2, 8)
    tokens = torch.arange(2 * count).view(2, count) % program.signature.token_limit
    return {"tokens": tokens, "position": torch.zeros(2).long(), "logits_index": torch.arange(count), **states}


def test_ids_and_top_are_results_ahead_of_the_logits(step: Program, chosen: Program) -> None:
    assert (step.signature.outputs, chosen.signature.outputs) == (("logits",), NAMES)
    assert list(chosen.outputs) == [*NAMES, *(state.name for state in step.states)]
    found = run_by_name(chosen, given(chosen), NAMES)
    logits = run_by_name(step, given(step))["logits"]
    assert torch.equal(found["logits"], logits)
    assert torch.equal(found["ids"], logits.argmax(-1))
    assert torch.equal(found["top"], fused_ops.top_scores(logits, min(TOP, logits.shape[-1])))


def test_what_only_other_results_need_is_not_computed(chosen: Program) -> None:
    seen: list[str] = []
    others = {chosen.results[name].name for name in ("ids", "top")}
    assert {node.name for node in needed_only_for(chosen, ["ids", "top"])} == others
    found = run_by_name(chosen, given(chosen), watch=lambda node, _: seen.append(node.name))
    assert not others & set(seen)
    assert list(found) == ["logits", *(state.name for state in chosen.states)]
    run_by_name(chosen, given(chosen), ("ids",), lambda node, _: seen.append(node.name))
    assert others & set(seen) == {chosen.results["ids"].name}


def test_they_are_chosen_before_the_logits_are_widened(chosen: Program) -> None:
    narrow = run_passes(chosen, [NarrowFloats(torch.bfloat16)], Trace())
    ids, top, logits = narrow.results.values()
    assert logits.target is torch.ops.aten._to_copy.default
    assert ids.args[0] is top.args[0] is logits.args[0]
    assert [node.meta["val"].dtype for node in (ids, top, logits)] == [torch.int64, torch.int32, torch.float32]


def test_a_second_time_is_refused_and_a_whole_program_is_an_error(step: Program, chosen: Program) -> None:
    trace = Trace()
    again = run_passes(chosen, [ChooseIds()], trace)
    assert again.signature.outputs == NAMES
    assert [entry.text for entry in trace.passes[-1].refusals] == ["the program gives ids already"]
    torch.manual_seed(0)
    with pytest.raises(UsageError, match="insert-states has to be among"):
        run_passes(read(NanoGPT().eval(), max_length=40).program, [ChooseIds()], Trace())


def test_it_is_spelled_and_in_the_pipeline_of_gpus_alone() -> None:
    assert spelled(ChooseIds()) == "choose-ids"
    assert read_pass("choose-ids", known_passes()) == ChooseIds()
    assert ChooseIds() in default_passes("cuda")
    assert ChooseIds() not in default_passes("onnxruntime")


def test_text_and_stored_graph_keep_the_names(step: Program, chosen: Program) -> None:
    text = full_text(chosen)
    assert "logits_dtype=f32, outputs=[ids, top, logits]\n" in text
    assert "outputs=" not in full_text(step)
    again = parse_program(text, chosen.weights)
    assert again.signature == chosen.signature
    assert full_text(again) == text
    with pytest.raises(ParseError, match="a program gives logits, and ahead of them some of ids, top"):
        parse_program(text.replace("[ids, top, logits]", "[top, ids, logits]"), chosen.weights)
    with pytest.raises(ParseError, match="results for ids, logits and"):
        parse_program(text.replace("[ids, top, logits]", "[ids, logits]"), chosen.weights)
    entry = signature_entry(chosen.signature)
    assert entry.choices == ["ids", "top"]
    assert signature_of(entry, ["tokens", "position", "logits_index"]) == chosen.signature
    stored = program_to_data(chosen)
    assert program_from_data(stored, chosen.weights, chosen.signature, chosen.states).signature.outputs == NAMES
    with pytest.raises(ArtifactError, match="and its manifest names"):
        program_from_data(stored, chosen.weights, step.signature, chosen.states)
    with pytest.raises(ArtifactError, match="the manifest's signature is of no program"):
        signature_of(type(entry)(5, 5, 5, "float32", ["best"]), ["tokens"])


def test_a_result_of_another_type_is_seen_after_the_pass_that_made_it(chosen: Program) -> None:
    wrong = chosen.copy()
    wrong.give({**wrong.results, "ids": wrong.results["top"]}, wrong.new_states)
    with pytest.raises(InvalidProgramError, match=r"the output ids is torch.int32 of 4 axes, not torch.int64 of 2"):
        check(wrong, "a pass")
    with pytest.raises(InvalidProgramError, match="a program gives logits"):
        replace(chosen.signature, outputs=("ids",))


def test_a_cpus_model_keeps_the_logits_alone(step: Program, chosen: Program, tmp_path: Path) -> None:
    layout = plan_weights(step.weights, tables=False)
    assert lower(chosen, layout) == lower(step, layout)
    torch.manual_seed(0)
    model, passes = NanoGPT().eval(), [*default_passes(), ChooseIds()]
    with burnish.compile(model, max_length=40, passes=passes) as compiled:
        ids = torch.tensor([[1, 2, 3]])
        found = compiled.session().append(ids, wanted="ids")
        assert torch.equal(found, compiled(ids)[:, -1:].argmax(-1))


@pytest.mark.parametrize("wanted", NAMES)
def test_the_reference_gives_the_graphs_own_results_and_chooses_where_there_is_none(
    step: Program, chosen: Program, wanted: Wanted
) -> None:
    """A graph whose ids are wrong shows: they are not made of the logits again."""
    tokens, position, index = (given(step)[name] for name in ("tokens", "position", "logits_index"))
    found = [
        ReferenceExecutor(each).step(Step(tokens, position, index, wanted), States.allocate(each.states, 2, 8, ON_CPU))
        for each in (step, chosen)
    ]
    assert [each.kind for each in found] == [wanted, wanted]
    assert torch.equal(found[0].tensor, found[1].tensor)
    other = chosen.copy()
    other.results["ids"].args = (other.results["logits"], 1)
    executor = ReferenceExecutor(other)
    states = States.allocate(other.states, 2, 8, ON_CPU)
    assert executor.step(Step(tokens, position, index, "ids"), states).values.shape != found[0].values.shape[:2]
    assert torch.equal(executor.logits(states).tensor, logits_of(step, tokens))
