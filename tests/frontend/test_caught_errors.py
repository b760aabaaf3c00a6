"""A forward that catches what its trace raises goes another way than with text, and is refused."""

from __future__ import annotations

import contextlib

import pytest
import torch
from torch import Tensor, nn

from burnish.frontend.capture import capture
from burnish.ir.errors import CaptureError


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(17, 8)
        self.head = nn.Linear(8, 17)


class AllAreNothing(Model):
    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        try:
            if (tokens == 0).all():
                return self.head(x)
        except Exception:  # as people write it
            return self.head(x * 2)
        return self.head(x * 2)


class CountsOne(Model):
    def forward(self, tokens: Tensor) -> Tensor:
        many = False
        with contextlib.suppress(RuntimeError):
            many = bool((tokens == 3).sum() > 12)
        return self.head(self.embedding(tokens) * (2 if many else 1))


class Largest(Model):
    def forward(self, tokens: Tensor) -> Tensor:
        scale = 1
        with contextlib.suppress(Exception):
            scale = 3 if int(tokens.max()) > 20 else 1
        return self.head(self.embedding(tokens) * scale)


class FirstItem(Model):
    def forward(self, tokens: Tensor) -> Tensor:
        first = tokens.max().item()
        with contextlib.suppress(Exception):
            if first > 16:
                return self.head(self.embedding(tokens) * 5)
        return self.head(self.embedding(tokens))


@pytest.mark.parametrize("kind", [AllAreNothing, CountsOne, Largest, FirstItem])
def test_an_error_of_the_trace_that_is_caught_is_refused_by_line(kind: type[Model]) -> None:
    with pytest.raises(CaptureError, match="catches an error that values, which a trace does not have") as refused:
        capture(kind(), max_length=32)
    assert "test_caught_errors.py" in str(refused.value)


class AsksWhatTorchCan(Model):
    def forward(self, tokens: Tensor) -> Tensor:
        try:
            x = torch.no_such_function(tokens)
        except AttributeError:
            x = self.embedding(tokens)
        try:
            x = nn.functional.linear(x, self.head.weight, bais=None)
        except TypeError:
            x = self.head(x)
        return x


def test_an_error_that_text_raises_too_may_be_caught() -> None:
    capture(AsksWhatTorchCan(), max_length=32)


class Squeezes(Model):
    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens)).squeeze()


def test_logits_that_lose_an_axis_for_one_row_are_refused() -> None:
    with pytest.raises(CaptureError, match=r"gives logits \[3, 17\] for 3 rows of 1 tokens, and \[3, 1, 17\] is expec"):
        capture(Squeezes(), max_length=32)
