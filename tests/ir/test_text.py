"""Programs as text, through the real passes."""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from burnish.frontend.capture import capture
from burnish.ir.full_text import full_text
from burnish.ir.text import program_text
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import make_incremental

sys.path.insert(0, str(Path(__file__).parents[2] / "docs"))

from model import Decoder

COUNTS = re.compile(r"[0-9]+ (?:times|operations|weights|states)|… [0-9]+|\[\*\+[0-9]+\]|blocks\.[0-9]+$")


@pytest.fixture(scope="module")
def traces() -> dict[int, Trace]:
    """The same decoder with 2 and with 5 layers."""
    found = {}
    for layers in (2, 5):
        torch.manual_seed(0)
        found[layers] = Trace()
        run_passes(capture(Decoder(layers), max_length=64), make_incremental(), found[layers])
    return found


def test_two_layers_and_five_differ_in_their_counts_alone(traces: dict[int, Trace]) -> None:
    for two, five in zip(traces[2].passes, traces[5].passes, strict=True):
        texts = [re.sub(r"(  # [\w.]+) [\w.]+:\d+", r"\1", record.text).splitlines() for record in (two, five)]
        masked = [[COUNTS.sub("#", line) for line in lines] for lines in texts]
        different = [line for line in difflib.ndiff(*masked) if line[0] in "+-"]
        assert not different, f"after {two.name}:\n" + "\n".join(different)


def test_each_pass_leaves_a_short_text_with_the_layers_folded(traces: dict[int, Trace]) -> None:
    for record in traces[5].passes:
        assert "repeat 5 times" in record.text
        assert len(record.text.splitlines()) < 130
        assert f"{record.nodes_after} operations" in record.text


def test_the_text_is_the_same_each_time(traces: dict[int, Trace]) -> None:
    torch.manual_seed(0)
    again = Trace()
    run_passes(capture(Decoder(2), max_length=64), make_incremental(), again)
    assert [record.text for record in again.passes] == [record.text for record in traces[2].passes]


class Mixed(nn.Module):
    """Layers of two kinds, one in three with a longer way."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(layers))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        for number, layer in enumerate(self.layers):
            x = x + layer(x).sigmoid() if number % 3 < 2 else x + layer(x).tanh().exp()
        return x


def test_unlike_layers_are_folded_by_their_period_or_kept_apart() -> None:
    text = program_text(capture(Mixed(8), max_length=64))
    assert [line for line in text.splitlines() if line.startswith("repeat") and "first" in line] == [
        "repeat 2 times, * = 0 … 3 by 3; first %add_2 = %embedding.embedding:",
        "repeat 2 times, * = 6 … 7; first %add_3 = %add_2:",
    ]
    assert "aten.linear(%add_2, @layers.*.weight" in text
    assert "@layers.[*+2].weight" in text


def test_unfolded_text_has_every_node_under_its_own_name() -> None:
    program = capture(Mixed(3), max_length=64)
    lines = full_text(program).splitlines()
    for node in program.graph.nodes:
        if node.op == "call_function":
            assert any(line.startswith(f"%{node.name}: ") for line in lines)
