"""Operands of any strides, as the kernels of strided.h take them: sizes and strides of six axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from burnish.ir.errors import UnsupportedError
from burnish.ir.shapes import Size, same_size

AXES = 6  # AXES of strided.h

aten = torch.ops.aten


def strides_in(x: Tensor, shape: Sequence[Size]) -> list[Size]:
    """The strides of `x` where it is read as if it had `shape`: 0 along what it is repeated over."""
    lead = len(shape) - x.dim()
    strides: list[Size] = [0] * lead
    for axis, (size, wanted) in enumerate(zip(x.shape, shape[lead:], strict=True)):
        if not (same_size(size, wanted) or statically_known_true(size == wanted)):
            if not statically_known_true(size == 1):
                raise UnsupportedError(f"sizes {size} and {wanted} need not be the same, and the kernel has to know")
            strides.append(0)
        else:
            strides.append(x.stride(axis))
    return strides


def six(name: str, values: Sequence[Size], missing: int) -> dict[str, Any]:
    """Six slots of these names, the first ones `missing` where there are fewer values."""
    if len(values) > AXES:
        raise UnsupportedError(f"the kernel goes over {AXES} axes, and there are {len(values)}")
    filled = [missing] * (AXES - len(values)) + list(values)
    return {f"{name}_{axis}": value for axis, value in enumerate(filled)}


def space(shape: Sequence[Size], **operands: Tensor | None) -> dict[str, Any]:
    """The slots for sizes, and for the strides of operands in them, by their names."""
    slots = six("size", shape, 1)
    for name, x in operands.items():
        slots |= six(f"{name}_stride", [] if x is None else strides_in(x, shape), 0)
    return slots


def result_of(target: Any, args: Any, kwargs: Any) -> Any:
    """What the op gives, on fake tensors: its type and strides; an operand itself, where that is what it gives."""
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    modes = [each.fake_mode for each in given if isinstance(each, FakeTensor)]
    with _disable_current_modes():
        mode = modes[0] if modes else FakeTensorMode()
        with enable_python_dispatcher(), mode:
            known: dict[int, Tensor] = {}
            for each in given:
                known[id(each)] = each if isinstance(each, FakeTensor) else mode.from_tensor(each)
            args, kwargs = tree_map_only(Tensor, lambda each: known[id(each)], (args, kwargs))
            found = target(*args, **kwargs)
    for each in given:
        if found.untyped_storage()._cdata == known[id(each)].untyped_storage()._cdata:
            return each
    return found


def empty_like(given: Tensor, found: Tensor) -> Tensor:
    """Memory for a result of the type and strides of `found`, beside `given`."""
    return given.new_empty_strided(tuple(found.shape), tuple(found.stride()), dtype=found.dtype)


def with_dense_rows(x: Tensor) -> Tensor:
    """x, copied unless the elements of its last axis lie side by side."""
    dense = statically_known_true(x.stride(-1) == 1) or statically_known_true(x.shape[-1] == 1)
    return x if dense else x.contiguous()


def rows_like(x: Tensor) -> Tensor:
    """Memory for a result of the shape of x, in its order, but that the elements of the last axis lie side by side."""
    found = result_of(aten.empty_like.default, (x,), {})
    if statically_known_true(found.stride(-1) == 1):
        return empty_like(x, found)
    return x.new_empty(x.shape)  # of rows that repeat, PyTorch takes another axis for the innermost
