"""Norms are raised from each spelling, with the same numbers, and what only looks alike is left alone."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ir.program import Program
from burnish.passes.raise_.norm import RAISE_NORMS
from tests.passes.spelled import Body, Spelled, ops_of, rewritten, spelled, spelled_all, text_of, texts


def mean_square(x: Tensor) -> Tensor:
    return x.pow(2).mean(-1, keepdim=True)


BEFORE = """\
%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)
%1: f32[batch, sequence, 8] = aten.pow.Tensor_Scalar(%0, 2)
%2: f32[batch, sequence, 1] = aten.mean.dim(%1, [-1], True)
%3: f32[batch, sequence, 1] = aten.add.Tensor(%2, 1e-06)
%4: f32[batch, sequence, 1] = aten.rsqrt(%3)
%5: f32[batch, sequence, 8] = aten.mul.Tensor(%0, %4)
%6: f32[batch, sequence, 8] = aten.mul.Tensor(@weight, %5)"""

AFTER = """\
%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)
%1: f32[batch, sequence, 8] = burnish.rms_norm(%0, @weight, 1e-06)"""


def test_before_and_after() -> None:
    program = spelled(lambda m, x: m.weight * (x * torch.rsqrt(mean_square(x) + 1e-6)))
    assert text_of(program) == BEFORE
    after, log = rewritten(program, RAISE_NORMS)
    assert text_of(after) == AFTER
    assert texts(log) == ["RMS norm", "RMS norm's weight"]


RMS_NORMS: dict[str, Body] = {
    "weight last": lambda m, x: x * torch.rsqrt(mean_square(x) + 1e-6) * m.weight,
    "root first": lambda m, x: m.weight * (torch.rsqrt(1e-6 + mean_square(x)) * x),
    "square by product": lambda m, x: m.weight * (x * torch.rsqrt((x * x).mean(-1, keepdim=True) + 1e-6)),
    "divided by the root": lambda m, x: x / torch.sqrt(mean_square(x) + 1e-6) * m.weight,
    "one over the root": lambda m, x: x * (1 / (mean_square(x) + 1e-6).sqrt()) * m.weight,
    "mean by sum": lambda m, x: x * torch.rsqrt(x.square().sum(-1, keepdim=True) / 8 + 1e-6) * m.weight,
    "second names": lambda m, x: torch.multiply(
        m.weight, torch.divide(x, (torch.square(x).mean(-1, True) + 1e-6).sqrt())
    ),
    "power of -0.5": lambda m, x: x * torch.pow(mean_square(x) + 1e-6, -0.5) * m.weight,
    "ATen's": lambda m, x: F.rms_norm(x, (8,), m.weight, 1e-6),
}


@cache
def rms_norms() -> dict[str, Program]:
    return spelled_all(RMS_NORMS)


@pytest.mark.parametrize("name", RMS_NORMS)
def test_rms_norm_with_a_weight(name: str) -> None:
    after, _ = rewritten(rms_norms()[name], RAISE_NORMS)
    assert text_of(after) == AFTER


def test_scale_stored_as_distance_from_one() -> None:
    program = spelled(lambda m, x: x * torch.rsqrt(mean_square(x) + 1e-6) * (1.0 + m.weight))
    after, log = rewritten(program, RAISE_NORMS)
    assert ops_of(after) == ["burnish.rms_norm"]
    assert texts(log) == ["RMS norm", "a weight plus a number", "RMS norm's weight"]
    derived = after.weights["weight.offset"]
    assert torch.equal(derived.materialize(), 1.0 + program.weights["weight"].materialize())


def test_no_weight_and_other_users_of_the_root() -> None:
    """The interior of a pattern may be read elsewhere: it stays, and the norm is raised all the same."""

    def body(m: Spelled, x: Tensor) -> Tensor:
        root = torch.rsqrt(mean_square(x) + 1e-6)
        return x * root + root

    after, _ = rewritten(spelled(body), RAISE_NORMS)
    assert ops_of(after).count("burnish.rms_norm") == 1
    assert "aten.rsqrt" in ops_of(after)


def test_epsilon_of_aten_by_default_is_that_of_the_dtype() -> None:
    after, _ = rewritten(spelled(lambda m, x: F.rms_norm(x, (8,))), RAISE_NORMS)
    assert text_of(after).endswith(f"burnish.rms_norm(%0, None, {torch.finfo(torch.float32).eps})")


LOOKS_LIKE_RMS_NORM: dict[str, Body] = {
    "epsilon outside the root": lambda m, x: x / (torch.sqrt(mean_square(x)) + 1e-6),
    "another axis": lambda m, x: x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6),
    "mean of another value": lambda m, x: x * torch.rsqrt(mean_square(m.gate(x)) + 1e-6),
    "sum divided by another number": lambda m, x: x * torch.rsqrt((x * x).sum(-1, keepdim=True) / 7 + 1e-6),
    "cube": lambda m, x: x * torch.rsqrt(x.pow(4).mean(-1, keepdim=True) + 1e-6),
    "root, not one over it": lambda m, x: x * torch.sqrt(mean_square(x) + 1e-6),
    "twice the epsilon": lambda m, x: x * torch.rsqrt(torch.add(mean_square(x), 1e-6 + mean_square(x), alpha=2)),
}


@cache
def look_alikes() -> dict[str, Program]:
    return spelled_all(LOOKS_LIKE_RMS_NORM)


@pytest.mark.parametrize("name", LOOKS_LIKE_RMS_NORM)
def test_what_only_looks_like_it_stays(name: str) -> None:
    program = look_alikes()[name]
    after, log = rewritten(program, RAISE_NORMS)
    assert text_of(after) == text_of(program)
    assert not log.rewrites


def test_a_near_miss_says_what_did_not_match() -> None:
    program = spelled(lambda m, x: x * torch.rsqrt(mean_square(m.gate(x)) + 1e-6))
    _, log = rewritten(program, RAISE_NORMS)
    assert [entry.text.split(" at ")[0] for entry in log.refusals] == [
        "RMS norm: 5 of 7 ops matched; then expected x, which is embedding, found aten.linear.default"
    ]


def test_a_scale_by_one_number_is_no_weight() -> None:
    after, log = rewritten(spelled(lambda m, x: m.one * F.rms_norm(x, (8,), eps=1e-6)), RAISE_NORMS)
    assert ops_of(after) == ["burnish.rms_norm", "aten.mul.Tensor"]
    assert [entry.text.split(" (at")[0] for entry in log.refusals] == [
        "RMS norm's weight: a weight of size 1 does not cover the last axis"
    ]


LAYER_NORM = """\
%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)
%1: f32[batch, sequence, 8] = aten.layer_norm(%0, [8], @weight, @bias, 1e-05)"""


def centred(x: Tensor) -> Tensor:
    return x - x.mean(-1, keepdim=True)


LAYER_NORMS: dict[str, Body] = {
    "mean square of what is centred": lambda m, x: (
        m.weight * (centred(x) * torch.rsqrt(mean_square(centred(x)) + 1e-5)) + m.bias
    ),
    "variance": lambda m, x: (
        centred(x) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + 1e-5) * m.weight + m.bias
    ),
    "variance with correction 0": lambda m, x: (
        m.bias + centred(x) * (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt() * m.weight
    ),
}


@cache
def layer_norms() -> dict[str, Program]:
    return spelled_all(LAYER_NORMS)


@pytest.mark.parametrize("name", LAYER_NORMS)
def test_layer_norm_by_hand(name: str) -> None:
    after, log = rewritten(layer_norms()[name], RAISE_NORMS)
    assert text_of(after) == LAYER_NORM
    assert texts(log) == ["layer norm", "layer norm's weight", "layer norm's bias"]


def test_unbiased_variance_is_no_layer_norm() -> None:
    program = spelled(lambda m, x: centred(x) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5))
    after, _ = rewritten(program, RAISE_NORMS)
    assert text_of(after) == text_of(program)
