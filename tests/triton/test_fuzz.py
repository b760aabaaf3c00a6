"""Drawn modules as launch plans, run by Triton's interpreter, beside eager: see `tests.fuzz`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fuzz.attention import Attention, Term
from tests.fuzz.cases import Case, Pipeline, examine
from tests.fuzz.draw import drawn
from tests.fuzz.modules import Block, Convolution, Model, Scan, Shift, leaks

EXAMPLES = 15


def test_drawn_modules_give_what_eager_does() -> None:
    found = [case for case in drawn(77, 4 * EXAMPLES) if case.model.vocabulary < 32 and not leaks(case.model)]
    cases = list({case.model: case for case in found}.values())[:EXAMPLES]
    kinds = [examine(replace(case, pipeline=Pipeline()), "triton-interpret", quick=True).kind for case in cases]
    assert kinds.count("matched") > EXAMPLES // 2, kinds


@pytest.mark.parametrize(
    "block",
    [
        Block((Attention(terms=(Term("window", (3,)),)), Shift(2)), norm="rms", residual="add"),
        Block((Convolution(3, depthwise=True), Scan("gated")), join="multiply", after="swiglu"),
    ],
    ids=["attention", "convolution"],
)
def test_two_blocks(block: Block) -> None:
    assert examine(Case(Model((block,)), 40), "triton-interpret", quick=True).kind == "matched"
