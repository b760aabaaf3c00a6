"""A forward that branches on a size: the trace has the example's branch, and what others would give is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import burnish
from burnish.ir.errors import (
    BurnishError,
    CaptureError,
    InvalidProgramError,
    UnsupportedError,
    UsageError,
    VerificationError,
)
from tests.tolerances import assert_near


class Branching(nn.Module):
    """Embedding and head, and between them what the number of tokens or rows decides."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.between = between
        self.embed, self.head = nn.Embedding(31, 16), nn.Linear(16, 31)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.between(self.embed(ids)))


def previous(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


@pytest.mark.parametrize(
    ("between", "what"),
    [
        (lambda x: x * 2 if x.shape[1] > 1 else x, "tokens"),
        (lambda x: x * 2 if x.shape[1] > 2 else x, "tokens"),
        (lambda x: x.cumsum(1) * 2 if x.shape[1] > 16 else x.cumsum(1), "tokens"),
        (lambda x: x * 2 if x.shape[1] % 2 else x, "tokens"),
        (lambda x: x * 2 if x.shape[0] > 2 else x, "rows"),
        (lambda x: x * 2 if x.shape[0] > 8 else x, "rows"),
        (lambda x: x * 2 if x.shape[0] == 5 else x, "rows"),
        (lambda x: x * 2 if x.shape[0] == x.shape[1] else x, "rows"),
        (lambda x: x * 2 if x.shape[0] * x.shape[1] > 60 else x, "rows"),
    ],
    ids=["one", "two", "sixteen", "odd", "rows", "many rows", "five rows", "square", "all together"],
)
def test_another_branch_is_refused(between: Callable[[Tensor], Tensor], what: str) -> None:
    torch.manual_seed(0)
    with pytest.raises(CaptureError, match=f"branches on the number of {what}"):
        burnish.compile(Branching(between).eval(), max_length=60)


def test_a_branch_for_longer_texts_limits_them() -> None:
    model = Branching(lambda x: x * 2 if x.shape[1] > 40 else x).eval()
    with pytest.raises(UsageError, match="at most 40 tokens"):
        burnish.compile(model, max_length=60)
    with burnish.compile(model, max_length=40) as compiled:
        assert compiled.signature.max_length == 40


@torch.no_grad()
def test_branches_that_give_the_same_are_taken() -> None:
    torch.manual_seed(0)
    model = Branching(lambda x: x + previous(x) if x.shape[1] > 1 else x).eval()
    with burnish.compile(model, max_length=60) as compiled:
        for length in (1, 2, 3, 20):
            ids = torch.randint(31, (2, length))
            assert_near(compiled(ids), model(ids))


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x + torch.randn_like(x),
        lambda x: x + torch.rand(16),
        lambda x: x + torch.rand(x.shape[1], 1),
        lambda x: nn.functional.dropout(x, 0.1),
    ],
    ids=["like", "constant", "positions", "dropout"],
)
@pytest.mark.parametrize("verify", [True, False])
def test_random_numbers_are_refused_by_line(between: Callable[[Tensor], Tensor], verify: bool) -> None:
    with pytest.raises(UnsupportedError, match=r"draws random numbers") as refusal:
        burnish.compile(Branching(between).eval(), max_length=60, verify=verify)
    assert "test_short_texts.py" in str(refusal.value)


@pytest.mark.parametrize("size", [0, 1])
def test_a_size_as_a_factor_is_refused_in_words(size: int) -> None:
    with pytest.raises(BurnishError) as refusal:
        burnish.compile(Branching(lambda x: x * x.shape[size]).eval(), max_length=20)
    assert not isinstance(refusal.value, InvalidProgramError | VerificationError)
