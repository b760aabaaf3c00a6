"""What depends on position alone becomes a table, however it is spelled; what depends on the total length does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from burnish.frontend.capture import capture
from burnish.ir.errors import UnsupportedError
from burnish.ir.interpreter import run
from burnish.ir.position_table import PositionTable, stored_bytes
from burnish.ir.program import Program
from burnish.ir.text import program_text
from burnish.ir.weights import Stored, Weight
from burnish.passes.analyses.axis_labels import AxisLabels
from burnish.passes.analyses.position_formula import NoFormula, formula_of
from burnish.passes.analyses.position_only import PositionOnly
from burnish.passes.base import Log
from burnish.passes.raise_.clean import Clean
from burnish.passes.states.fold_positions import FoldPositions


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


def folded(module: nn.Module, longest: int = 32) -> tuple[Program, Program, Log]:
    torch.manual_seed(0)
    before = Clean().run(capture(module.eval(), max_length=longest), Log())
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


# ---------------------------------------------------------------- formulas


class Frequencies(Positions):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", 1 / 100 ** (torch.arange(4) / 4))
        self.frequencies: Tensor

    def angles(self, x: Tensor) -> Tensor:
        return torch.arange(x.shape[1])[:, None] * self.frequencies


class Rotary(Frequencies):
    """As transformers writes it: a product of a column and a row for each of the batch, in float32."""

    def at(self, x: Tensor) -> Tensor:
        ids = torch.arange(x.shape[1]).unsqueeze(0).expand(x.shape[0], -1)
        column = self.frequencies[None, :, None].float().expand(x.shape[0], -1, 1)
        angles = (column @ ids[:, None, :].float()).transpose(1, 2)
        return torch.cat((angles, angles), dim=-1).cos() * 1.5


class Outer(Frequencies):
    def at(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1]).float(), self.frequencies)
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class Einsum(Frequencies):
    def at(self, x: Tensor) -> Tensor:
        angles = torch.einsum("i,j->ij", torch.arange(x.shape[1]).float(), self.frequencies)
        return torch.stack((angles.cos(), angles.sin()), dim=-1).flatten(-2)


class Repeated(Frequencies):
    def at(self, x: Tensor) -> Tensor:
        return self.angles(x).repeat_interleave(2, -1).cos()


class Exchanged(Frequencies):
    def at(self, x: Tensor) -> Tensor:
        first, second = torch.cat((self.angles(x).sin(), self.angles(x).cos()), -1).chunk(2, -1)
        return torch.cat((second, first), -1)


class FromOne(Frequencies):
    def at(self, x: Tensor) -> Tensor:
        positions = torch.arange(1, x.shape[1] + 1, dtype=torch.float32)[:, None]
        angles = positions * self.frequencies + torch.full((x.shape[1], 1), 0.25)
        return torch.cat((angles, angles.sqrt()), -1)


class Buckets(Positions):
    """A number for each range of positions: queries scaled by how far they are."""

    def at(self, x: Tensor) -> Tensor:
        return torch.log1p(torch.floor((torch.arange(x.shape[1]).float() + 1.0) / 8)).unsqueeze(-1) * 0.1 + 1


class Polar(Frequencies):
    def at(self, x: Tensor) -> Tensor:
        angles = self.angles(x)
        return torch.view_as_real(torch.polar(torch.ones_like(angles), angles)).flatten(-2)


FORMULAS = [Polar, Sinusoidal, Rotary, Outer, Einsum, Repeated, Exchanged, FromOne, Buckets]


def tables_of(program: Program) -> list[Weight]:
    return [program.weights[name] for name in program.weights if name.endswith("_table")]


@pytest.mark.parametrize("style", FORMULAS, ids=lambda style: style.__name__)
@pytest.mark.parametrize("longest", [32, 3000])
def test_a_table_is_kept_as_the_formula_of_its_rows(style: type[Positions], longest: int) -> None:
    before, after, log = folded(style(), longest)
    (table,) = tables_of(after)
    assert isinstance(table, PositionTable)
    assert (table.rows, [entry.text.split("; ")[1] for entry in log.rewrites if "table" in entry.text]) == (
        longest,
        ["kept as a formula"],
    )
    assert stored_bytes(table) <= 64
    ids = torch.randint(11, (2, longest))
    assert torch.equal(run(after, [ids])[0], run(before, [ids])[0]), "every row, to the last bit"


class Shifted(Frequencies):
    """Token i has the angles of token i - 1: one row is made of another."""

    def at(self, x: Tensor) -> Tensor:
        angles = torch.arange(x.shape[1] + 1)[:, None] * self.frequencies
        return torch.cat((angles[:-1].cos(), angles[1:].cos()), -1)


class Scrambled(Frequencies):
    """Elements move from token to token."""

    def at(self, x: Tensor) -> Tensor:
        moved = self.angles(x).cos().transpose(0, 1).reshape(x.shape[1], 4)
        return torch.cat((moved, moved), -1)


class Buffered(Positions):
    """A table that the model brings: nothing says what its rows are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.arange(32)[:, None] / torch.arange(1, 9))
        self.rows: Tensor

    def at(self, x: Tensor) -> Tensor:
        return self.rows[: x.shape[1]].cos()


class Long(Frequencies):
    def at(self, x: Tensor) -> Tensor:
        angles = self.angles(x)
        for _ in range(70):
            angles = angles.sin() + angles
        return torch.cat((angles, angles), -1)


STORED = {
    Long: "lines: at most 64",
    Learned: "is no operation on single elements",
    LearnedByRow: "is no operation on single elements",
    LogScaled: "is no operation on single elements",
    Shifted: "does not count the tokens",
    Buffered: "has tokens that are no positions",
}


@pytest.mark.parametrize("style", STORED, ids=lambda style: style.__name__)
def test_what_is_not_made_from_its_position_alone_is_stored(style: type[Positions]) -> None:
    before, after, log = folded(style())
    (table,) = tables_of(after)
    assert isinstance(table, Stored)
    assert STORED[style] in next(entry.text for entry in log.rewrites if "table" in entry.text)
    ids = torch.randint(11, (2, 32))
    assert torch.equal(run(after, [ids])[0], run(before, [ids])[0])


class OfTotal(Frequencies):
    """Computes with the number of tokens."""

    def at(self, x: Tensor) -> Tensor:
        angles = self.angles(x) * x.shape[1]
        return torch.cat((angles, angles), -1)


class Added(Frequencies):
    """Adds up all that is before."""

    def at(self, x: Tensor) -> Tensor:
        angles = self.angles(x).transpose(0, 1) @ self.angles(x)
        return (self.angles(x) @ angles).repeat_interleave(2, -1)


UNTOLD = {Scrambled: "moves elements from token to token", OfTotal: "computes with the number of tokens"}
UNTOLD[Added] = "takes tokens together"


@pytest.mark.parametrize("style", UNTOLD, ids=lambda style: style.__name__)
def test_a_formula_is_proved_line_by_line(style: type[Positions]) -> None:
    """These would be seen by comparing values, too: the proof does not rest on that."""
    before, after, _ = folded(style())
    assert not tables_of(after)
    *_, product = (node for node in before.graph.nodes if node.target is torch.ops.aten.mul.Tensor)
    table = product.args[1]
    assert isinstance(table, fx.Node)
    with pytest.raises(NoFormula, match=UNTOLD[style]):
        formula_of(before, PositionOnly(before), table, 32)


def test_a_formula_that_gives_other_numbers_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PositionTable, "first", lambda self, count: torch.zeros(count, *self.row))
    _, after, log = folded(Sinusoidal())
    assert [type(table) for table in tables_of(after)] == [Stored]
    assert "gives other numbers" in log.rewrites[-1].text


class Phased(Positions):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.arange(8) / 7)
        self.register_buffer("phases", torch.arange(8) / 9)

    def at(self, x: Tensor) -> Tensor:
        return (torch.arange(x.shape[1])[:, None] * self.frequencies + self.phases).cos()


def test_a_formula_as_large_as_its_table_is_not_kept() -> None:
    _, after, log = folded(Phased(), 2)
    assert [type(table) for table in tables_of(after)] == [Stored]
    assert "takes as much room" in log.rewrites[-1].text


class Twice(Frequencies):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("again", self.frequencies.clone())

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for frequencies in (self.frequencies, self.again):
            angles = torch.arange(x.shape[1])[:, None] * frequencies
            x = x * torch.cat((angles.sin(), angles.cos()), -1) + 1
        return self.head(x)


def test_equal_tables_stand_once() -> None:
    _, after, log = folded(Twice())
    assert sum("table of positions" in entry.text for entry in log.rewrites) == 2
    assert len(tables_of(after)) == 1


def test_a_million_positions_take_no_room() -> None:
    """Neither stored nor, beyond what is compared, made."""
    rows: list[int] = []
    first = PositionTable.first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PositionTable, "first", lambda self, count: rows.append(count) or first(self, count))
        _, after, _ = folded(Rotary(), 2**20)
    (table,) = tables_of(after)
    assert (table.shape[0], stored_bytes(table)) == (2**20, 16)
    assert max(rows) == 2**16
    assert isinstance(table, PositionTable)
    last = torch.tensor([[2**20 - 1, 2**20 - 2]])
    angles = last[..., None].float() * (1 / 100 ** (torch.arange(4) / 4))
    assert torch.equal(table.at(last), torch.cat((angles, angles), -1).cos() * 1.5)
