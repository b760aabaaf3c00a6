"""Native kernels that choose among numbers, against ATen and `burnish::top_scores`."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import burnish
from burnish.codegen.native.choose import argmax, top_scores
from burnish.ir.errors import UnsupportedError
from burnish.ir.fused_ops import fused_ops
from tests.codegen.native.ways import ALL, Way, by, cases, ways


@cases
@given(
    way=ways,
    shape=st.lists(st.integers(1, 5), min_size=0, max_size=2),
    size=st.integers(1, 100),
    axis=st.integers(0, 2),
    keepdim=st.booleans(),
    strange=st.booleans(),
)
def test_argmax(way: Way, shape: list[int], size: int, axis: int, keepdim: bool, strange: bool) -> None:
    torch.manual_seed(size)
    axis %= len(shape) + 1
    x = torch.randint(-9, 9, [*shape[:axis], size, *shape[axis:]]).float()  # many are equal
    if strange:
        x.view(-1)[torch.rand(x.numel()).argsort()[:2]] = torch.nan
    with by(way):
        assert torch.equal(argmax(x, axis, keepdim), torch.argmax(x, axis, keepdim))
        assert torch.equal(argmax(x, axis - x.dim(), keepdim), torch.argmax(x, axis, keepdim))


@cases
@given(way=ways, rows=st.integers(1, 4), size=st.integers(1, 100), data=st.data())
def test_top_scores(way: Way, rows: int, size: int, data: st.DataObject) -> None:
    torch.manual_seed(size)
    count = data.draw(st.integers(1, size))
    x = torch.randint(-9, 9, (rows, size)).float()
    with by(way):
        assert torch.equal(top_scores(x, count), fused_ops.top_scores(x, count))


@pytest.mark.parametrize("way", ALL)
def test_nothing_but_minus_infinity(way: Way) -> None:
    with by(way):
        assert argmax(torch.full((2, 40), -torch.inf), -1).tolist() == [0, 0]


def test_all_axes_at_once_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="one axis"):
        argmax(torch.zeros(2, 3))


class OfNarrowIds(nn.Module):
    """Its author made the ids int32."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 16)
        self.head = nn.Linear(16, 50, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.table(ids.to(torch.int32)))
        return found


def test_ids_of_32_bits_are_read() -> None:
    ids = torch.randint(0, 50, (2, 7))
    module = OfNarrowIds().eval()
    with burnish.compile(module, backend="native", max_length=16) as compiled, torch.no_grad():
        torch.testing.assert_close(compiled(ids), module(ids))
