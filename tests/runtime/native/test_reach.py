"""Plans of compiled models with one thing changed: they are refused, or run in the memory that there is."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import burnish
from burnish.ir.errors import ArtifactError, BurnishError
from burnish.passes.transforms.quantize import Quantize
from burnish.runtime.executor import Step
from burnish.runtime.executor_native import NativeExecutor
from burnish.runtime.kernel_files import read_plan
from burnish.runtime.mapped_bytes import weight_bytes
from burnish.runtime.memory import NUMPY
from burnish.runtime.model import CompiledModel
from burnish.runtime.native.library import own_library
from burnish.runtime.plan import Plan
from burnish.runtime.row_tables import row_tables
from burnish.runtime.states import States
from tests.own_modules.causal import NanoGPT

NUMBERS = (-(2**63), -1, 0, 1, 2, 15, 33, 64, 4096, 2**31, 2**40, 2**62, 2**63 - 1)
CAPACITY = 20


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    torch.manual_seed(0)
    transforms = [Quantize("int4", 32)]
    return burnish.compile(NanoGPT().eval(), backend="native", max_length=64, transforms=transforms)


def run(model: CompiledModel, plan: Plan) -> None:
    """A prompt and a token behind it."""
    artifact = model.artifact
    weights = weight_bytes(artifact)
    executor = NativeExecutor(plan, weights, own_library(), row_tables(artifact, weights), threads=2)
    states = States.allocate(artifact.states, 2, CAPACITY, NUMPY, in_place=True)
    try:
        for position, tokens in ((0, 5), (5, 1)):
            ids = torch.randint(0, 60, (2, tokens))
            executor.step(Step(ids, torch.full((2,), position), torch.arange(tokens)), states)
    finally:
        executor.close()


def numbers_in(data: Any) -> list[tuple[Any, Any]]:
    """All places of numbers and sizes below a part of a plan: what holds each, and by what it is there."""
    if not isinstance(data, dict | list):
        return []
    found = []
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if isinstance(value, int | float) or (
            isinstance(value, str) and key not in ("buffer", "dtype", "kernel", "type")
        ):
            found.append((data, key))
        found += numbers_in(value)
    return found


@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(draw=st.data())
def test_a_plan_with_another_number_is_refused_or_runs(model: CompiledModel, draw: st.DataObject) -> None:
    plan = msgspec.to_builtins(read_plan(model.artifact))
    variant = draw.draw(st.sampled_from(plan["variants"]), label="variant")
    launches = [step for step in variant["steps"] if step["type"] == "launch"]
    launch = draw.draw(st.sampled_from(launches), label="launch")
    constants = plan["kernels"][launch["kernel"]]["constants"]
    numbers = [key for key, value in constants.items() if isinstance(value, int) and not isinstance(value, bool)]
    places = [*numbers_in(launch["arguments"]), *((constants, key) for key in numbers)]
    holder, key = draw.draw(st.sampled_from(places), label="place")
    holder[key] = draw.draw(st.sampled_from(NUMBERS), label="number")
    with suppress(BurnishError, msgspec.ValidationError):  # what is no plan is refused as an artifact is read
        run(model, msgspec.convert(plan, Plan))


def test_a_grid_of_too_few_numbers_is_refused(model: CompiledModel) -> None:
    plan = msgspec.to_builtins(read_plan(model.artifact))
    for variant in plan["variants"]:
        variant["steps"][0]["grid"].pop()
    with pytest.raises(ArtifactError, match="as it cannot be started"):
        run(model, msgspec.convert(plan, Plan))


def test_the_plan_as_it_is(model: CompiledModel) -> None:
    run(model, read_plan(model.artifact))
