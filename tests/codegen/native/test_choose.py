"""The greatest of each row by native kernels."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.codegen.native.lowerings import argmax, top_scores
from burnish.ir.fused_ops import fused_ops

ODD = (0.0, -0.0, torch.nan, torch.inf, -torch.inf, 1.0)


@settings(max_examples=80, deadline=None)
@given(rows=st.integers(1, 5), size=st.integers(1, 70), values=st.integers(1, 9), seed=st.integers(0, 1000))
def test_the_first_of_the_greatest(rows: int, size: int, values: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, values, (rows, size), generator=generator).float()
    if values == 9:
        x = torch.tensor(ODD)[x.long() % len(ODD)]
    expected = torch.where(
        x.isnan().any(-1),
        x.isnan().int().argmax(-1),
        x.nan_to_num(-torch.inf).eq(x.nan_to_num(-torch.inf).amax(-1, keepdim=True)).int().argmax(-1),
    )
    assert torch.equal(argmax(x, -1), expected)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.integers(1, 4),
    size=st.integers(1, 200),
    values=st.integers(1, 30),
    count=st.integers(1, 130),
    seed=st.integers(0, 1000),
)
def test_the_top(rows: int, size: int, values: int, count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(0, values, (1, rows, size), generator=generator).float()
    x = torch.tensor(ODD)[x.long() % len(ODD)] if values % 3 == 0 else x
    count = min(count, size)
    found, expected = top_scores(x, count), fused_ops.top_scores(x, count)
    assert torch.equal(found[..., 1, :], expected[..., 1, :])
    assert torch.equal(found[..., 0, :].view(torch.float32).isnan(), expected[..., 0, :].view(torch.float32).isnan())
    same = ~found[..., 0, :].view(torch.float32).isnan()
    assert torch.equal(found[..., 0, :][same], expected[..., 0, :][same])
