"""What else a module's forward wants beside token ids, and modules that take tokens first."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

import burnish
from burnish.frontend.calling import call_of
from burnish.ir.errors import CaptureError, InvalidModelError
from tests.tolerances import assert_near

IDS = torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.places, self.head = nn.Embedding(20, 8), nn.Embedding(32, 8), nn.Linear(8, 20)


class WantsAMask(Small):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.embedding(input_ids)
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril() & attention_mask[:, None, :].bool()
        found: Tensor = self.head(x + (x @ x.mT).masked_fill(~seen, -torch.inf).softmax(-1) @ x)
        return found


class WantsPlaces(Small):
    def forward(self, input_ids: Tensor, position_ids: Tensor) -> Tensor:
        found: Tensor = self.head(self.embedding(input_ids) + self.places(position_ids))
        return found


class WantsTargets(Small):
    def forward(self, ids: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.head(self.embedding(ids)).flatten(0, 1), targets.flatten(), weight)


class Tutorial(Small):
    """PyTorch's: ids [sequence, batch], a mask as long as `len` says."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.register_buffer("table", torch.randn(32, 1, 8))

    def forward(self, src: Tensor, src_mask: Tensor | None = None) -> Tensor:
        x = self.embedding(src)
        x = x + self.table[: x.size(0)]
        if src_mask is None:
            src_mask = nn.Transformer.generate_square_subsequent_mask(len(src))
        found: Tensor = self.head(self.encoder(x, src_mask))
        return found


def test_masks_and_places_of_a_text_without_padding_are_bound(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "burnish"):
        masked, placed = WantsAMask().eval(), WantsPlaces().eval()
        with burnish.compile(masked, max_length=16) as compiled, torch.no_grad():
            assert_near(compiled(IDS), masked(IDS, torch.ones_like(IDS)))
        with burnish.compile(placed, max_length=16) as compiled, torch.no_grad():
            assert_near(compiled(IDS), placed(IDS, torch.arange(6)[None]))
    assert "attention_mask of WantsAMask.forward is given ones: no token is padding" in caplog.text
    assert "position_ids of WantsPlaces.forward is given 0, 1, 2, ..." in caplog.text


def test_others_are_refused_with_the_module_to_write() -> None:
    with pytest.raises(
        InvalidModelError, match=r"demands targets, weight beside.*(?s:.*)targets=\.\.\., weight=\.\.\."
    ):
        burnish.compile(WantsTargets(), max_length=16)


def test_what_has_a_default_is_left_to_it() -> None:
    assert call_of(Tutorial())(WantsPlaces().embedding, IDS).shape == (2, 6, 8)


def test_a_module_that_takes_tokens_first_is_called_so(caplog: pytest.LogCaptureFixture) -> None:
    module = Tutorial().eval()
    with burnish.compile(module, max_length=16) as compiled, torch.no_grad():
        assert_near(compiled(IDS), module(IDS.T).transpose(0, 1))
    assert "Tutorial takes tokens as [sequence, batch], and is called so" in caplog.text


class NeitherWay(Small):
    """What mixes no tokens does not say where they stand."""

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        found: Tensor = self.head(x * 2 if x.shape[1] > 10 else x)
        return found


class LastAxis(Small):
    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids)
        found: Tensor = self.head(x.cumsum(1) * 2 if x.shape[1] > 10 else x.cumsum(1))
        return found


@pytest.mark.parametrize("style", [NeitherWay, LastAxis])
def test_no_other_module_is_called_with_tokens_first(style: type[nn.Module]) -> None:
    with pytest.raises(CaptureError, match="branches on the number of tokens"):
        burnish.compile(style(), max_length=16)
