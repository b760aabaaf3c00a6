"""Drawn modules as launch plans, run by Triton's interpreter, beside eager: see `tests.fuzz`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fuzz.attention import Attention, Term
from tests.fuzz.cases import Case, Pipeline, examine
from tests.fuzz.draw import drawn
from tests.fuzz.modules import Block, Convolution, Model, Scan, Shift, leaks

EXAMPLES = 15


def small(case: Case) -> bool:
    """Whether the interpreter has an answer in seconds."""
    (block, *more) = case.model.blocks
    return not more and len(block.branches) == block.times == 1 and case.model.behind is None and not leaks(case.model)


@pytest.mark.slow("kernels of drawn modules are interpreted")
@pytest.mark.timeout(900)
def test_drawn_modules_give_what_eager_does() -> None:
    cases = list({case.model: case for case in drawn(77, 30 * EXAMPLES) if small(case)}.values())[:EXAMPLES]
    found = [examine(replace(case, pipeline=Pipeline()), "triton-interpret", quick=True) for case in cases]
    kinds = [outcome.kind for outcome in found]
    assert len(kinds) == EXAMPLES
    assert kinds.count("matched") > EXAMPLES // 2, found


@pytest.mark.parametrize(
    "model",
    [
        Model((Block((Attention(terms=(Term("window", (3,)),)), Shift(2)), norm="rms", residual="add"),)),
        Model((Block((Convolution(3, depthwise=True), Scan("gated")), join="multiply", after="swiglu"),)),
        # Rows of states that take 8 bytes, and 4 times 10: kernels are compiled for multiples of 16.
        Model((Block((Scan("mean"),)),), width=10, embedding="bigram"),
    ],
    ids=["attention and a shift", "convolution and sums", "states of odd sizes"],
)
def test_what_is_remembered_in_several_ways(model: Model) -> None:
    assert examine(Case(model, 40), "triton-interpret", quick=True).kind == "matched"
