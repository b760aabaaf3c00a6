"""Masks that show what they are only far from the first token: right as far as the model goes, or refused by line."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import burnish
from burnish.ir.errors import NotCausalError
from tests.own_modules.masks import LATER, LENGTH, MASKED, VOCABULARY
from tests.own_modules.test_own_modules import close, in_pieces


@pytest.mark.parametrize("style", MASKED, ids=lambda style: style.__name__)
@torch.no_grad()
def test_a_mask_is_right_as_far_as_the_model_goes(style: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = style().eval()
    ids = torch.randint(VOCABULARY, (2, LENGTH))
    expected = model(ids[:, :240])
    with burnish.compile(model, max_length=LENGTH, verify=False) as compiled:  # which would see it, too
        close(compiled(ids[:, :240]), expected)
        close(in_pieces(compiled, ids[:, :240], [97, 1, 1, 22, 15, 60, 44]), expected)
        close(compiled(ids), model(ids))
        session = compiled.session(batch=2)
        session.append(ids[:, :200])
        session.rewind(118)
        close(session.append(ids[:, 118:], every=True), model(ids)[:, 118:])


@pytest.mark.parametrize("style", LATER, ids=lambda style: style.__name__)
def test_a_mask_that_shows_later_tokens_far_out_is_refused_by_line(style: type[nn.Module]) -> None:
    with pytest.raises(NotCausalError) as refusal:
        burnish.compile(style().eval(), max_length=LENGTH)
    assert "masks.py:" in str(refusal.value)
    assert "(weights @ v)" in str(refusal.value)
