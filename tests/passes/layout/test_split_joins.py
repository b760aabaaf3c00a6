"""Convolutions of joined channels, as sums."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import burnish
from burnish.passes.layout.split_joins import SplitJoins
from tests.networks import SMALL, UNet, network
from tests.passes.layout.graphs import graph, rewritten, text_of
from tests.passes.layout.test_networks import optimized

IMAGE = (1, 16, 8, 8)


def _joined(x: Tensor, convolution: nn.Module, norm: nn.Module) -> Tensor:
    return norm(convolution(torch.cat((x, torch.relu(x), x * 2), 1)))


def _norm() -> nn.BatchNorm2d:
    torch.manual_seed(1)
    norm = nn.BatchNorm2d(16)
    for each in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
        assert each is not None
        nn.init.uniform_(each, 0.5, 1.5)
    return norm


@pytest.mark.parametrize("bias", [True, False])
def test_a_join_becomes_a_sum_as_text(bias: bool) -> None:
    program = graph(_joined, IMAGE, nn.Conv2d(48, 16, 3, padding=1, bias=bias), _norm())
    after, log = rewritten(program, SplitJoins())
    assert text_of(after) == "\n".join(
        [
            "%0: f32[1, 16, 8, 8] = aten.relu(%x)",
            "%1: f32[1, 16, 8, 8] = aten.mul.Tensor(%x, 2)",
            "%2: f32[1, 16, 8, 8] = aten.conv2d(%x, @layers.0.weight.part0, None, [1, 1], [1, 1], [1, 1])",
            "%3: f32[1, 16, 8, 8] = aten.conv2d(%0, @layers.0.weight.part1, None, [1, 1], [1, 1], [1, 1])",
            "%4: f32[1, 16, 8, 8] = aten.add.Tensor(%2, %3)",
            "%5: f32[1, 16, 8, 8] = aten.conv2d(%1, @layers.0.weight.part2, @layers.0.weight.bias, "
            "[1, 1], [1, 1], [1, 1])",
            "%6: f32[1, 16, 8, 8] = aten.add.Tensor(%4, %5)",
        ]
    )
    assert [entry.text for entry in log.rewrites] == ["the sum of convolutions of 3 parts, with the norm behind it"]


def test_without_a_norm_the_bias_is_added_once() -> None:
    def joined(x: Tensor, convolution: nn.Module) -> Tensor:
        return torch.relu(convolution(torch.cat((x, x), 1)))

    for bias in (True, False):
        after, log = rewritten(graph(joined, IMAGE, nn.Conv2d(32, 16, 1, bias=bias)), SplitJoins())
        assert len(log.rewrites) == 1
        assert text_of(after).count("None") == (1 if bias else 2)


@pytest.mark.parametrize(
    ("function", "layers", "reason"),
    [
        (lambda x, c: c(torch.cat((x, x), 1)), (nn.Conv2d(32, 32, 1, groups=2),), "it has groups"),
        (lambda x, c: c(torch.cat((x, x), 1)), (nn.Conv2d(32, 64, 1),), "bytes of sums would be moved in place"),
        (lambda x, c: c(torch.cat((x, x), 2)), (nn.Conv2d(16, 4, 1),), "not joined along the channels"),
        (lambda x, c: c(torch.cat((x, x[:, :3]), 1)), (nn.Conv2d(19, 4, 1),), "fewer than 16 channels"),
        (
            lambda x, c: [c(j := torch.cat((x, x), 1)), j],
            (nn.Conv2d(32, 4, 1),),
            "others read the join, too",
        ),
    ],
)
def test_it_stays_away(function: Any, layers: tuple[nn.Module, ...], reason: str) -> None:
    program = graph(function, IMAGE, *layers)
    after, log = rewritten(program, SplitJoins())
    assert text_of(after) == text_of(program)
    assert reason in log.refusals[0].text
    assert not log.rewrites


def test_u_net_makes_no_join() -> None:
    module, image = network("U-Net", {**SMALL, "U-Net": (lambda: UNet(16, 2), 32)})
    with burnish.compile(module, (image,)) as compiled, torch.no_grad():
        torch.testing.assert_close(compiled(image), module(image), rtol=1e-4, atol=1e-4)
        operators = optimized(compiled)
    assert operators["Concat"] == operators["Add"] == operators["BatchNormalization"] == 0
    assert operators["nchwc.Conv"] == 13
