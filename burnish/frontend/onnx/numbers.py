"""Small tensors of which the elements are known while a graph is traced: sizes of axes, and what is computed of them.

They are arrays of numpy. With elements that are symbolic sizes these are arrays of Python objects, on which numpy does
the arithmetic of shapes as it does on numbers, so that one implementation serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.fx.experimental.symbolic_shapes import statically_known_true

from burnish.frontend.onnx.dtypes import numpy_dtype, to_torch

MOST = 1024  # elements of an array of numbers: more are a tensor
Array = np.ndarray[Any, Any]
_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


@dataclass(frozen=True, eq=False)
class Numbers:
    """A small tensor with known elements."""

    array: Array
    dtype: torch.dtype
    stored: torch.Tensor | None = None  # the same as a weight of the module

    @property
    def is_symbolic(self) -> bool:
        """Whether some of the elements are symbolic sizes."""
        return bool(self.array.dtype == object)

    @property
    def list(self) -> list[Any]:
        """Its elements in order, as Python numbers and symbolic sizes."""
        found: list[Any] = self.array.reshape(-1).tolist()
        return found

    def tensor(self) -> torch.Tensor:
        """The same as a tensor."""
        if self.stored is not None:
            return self.stored
        if not self.is_symbolic:
            return to_torch(np.ascontiguousarray(self.array), self.dtype).clone().reshape(self.array.shape)
        parts = [torch.full((), each, dtype=self.dtype) for each in self.list]
        return torch.stack(parts).reshape(self.array.shape) if self.array.shape else parts[0]


def of_list(elements: Iterable[Any], dtype: torch.dtype = torch.int64) -> Numbers:
    """Numbers of one axis."""
    items = list(elements)
    return of_array(_objects(items, (len(items),)), dtype)


def of_scalar(element: Any, dtype: torch.dtype = torch.int64) -> Numbers:
    """A number of no axes."""
    return of_array(_objects([element], ()), dtype)


def of_array(array: Array, dtype: torch.dtype) -> Numbers:
    """Numbers of an array whose elements may be symbolic; if none is, an array of `dtype`."""
    array = np.asarray(array)
    if array.dtype == object and any(isinstance(each, _SYMBOLS) for each in array.reshape(-1)):
        return Numbers(array, dtype)
    return Numbers(array.astype(numpy_dtype(dtype)), dtype)


def _objects(items: Sequence[Any], shape: tuple[int, ...]) -> Array:
    array = np.empty(len(items), dtype=object)
    for index, item in enumerate(items):
        array[index] = item
    return array.reshape(shape)


def each(function: Callable[..., Any], *arrays: Array) -> Array:
    """`function` of corresponding elements, broadcast."""
    wide = np.broadcast_arrays(*arrays)
    flat = [array.reshape(-1) for array in wide]
    found = [function(*(_plain(item) for item in items)) for items in zip(*flat, strict=True)]
    return _objects(found, wide[0].shape)


def _plain(item: Any) -> Any:
    return item.item() if isinstance(item, np.generic) else item


# ---------------------------------------------------------------- arithmetic of symbolic elements


def equal(a: Any, b: Any) -> Any:
    """Whether two sizes are one, decided without a guard where that can be."""
    if not isinstance(a, _SYMBOLS) and not isinstance(b, _SYMBOLS):
        return a == b
    if statically_known_true(a == b):
        return True
    if statically_known_true(a != b):
        return False
    return a == b


def compare(name: str) -> Callable[[Any, Any], Any]:
    """An order of sizes, decided without a guard where that can be."""
    opposite = {"lt": "ge", "ge": "lt", "gt": "le", "le": "gt"}[name]

    def decide(a: Any, b: Any) -> Any:
        found = _order(name, a, b)
        if not isinstance(found, torch.SymBool):
            return found
        if statically_known_true(found):
            return True
        if statically_known_true(_order(opposite, a, b)):
            return False
        return found

    return decide


def _order(name: str, a: Any, b: Any) -> Any:
    if name == "lt":
        return a < b
    if name == "le":
        return a <= b
    return a > b if name == "gt" else a >= b


def choose(condition: Any, a: Any, b: Any) -> Any:
    """`a` or `b`."""
    if isinstance(condition, torch.SymBool):
        return torch.sym_ite(condition, a, b)  # type: ignore[no-untyped-call]
    return a if condition else b


def least(a: Any, b: Any) -> Any:
    """The smaller of two."""
    return torch.sym_min(a, b)  # type: ignore[no-untyped-call]


def greatest(a: Any, b: Any) -> Any:
    """The greater of two."""
    return torch.sym_max(a, b)  # type: ignore[no-untyped-call]


def whole(item: Any) -> Any:
    """A number without its fraction."""
    if isinstance(item, torch.SymInt):
        return item
    return torch.sym_int(item) if isinstance(item, torch.SymFloat) else int(item)  # type: ignore[no-untyped-call]


def quotient(a: Any, b: Any) -> Any:
    """Division of integers towards zero, which for sizes is the one that rounds down."""
    if isinstance(a, _SYMBOLS) or isinstance(b, _SYMBOLS):
        if statically_known_true(a >= 0) and statically_known_true(b > 0):
            return a // b
        # Rounded down, and up by one where the exact quotient is negative and not whole.
        down = a // b
        return choose(compare("lt")(a * b, 0), -((-a) // b), down)
    found = abs(a) // abs(b)
    return found if (a < 0) == (b < 0) else -found
