"""A block of rows of a position-only value is those rows of the whole value, for every op that a mask is written in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from burnish.frontend.capture import capture
from burnish.ir.errors import UnsupportedError
from burnish.passes.analyses.position_blocks import PositionBlocks
from burnish.passes.analyses.position_only import PositionOnly, sequence_axes
from burnish.passes.base import Log
from burnish.passes.raise_.canonicalize import Canonicalize
from burnish.passes.raise_.clean import Clean

LENGTH = 23
Positions = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries[t, 1], keys[1, t], a table[64] -> [t, t] or [1, t, t]


class Scored(nn.Module):
    """Token scores [batch, t, t] that something computed from positions is added to."""

    def __init__(self, values: Positions) -> None:
        super().__init__()
        self.values = values
        self.embed = nn.Embedding(23, 4)
        self.register_buffer("table", torch.arange(64) * 3 % 7)
        self.register_buffer("square", torch.randn(65, 65))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        t = ids.shape[1]
        i, j = torch.arange(t).unsqueeze(1), torch.arange(t).unsqueeze(0)
        table = self.square if self.values in WITH_SQUARE else self.table
        return (x @ x.mT + self.values(i, j, table)) @ x


def square_corner(i: Tensor, j: Tensor, square: Tensor) -> Tensor:
    return square[: i.shape[0], : j.shape[1]]


def square_shifted(i: Tensor, j: Tensor, square: Tensor) -> Tensor:
    return square[1 : i.shape[0] + 1, 1 : j.shape[1] + 1].T * 1.0


WITH_SQUARE = (square_corner, square_shifted)

SPELLINGS: dict[str, Positions] = {
    "comparison": lambda i, j, table: (j <= i).float(),
    "where": lambda i, j, table: torch.where((i - j) % 5 < 2, 1.0, -1e4) * (i + 1),
    "logic": lambda i, j, table: ((j <= i) & ~(i - j > 4) | (j == 0)).logical_not().float(),
    "triangles": lambda i, j, table: (
        torch.full((i.shape[0], i.shape[0]), 2.0).triu(1) + torch.ones_like(i * j).tril(-3)
    ),
    "triangle turned": lambda i, j, table: torch.ones(i.shape[0], i.shape[0]).tril(2).transpose(0, 1) * 1.0,
    "lookup": lambda i, j, table: table[(i - j).clamp(min=0)].float(),
    "two lookups": lambda i, j, table: (table[i] == table[j]).float(),
    "views": lambda i, j, table: (i - 2 * j).unsqueeze(0).unsqueeze(-1).expand(-1, -1, -1, 3).select(-1, 1).float(),
    "permuted": lambda i, j, table: (i - 2 * j)[None, :, :, None].permute(0, 2, 3, 1).squeeze(2).float(),
    "split": lambda i, j, table: torch.stack((i - j, i + j), -1).unbind(-1)[1].float(),
    "joined": lambda i, j, table: (
        torch.cat(((i * j)[:, :2], (i - j)[:, 2:]), 1) + torch.cat(((i * j)[:3], (i - j)[3:]))
    ),
    "powers": lambda i, j, table: torch.exp(-0.1 * (i - j).abs()).to(torch.float32) ** 2,
    "buckets": lambda i, j, table: torch.bucketize((i - j).clamp(min=0), torch.tensor([1, 2, 4, 8])).float(),
    "repeated": lambda i, j, table: (i - 2 * j).repeat(1, 2)[:, : i.shape[0]].float() + (i * j).repeat(3, 1, 1)[1],
    "product": lambda i, j, table: (i % 3 == torch.arange(3)).float() @ (torch.arange(3) == j.T % 3).float().T,
    "running sum": lambda i, j, table: (i - j).cumsum(-1).float() + (i * j).flip(1) + (i + 3 * j).roll(2, 1),
    "reduced": lambda i, j, table: (
        ((i - j).unsqueeze(-1) > torch.arange(5)).sum(-1) + ((i < j)[..., None] & True).any(-1) * 1.0
    ),
    "merged": lambda i, j, table: (
        ((torch.arange(3).view(3, 1, 1, 1) * 7 + torch.arange(2).view(1, 2, 1, 1)) * (i + 2 * j))
        .transpose(0, 1)
        .reshape(6, i.shape[0], -1)[4]
        .float()
    ),
    "picked": lambda i, j, table: (
        ((i - j)[:, None, :] * torch.arange(3)[:, None])[:, torch.tensor([2, 0])].sum(1).float()
    ),
    "corner of a table": square_corner,
    "inside of a table": square_shifted,
}
ROWS_ALONE = ("repeated", "running sum")  # they work along the keys, so that a block of keys needs all of them

# An index into a value that is wide itself: no rule says which of its rows are read.
SCATTERED: dict[str, Positions] = {
    "lookup of pairs": lambda i, j, table: (i * j)[i, j].float(),
    "neighbours": lambda i, j, table: (
        (torch.arange(i.shape[0] + 1)[:, None] - 2 * j * j).unfold(0, 2, 1)[..., 1].float()
    ),
    "gather": lambda i, j, table: (i + 2 * j).gather(0, (i + j) % i.shape[0]).float(),
}


def program_of(values: Positions) -> PositionOnly:
    torch.manual_seed(0)
    captured = capture(Scored(values).eval(), max_length=63)
    return PositionOnly(Canonicalize().run(Clean().run(captured, Log()), Log()))


def wide_nodes(positions: PositionOnly) -> list[torch.fx.Node]:
    return [
        node
        for node in positions.program.graph.nodes
        if node in positions
        and isinstance(node.meta.get("val"), Tensor)
        and len(sequence_axes(positions.program, node)) > 1
    ]


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_block_is_those_rows_of_the_whole(name: str) -> None:
    positions = program_of(SPELLINGS[name])
    whole = PositionBlocks(positions, 2, LENGTH)
    blocks = PositionBlocks(positions, 2, LENGTH, small=0, whole=0)  # nothing wide is ever computed whole
    nodes = wide_nodes(positions)
    assert nodes
    compared = 0
    for node in nodes:
        expected = whole.whole(node)
        axes = sequence_axes(positions.program, node)
        for axis in axes[:1] if name in ROWS_ALONE else axes:
            size = expected.shape[axis]
            for start, stop in ((0, 5), (7, 8), (16, size)):
                found = blocks.block(node, axis, start, stop)
                assert torch.equal(found, expected.narrow(axis, start, stop - start))
                compared += 1
    assert compared


@pytest.mark.parametrize("values", SCATTERED.values(), ids=SCATTERED)
def test_what_no_rule_covers_is_computed_whole_or_refused(values: Positions) -> None:
    positions = program_of(values)
    (*_, last) = wide_nodes(positions)
    with pytest.raises(UnsupportedError, match="compile with a smaller max_length") as refusal:
        PositionBlocks(positions, 2, LENGTH, small=0, whole=0).block(last, 0, 2, 4)
    assert "test_position_blocks.py:" in str(refusal.value)
    fits = PositionBlocks(positions, 2, LENGTH, small=0, whole=2 * LENGTH**2).block(last, 0, 2, 4)
    assert torch.equal(fits, PositionBlocks(positions, 2, LENGTH).whole(last)[2:4])


def test_a_long_value_is_never_held_whole() -> None:
    positions = program_of(SPELLINGS["logic"])
    (*_, last) = wide_nodes(positions)
    blocks = PositionBlocks(positions, 2, 200_000)  # 40 billion entries
    found = blocks.block(last, 0, 123_456, 123_458)
    query, key = torch.arange(123_456, 123_458).unsqueeze(1), torch.arange(200_000)
    expected = ~((key <= query) & ~(query - key > 4) | (key == 0))
    assert torch.equal(found, expected.float())


def test_an_index_beyond_its_table_is_refused_by_name() -> None:
    positions = program_of(SPELLINGS["lookup"])
    (*_, last) = wide_nodes(positions)
    blocks = PositionBlocks(positions, 2, 70, small=0, whole=0)
    with pytest.raises(UnsupportedError, match=r"cannot be computed for 70 tokens.*smaller max_length"):
        blocks.block(last, 0, 60, 70)


def test_values_that_are_computed_alike_are_spelled_alike() -> None:
    class Twice(nn.Module):
        def __init__(self, second: float) -> None:
            super().__init__()
            self.embed = nn.Embedding(23, 4)
            self.register_buffer("one", torch.tensor([5.0]))
            self.register_buffer("two", torch.tensor([second]))

        def forward(self, ids: Tensor) -> Tensor:
            x = self.embed(ids)
            for width in (self.one, self.two):
                i = torch.arange(ids.shape[1])
                x = (x @ x.mT + torch.where(i[:, None] - i < width, 0.0, -1e4)) @ x
            return x

    for second, same in ((5.0, True), (6.0, False)):
        positions = PositionOnly(capture(Twice(second).eval(), max_length=63))
        first, other = (node for node in positions.program.graph.nodes if "where" in str(node.target))
        assert (positions.spelling([first]) == positions.spelling([other])) is same
