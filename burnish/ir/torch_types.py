"""PyTorch's types, for what can do without: it imports them from here, when it is asked for them, or to be typed."""

from __future__ import annotations

from typing import TypeAlias

import torch

Tensor: TypeAlias = torch.Tensor
Dtype: TypeAlias = torch.dtype


def torch_dtype(name: str) -> Dtype:
    """PyTorch's dtype of that name, one of `burnish.ir.dtypes.BYTES`."""
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found
