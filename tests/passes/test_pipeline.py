"""The pipeline: fuel stops it between any two rewrites, and every stop is a program that runs."""

from __future__ import annotations

import pytest
import torch

from burnish.frontend import read
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.pipeline import fuel_of, run_passes
from burnish.passes.pipelines import make_incremental
from tests.zoo.configs import build


@pytest.fixture(scope="module")
def captured() -> Program:
    return read(build("gemma2")).program


@pytest.fixture(scope="module")
def trace(captured: Program) -> Trace:
    trace = Trace()
    run_passes(captured, make_incremental(), trace)
    return trace


def test_every_stop_before_states_gives_the_model_s_logits(captured: Program, trace: Trace) -> None:
    ids = torch.randint(100, (2, 11), generator=torch.Generator().manual_seed(0))
    (expected, *_) = run(captured, [ids])
    fuels = [fuel_of(each, record) for each, record in zip(make_incremental(), trace.passes[1:], strict=True)]
    before_states = sum(fuels[:-2])  # the last two change what goes in
    assert before_states > 60
    for fuel in range(0, before_states + 1, 7):
        stopped = Trace()
        program = run_passes(captured, make_incremental(), stopped, fuel=fuel)
        assert sum(len(record.rewrites) for record in stopped.passes) == fuel
        (found, *_) = run(program, [ids])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, msg=f"after {fuel} rewrites")


def test_an_atomic_pass_runs_to_its_end(captured: Program, trace: Trace) -> None:
    fuels = [fuel_of(each, record) for each, record in zip(make_incremental(), trace.passes[1:], strict=True)]
    assert fuels[-2:] == [1, 1]
    whole = Trace()
    program = run_passes(captured, make_incremental(), whole, fuel=sum(fuels))
    assert program.states
    assert [record.name for record in whole.passes] == [record.name for record in trace.passes]


def test_nodes_remember_the_rewrites_that_made_them(trace: Trace) -> None:
    step = trace.passes[-1]
    names = {record.number: record.name for record in trace.passes}
    attention = next(node for node in step.nodes if node.target == "burnish.attention")
    assert [names[number] for number, _ in attention.history] == ["raise-attention"]
    number, place = attention.history[0]
    assert "attention, 4 query heads" in trace.passes[number].rewrites[place].text
    caches = [node for node in step.nodes if node.target == "burnish.cache_write"]
    assert caches
    assert all(names[node.history[-1][0]] == "insert-states" for node in caches)


def test_a_node_that_is_left_alone_keeps_its_record(trace: Trace) -> None:
    before, after = trace.passes[-3], trace.passes[-2]
    known = {id(node) for node in before.nodes}
    assert sum(id(node) in known for node in after.nodes) > 0.8 * len(after.nodes)


def test_states_make_one_more_token_cheap(trace: Trace) -> None:
    before, after = trace.passes[-2], trace.passes[-1]
    assert after.bytes_moved < before.bytes_moved / 9  # behind as many tokens as the small model takes
    assert after.launches < 1.3 * before.launches
