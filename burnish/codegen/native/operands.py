"""Operands as kernels read them: weights in panels, rows with one stride, and floats."""

from __future__ import annotations

from collections.abc import MutableMapping

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.weak import WeakIdKeyDictionary

from burnish.ir.errors import UnsupportedError
from burnish.ir.panels import unpacked_shape

_PANELS: MutableMapping[Tensor, tuple[Tensor, str]] = WeakIdKeyDictionary()  # of a fake weight, and their format


def from_panels(
    panels: Tensor, form: str, rows: int, size: int, head: int = 0, pairs: bool = False, experts: int = 0
) -> Tensor:
    """A weight, of which kernels read the panels: nothing is launched.

    It has no memory that a plan knows: what would read it in another way than by its panels cannot be planned.
    """
    shape = unpacked_shape(rows, size, experts)
    if isinstance(panels, FakeTensor):
        with _disable_current_modes(), panels.fake_mode:
            weight = torch.empty(shape)
    else:
        weight = panels.new_empty(shape, dtype=torch.float32)
    _PANELS[weight] = (panels, form)
    return weight


def packed(weight: Tensor) -> tuple[Tensor, str] | None:
    """The panels of a weight and their format; None if it is in none."""
    return _PANELS.get(weight, None)


def panels_of(weight: Tensor) -> tuple[Tensor, str]:
    """The panels of a weight. Raises UnsupportedError where it has none."""
    found = packed(weight)
    if found is None:
        raise UnsupportedError("its weight is no stored one: the kernel reads panels, which are packed ahead")
    return found


def need_places(*tensors: Tensor) -> None:
    """Raise UnsupportedError unless all are of int64."""
    for each in tensors:
        if each.dtype != torch.int64:
            raise UnsupportedError(f"the kernel takes places in int64, not {each.dtype}")


def need_floats(*tensors: Tensor | None) -> None:
    """Raise UnsupportedError unless all are of float32."""
    for each in tensors:
        if each is not None and each.dtype != torch.float32:
            raise UnsupportedError(f"the kernel computes in float32, and an operand is {each.dtype}")
