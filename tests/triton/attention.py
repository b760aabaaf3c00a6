"""Attentions to try kernels on: drawn arguments, and the truth in float64."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from burnish.ir.ops import burnish_ops

TOLERANCE = {torch.float32: 2e-5, torch.float16: 4e-3}
MASKS = [("causal", 0), ("none", 0), ("window", 1), ("window", 7), ("window", 40), ("chunk", 8), ("chunk", 33)]


@st.composite
def attentions(
    draw: st.DrawFn, tokens: st.SearchStrategy[int], sizes: list[tuple[int, int]], dtype: torch.dtype
) -> dict[str, Any]:
    """Arguments of `burnish::attention`, by name."""
    torch.manual_seed(draw(st.integers(0, 1000)))
    batch, kv_heads, groups = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 9))
    key_size, value_size = draw(st.sampled_from(sizes))
    count = draw(tokens)
    capacity = count + draw(st.integers(0, 70))
    mask, extent = draw(st.sampled_from(MASKS))
    heads = kv_heads * groups
    return {
        "query": torch.randn(batch, heads, count, key_size, dtype=dtype),
        "key": torch.randn(batch, kv_heads, capacity, key_size, dtype=dtype),
        "value": torch.randn(batch, kv_heads, capacity, value_size, dtype=dtype),
        "position": torch.tensor([draw(st.integers(0, capacity - count)) for _ in range(batch)]),
        "sinks": torch.randn(heads, dtype=dtype) if draw(st.booleans()) else None,
        "slopes": torch.rand(heads) if draw(st.booleans()) else None,
        "scale": key_size**-0.5,
        "mask": mask,
        "extent": extent,
        "softcap": draw(st.sampled_from([0.0, 2.0])),
    }


def truth(arguments: dict[str, Any]) -> Tensor:
    """`burnish::attention` in float64."""
    wide = {
        name: each.double() if isinstance(each, Tensor) and each.is_floating_point() else each
        for name, each in arguments.items()
    }
    return burnish_ops.attention(**wide)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """Alike as far as the dtype of the result allows."""
    tolerance = TOLERANCE[found.dtype]
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)
