"""What depends on position alone becomes a table, however it is spelled; what depends on the total length does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from burnish.frontend.capture import capture
from burnish.ir.errors import UnsupportedError
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.text import program_text
from burnish.passes.analyses.axis_labels import AxisLabels
from burnish.passes.base import Log
from burnish.passes.clean import Clean
from burnish.passes.fold_positions import FoldPositions


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(11, 8), nn.Linear(8, 11)
        self.learned = nn.Embedding(32, 8)

    def at(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(x * self.at(x))


class Learned(Positions):
    def at(self, x: Tensor) -> Tensor:
        return self.learned(torch.arange(x.shape[1]))


class LearnedByRow(Positions):
    def at(self, x: Tensor) -> Tensor:
        ids = torch.arange(x.shape[1]).unsqueeze(0).expand(x.shape[0], -1)
        return self.learned(ids)


class Sinusoidal(Positions):
    def at(self, x: Tensor) -> Tensor:
        angle = torch.arange(x.shape[1]).unsqueeze(1) * torch.arange(1, 5) / 7
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


class LogScaled(Positions):
    def at(self, x: Tensor) -> Tensor:
        return torch.log1p(torch.ones(x.shape[:2]).cumsum(1)).unsqueeze(-1)


class ByTotalLength(Positions):
    """Dynamic scaling: every position's value depends on how many there are."""

    def at(self, x: Tensor) -> Tensor:
        position = torch.arange(x.shape[1])
        return (position / position.max().clamp(min=1)).unsqueeze(-1)


def folded(module: nn.Module) -> tuple[Program, Program, Log]:
    torch.manual_seed(0)
    before = Clean().run(capture(module.eval(), max_length=32), Log())
    log = Log()
    return before, FoldPositions().run(before.copy(), log), log


@pytest.mark.parametrize("style", [Learned, LearnedByRow, Sinusoidal, LogScaled], ids=lambda style: style.__name__)
def test_it_fires_and_the_numbers_hold(style: type[Positions]) -> None:
    before, after, log = folded(style())
    assert sum("table of positions" in entry.text for entry in log.rewrites) == 1
    text = program_text(after)
    assert text.count("burnish.lookup(") == 1
    assert "aten.arange" not in text
    assert "aten.cumsum" not in text
    for shape in ((1, 1), (2, 9), (3, 32)):
        ids = torch.randint(11, shape)
        assert torch.equal(run(after, [ids])[0], run(before, [ids])[0])


def test_what_depends_on_the_total_length_is_left_alone_and_said() -> None:
    _, after, log = folded(ByTotalLength())
    assert "burnish.lookup(" not in program_text(after)
    assert not log.rewrites
    assert "depends on the total length" in log.refusals[0].text


def test_what_is_no_table_is_refused_and_not_run_from_position_zero() -> None:
    with pytest.raises(UnsupportedError, match="depends on positions but is no table"):
        AxisLabels(folded(ByTotalLength())[1])
