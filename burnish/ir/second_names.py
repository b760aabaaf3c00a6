"""ATen's second names for its own ops, kept by export where the user wrote them: the first name of each."""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

VIEWS = frozenset({aten.view.default, aten._unsafe_view.default})
"""Views that are only valid on some layouts of memory, of which a graph says nothing; a reshape is the same on all."""

_NAMES = {
    "absolute": "abs",
    "clip": "clamp",
    "concat": "cat",
    "concatenate": "cat",
    "divide": "div",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "special_erf": "erf",
    "special_expit": "sigmoid",
    "subtract": "sub",
    "true_divide": "div",
}

FIRST_NAMES: dict[Any, Any] = (
    {
        aten.__and__.Tensor: aten.bitwise_and.Tensor,
        aten.__or__.Tensor: aten.bitwise_or.Tensor,
        aten.__xor__.Tensor: aten.bitwise_xor.Tensor,
        aten.__and__.Scalar: aten.bitwise_and.Scalar,
        aten.__or__.Scalar: aten.bitwise_or.Scalar,
        aten.__xor__.Scalar: aten.bitwise_xor.Scalar,
        aten.__lshift__.Tensor: aten.bitwise_left_shift.Tensor,
        aten.__rshift__.Tensor: aten.bitwise_right_shift.Tensor,
        aten.__lshift__.Scalar: aten.bitwise_left_shift.Tensor_Scalar,
        aten.__rshift__.Scalar: aten.bitwise_right_shift.Tensor_Scalar,
        aten._unsafe_index.Tensor: aten.index.Tensor,
    }
    | {
        getattr(getattr(aten, second), overload): getattr(getattr(aten, first), overload)
        for second, first in _NAMES.items()
        for overload in getattr(aten, second).overloads()
        if "out" not in overload
    }
    | dict.fromkeys(VIEWS, aten.reshape.default)
)
"""The op of the same arguments and the same value, by the second name."""
