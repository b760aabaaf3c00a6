"""Tables of positions (`burnish.ir.position_table`) as numpy makes their rows, for what runs without PyTorch.

Of elementwise functions that are no arithmetic the values are those of float64, rounded: PyTorch's may differ in the
last bit. Formulas of other operations or types than stand here are PyTorch's to make.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from burnish.ir.body import Group, given, parse_body
from burnish.ir.dtypes import SHORT
from burnish.ir.parse_line import Reader

if TYPE_CHECKING:  # it takes numpy a while
    from numpy.typing import NDArray

MOST_STEPS = 64
MOST_TEXT = 2**16
MOST_A_ROW = 2**20  # elements, of any value in between
MOST_BYTES = 2**34  # of a whole table: 16 times what a million positions take
BLOCK = 2**18  # elements that are made at a time

Array: TypeAlias = "NDArray[Any]"


class NotByNumpy(Exception):
    """A formula that is PyTorch's to make, or to refuse."""


class ArrayTable:
    """A table [rows, ...] whose row p is what `body` makes of p and of `vectors`."""

    def __init__(self, rows: int, body: str, vectors: Sequence[Array]) -> None:
        """Nothing is computed of the vectors yet. Raises NotByNumpy."""
        if len(body) > MOST_TEXT:
            raise NotByNumpy("it is too long")
        self._group = parse_body(body, _OPS, _Reader)
        self._vectors = tuple(vectors)
        if len(self._group.steps) > MOST_STEPS or len(self._group.results) != 1:
            raise NotByNumpy("it has too many lines, or results")
        zeros = [np.zeros_like(vector) for vector in vectors]
        two, three = (_made(self._group, np.arange(count), zeros) for count in (2, 3))
        if two.shape[:1] != (2,) or three.shape != (3, *two.shape[1:]):
            raise NotByNumpy("it does not give one row for each position")
        self.rows = rows
        self.row: tuple[int, ...] = two.shape[1:]
        self.dtype: np.dtype[Any] = two.dtype
        if rows < 1 or self.nbytes_of(rows) > MOST_BYTES:
            raise NotByNumpy("it is too large")

    def nbytes_of(self, count: int) -> int:
        """Bytes of so many rows."""
        return count * math.prod(self.row) * self.dtype.itemsize

    def first(self, count: int) -> Array:
        """The first rows [count, ...], at most all, a few made at a time."""
        found = np.empty((count, *self.row), self.dtype)
        step = max(1, BLOCK // max(1, math.prod(self.row)))
        for start in range(0, count, step):
            end = min(start + step, count)
            found[start:end] = _made(self._group, np.arange(start, end), self._vectors)
        return found


def _made(group: Group, positions: Array, vectors: Sequence[Array]) -> Array:
    """The rows at these positions, no value in between of more elements than there may be."""
    rows = len(positions)
    values = given(group, (positions, *vectors), (rows,))
    for step in group.steps:
        args, kwargs = step.arguments(values.__getitem__)
        arrays = [each for each in _leaves(args) if isinstance(each, np.ndarray)]
        try:
            _check(step.target.elements(arrays), rows)
            made = step.target.function(*args, **kwargs)
        except (TypeError, ValueError, IndexError, AttributeError, ArithmeticError) as error:  # for what does not fit
            raise NotByNumpy(str(error)) from error
        if not isinstance(made, np.ndarray):
            raise NotByNumpy(f"{step.name} is no array")
        _check(math.prod(made.shape), rows)
        values[step.name] = made
    found = values[group.results[0]]
    assert isinstance(found, np.ndarray)
    return found


def _leaves(values: Sequence[Any]) -> Iterator[Any]:
    for each in values:
        if isinstance(each, list):
            yield from _leaves(each)
        else:
            yield each


def _check(elements: int, rows: int) -> None:
    if elements > rows * MOST_A_ROW:
        raise NotByNumpy(f"{elements} elements for {rows} rows")


class _Reader(Reader):
    def constant(self, word: str) -> Any:
        """A dtype as numpy has it; what else may stand there changes no values."""
        name = _LONG.get(word, word)
        if name in _DTYPES:
            return np.dtype(name)
        if word == "device(type='cpu')" or word.startswith("torch."):
            return word
        raise NotByNumpy(f"numpy has no {word}")


_LONG = {short: name for name, short in SHORT.items()}
_DTYPES = {"float64", "float32", "float16", "int64", "int32", "bool", "complex64"}


# ---------------------------------------------------------------- operations, with PyTorch's names and types of results


class _Op:
    """A function, and how many elements it makes of arrays, before it does."""

    def __init__(self, function: Callable[..., Any], elements: Callable[[list[Array]], int]) -> None:
        self.function = function
        self.elements = elements


def _of_broadcast(arrays: list[Array]) -> int:
    try:
        return math.prod(np.broadcast_shapes(*(each.shape for each in arrays)))
    except ValueError as error:
        raise NotByNumpy(str(error)) from error


def _of_all(arrays: list[Array]) -> int:
    return sum(each.size for each in arrays)


def _of_none(arrays: list[Array]) -> int:
    return 0


def _common(*values: Any) -> list[Array]:
    """Values in one dtype: that of arrays, integers as the floats beside them. Of numbers only the kind counts."""
    arrays = [each for each in values if isinstance(each, np.ndarray)]
    if any(each.ndim == 0 for each in arrays) and len({each.dtype for each in arrays}) > 1:
        raise NotByNumpy("arrays of no axis count as numbers")
    floats = [each.dtype for each in arrays if each.dtype.kind in "fc"]
    dtype = np.result_type(*(floats or [each.dtype for each in arrays]))
    numbers = [each for each in values if not isinstance(each, np.ndarray)]
    if any(not isinstance(each, int | float) for each in numbers):
        raise NotByNumpy("an operand is no number")
    if dtype.kind in "bi" and any(isinstance(each, float) for each in numbers):
        dtype = np.dtype("float32")
    elif dtype.kind == "b" and any(not isinstance(each, bool) for each in numbers):
        dtype = np.dtype("int64")
    return [np.asarray(each, dtype) for each in values]


def _floats(*values: Any) -> list[Array]:
    """`_common`, integers as float32."""
    found = _common(*values)
    if found[0].dtype.kind == "c":
        raise NotByNumpy("complex numbers")
    return found if found[0].dtype.kind == "f" else [each.astype(np.float32) for each in found]


def _rounded(function: Callable[..., Array]) -> Callable[..., Array]:
    """Of floats, in float64."""

    def made(*values: Any) -> Array:
        operands = _floats(*values)
        with np.errstate(all="ignore"):
            return function(*(each.astype(np.float64) for each in operands)).astype(operands[0].dtype)

    return made


def _of_floats(function: Callable[..., Array]) -> Callable[..., Array]:
    """Of integers it would be another one."""

    def made(values: Array, *rest: Any) -> Array:
        if values.dtype.kind != "f":
            raise NotByNumpy("integers")
        return function(values, *rest)

    return made


def _pairwise(function: Callable[..., Array]) -> Callable[..., Array]:
    def made(one: Any, other: Any) -> Array:
        return function(*_common(one, other))

    return made


def _divided(one: Any, other: Any) -> Array:
    first, second = _floats(one, other)
    with np.errstate(all="ignore"):
        return np.asarray(first / second)


def _cast(values: Array, dtype: np.dtype[Any] | None = None, **unused: Any) -> Array:
    return values.copy() if dtype is None else values.astype(dtype)


def _cast_to(values: Array, dtype: np.dtype[Any]) -> Array:
    return values.astype(dtype)


def _expanded(values: Array, sizes: Sequence[int]) -> Array:
    shape = [*[1] * (len(sizes) - values.ndim), *values.shape]
    return np.broadcast_to(values, [there if size == -1 else size for size, there in zip(sizes, shape, strict=True)])


def _sliced(values: Array, axis: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Array:
    if step < 1:
        raise NotByNumpy("a step back")
    return values[(slice(None),) * (axis % values.ndim) + (slice(start, end, step),)]


def _polar(size: Any, angle: Any) -> Array:
    """As PyTorch: float32 alone."""
    first, second = _floats(size, angle)
    if first.dtype != np.float32:
        raise NotByNumpy("polar of other floats")
    wide, turned = first.astype(np.float64), second.astype(np.float64)
    return (wide * np.cos(turned) + 1j * (wide * np.sin(turned))).astype(np.complex64)


def _real(values: Array) -> Array:
    if values.dtype != np.complex64:
        raise NotByNumpy("real parts of no complex numbers")
    return np.stack((values.real, values.imag), -1)


_BY_ELEMENT: dict[str, Callable[..., Array]] = {
    **{f"aten.add.{each}": _pairwise(np.add) for each in ("Tensor", "Scalar")},
    **{f"aten.sub.{each}": _pairwise(np.subtract) for each in ("Tensor", "Scalar")},
    **{f"aten.mul.{each}": _pairwise(np.multiply) for each in ("Tensor", "Scalar")},
    **{f"aten.div.{each}": _divided for each in ("Tensor", "Scalar")},
    "aten.maximum": _pairwise(np.maximum),
    "aten.minimum": _pairwise(np.minimum),
    "aten.neg": np.negative,
    "aten.abs": np.abs,
    "aten.reciprocal": lambda values: _divided(1, values),
    "aten.pow.Tensor_Scalar": _of_floats(_rounded(np.power)),
    **{f"aten.{each}": _of_floats(getattr(np, each)) for each in ("floor", "ceil")},
    **{f"aten.{each}": _rounded(getattr(np, each)) for each in ("cos", "sin", "exp", "expm1", "log", "log1p", "sqrt")},
    "aten.rsqrt": _rounded(lambda values: 1 / np.sqrt(values)),
    **{
        f"aten.{name}.{each}": _pairwise(function)
        for name, function in {
            "lt": np.less,
            "le": np.less_equal,
            "gt": np.greater,
            "ge": np.greater_equal,
            "eq": np.equal,
            "ne": np.not_equal,
        }.items()
        for each in ("Tensor", "Scalar")
    },
    "aten.where.self": lambda condition, one, other: np.where(condition, *_common(one, other)),
    "aten._to_copy": _cast,
    "aten.to.dtype": _cast_to,
    "aten.clone": np.copy,
    "aten.contiguous": np.copy,
    "aten.polar": _polar,
}
_VIEWS: dict[str, Callable[..., Array]] = {
    "aten.expand": _expanded,
    "aten.permute": np.transpose,
    "aten.reshape": np.reshape,
    "aten.view": np.reshape,
    "aten.select.int": lambda values, axis, index: values[(slice(None),) * (axis % values.ndim) + (index,)],
    "aten.slice.Tensor": _sliced,
    "aten.squeeze.dim": lambda values, axis: np.squeeze(values, axis) if values.shape[axis] == 1 else values,
    "aten.transpose.int": np.swapaxes,
    "aten.unsqueeze": np.expand_dims,
}
_OPS = {
    **{name: _Op(function, _of_broadcast) for name, function in _BY_ELEMENT.items()},
    **{name: _Op(function, _of_none) for name, function in _VIEWS.items()},
    "aten.cat": _Op(lambda arrays, axis=0: np.concatenate(_common(*arrays), axis), _of_all),
    "aten.view_as_real": _Op(_real, lambda arrays: 2 * _of_all(arrays)),
}
