"""A scale behind a linear, inside of its weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from burnish.passes.fuse.fold_scales import FOLD_SCALES
from tests.passes.layout.graphs import graph, rewritten, text_of


class Scale(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.linspace(0.5, 1.5, size))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


@pytest.mark.parametrize("bias", [True, False])
def test_a_scale_goes_into_the_weights(bias: bool) -> None:
    program = graph(lambda x, linear, scale: scale(linear(x)), (2, 3, 8), nn.Linear(8, 6, bias=bias), Scale(6))
    after, log = rewritten(program, FOLD_SCALES)
    given = "%x, @layers.0.weight.scaled" + (", @layers.0.bias.scaled" if bias else ", None")
    assert text_of(after) == f"%0: f32[2, 3, 6] = aten.linear({given})"
    assert [entry.text for entry in log.rewrites] == ["a linear's scale"]


@pytest.mark.parametrize(
    ("function", "layers", "reason"),
    [
        (lambda x, f, s: [s(y := f(x)), y], (nn.Linear(8, 6), Scale(6)), "others read the linear as it is"),
        (lambda x, f, s: s(f(x)), (nn.Linear(8, 6), Scale(1)), "not one number for each output"),
        (lambda x, f, s: s(f(x)), (nn.Linear(8, 1), Scale(6)), "not one number for each output"),
    ],
)
def test_it_stays_away(function: Any, layers: tuple[nn.Module, ...], reason: str) -> None:
    program = graph(function, (2, 3, 8), *layers)
    after, log = rewritten(program, FOLD_SCALES)
    assert text_of(after) == text_of(program)
    assert reason in log.refusals[0].text
