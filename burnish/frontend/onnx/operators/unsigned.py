"""Unsigned integers of 16 to 64 bits, which torch stores and hardly computes with.

They are computed with as the next wider signed integers; the widest ones as int64, of which sums, differences and
products have the right bits, and what depends on the sign is corrected.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
_LEAST = -(2**63)


def is_unsigned(x: Tensor) -> bool:
    """Whether torch has few operations for the type."""
    return x.dtype in _WIDER


def widened(x: Tensor) -> Tensor:
    """A tensor that torch computes with: of the same values, or for the widest of the same bits."""
    if x.dtype not in _WIDER:
        return x
    return x.view(torch.int64) if x.dtype is torch.uint64 else x.to(_WIDER[x.dtype])


def narrowed(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What `widened` made, back."""
    if dtype not in _WIDER or x.dtype is dtype:
        return x
    return x.view(dtype) if dtype is torch.uint64 else x.to(dtype)


def through_wider(function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """A function of integers that does not look at signs."""
    dtype = operands[0].dtype
    if dtype not in _WIDER:
        return function(*operands)
    return narrowed(function(*(widened(each) for each in operands)), dtype)


def ordered(x: Tensor) -> Tensor:
    """A tensor in the same order as `x`, of a type that torch compares."""
    return widened(x) ^ _LEAST if x.dtype is torch.uint64 else widened(x)


def from_ordered(x: Tensor, dtype: torch.dtype) -> Tensor:
    """What `ordered` made, back."""
    return narrowed(x ^ _LEAST if dtype is torch.uint64 else x, dtype)


def in_order(function: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    """A function that chooses among the elements of integers by their order."""
    dtype = operands[0].dtype
    if dtype not in _WIDER:
        return function(*operands)
    return from_ordered(function(*(ordered(each) for each in operands)), dtype)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Division of integers towards zero."""
    if a.dtype is not torch.uint64:
        return through_wider(lambda x, y: torch.div(x, y, rounding_mode="trunc"), a, b)
    return narrowed(_quotient(widened(a), widened(b)), a.dtype)


def remainder(a: Tensor, b: Tensor) -> Tensor:
    """The remainder of integers, of the sign of the divisor."""
    if a.dtype is not torch.uint64:
        return through_wider(torch.remainder, a, b)
    x, y = widened(a), widened(b)
    return narrowed(x - _quotient(x, y) * y, a.dtype)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    """a / b of the unsigned integers that have the bits of `a` and `b`."""
    big = b < 0  # 2^63 or more: the quotient is 0 or 1
    divisor = torch.where(big, 1, b)
    half = (a >> 1) & 0x7FFFFFFFFFFFFFFF
    found = torch.div(half, divisor, rounding_mode="trunc") << 1
    found = found + ((a - found * divisor) ^ _LEAST >= (divisor ^ _LEAST)).to(torch.int64)
    return torch.where(big, ((a ^ _LEAST) >= (b ^ _LEAST)).to(torch.int64), found)
