"""Operators on numbers that are known while tracing: the arithmetic of shapes.

Each gives None where its operands or attributes are not such that this is worth it; then the operands become tensors.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from burnish.frontend.onnx import numbers as n
from burnish.frontend.onnx.call import Call
from burnish.frontend.onnx.dtypes import NARROW_BITS, torch_dtype
from burnish.frontend.onnx.numbers import MOST, Array, Numbers, of_array

Folded = Numbers | list[Numbers] | None
Known = Callable[[Call, list[Numbers]], Folded]
_PLAIN = (
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
)


def fold(c: Call, operands: list[Numbers]) -> Folded:
    """What a call gives as numbers, if it can."""
    function = TABLE.get(c.step.operator) if c.step.domain == "" else None
    if function is None or any(each.dtype not in _PLAIN for each in operands):
        return None
    return function(c, operands)


def _binary(plain: Callable[..., Any], symbolic: Callable[..., Any], result: torch.dtype | None = None) -> Known:
    def run(c: Call, operands: list[Numbers]) -> Numbers | None:
        if c.version < 7 or math.prod(np.broadcast_shapes(*(each.array.shape for each in operands))) > MOST:
            return None
        arrays = [each.array for each in operands]
        function = symbolic if any(each.is_symbolic for each in operands) else plain
        found = arrays[0]
        for array in arrays[1:]:
            found = n.each(function, found, array) if function is symbolic else function(found, array)
        return of_array(found, result or operands[0].dtype)

    return run


def _divide(c: Call, operands: list[Numbers]) -> Folded:
    if any(each.is_symbolic for each in operands):
        whole = not operands[0].dtype.is_floating_point
        return _binary(np.divide, n.quotient if whole else operator.truediv)(c, operands)
    a, b = operands
    if a.dtype.is_floating_point:
        return of_array(np.divide(a.array, b.array), a.dtype)
    if (b.array == 0).any():
        raise c.invalid("an integer is divided by zero")
    return of_array(n.each(n.quotient, a.array, b.array), a.dtype)


def _modulo(c: Call, operands: list[Numbers]) -> Folded:
    if c.flag("fmod"):
        return None
    if not operands[1].is_symbolic and (operands[1].array == 0).any():
        raise c.invalid("an integer is divided by zero")
    return _binary(np.mod, operator.mod)(c, operands)


def _unary(plain: Callable[..., Any], symbolic: Callable[..., Any] | None = None) -> Known:
    def run(c: Call, operands: list[Numbers]) -> Numbers | None:
        (x,) = operands
        if x.is_symbolic:
            return of_array(n.each(symbolic, x.array), x.dtype) if symbolic else None
        return of_array(plain(x.array), x.dtype) if x.dtype.is_floating_point or symbolic else None

    return run


def _not(c: Call, operands: list[Numbers]) -> Numbers:
    (x,) = operands
    return of_array(n.each(torch.sym_not, x.array), torch.bool)


def _where(c: Call, operands: list[Numbers]) -> Numbers:
    condition, a, b = operands
    return of_array(n.each(n.choose, condition.array, a.array, b.array), a.dtype)


def _cast(c: Call, operands: list[Numbers]) -> Numbers | None:
    to = operands[1].dtype if c.step.operator == "CastLike" else torch_dtype(c.required("to"), c.step.label)
    x = operands[0]
    narrow = c.step.operator == "Cast" and c.integer("to", 1) in [int(kind) for kind in NARROW_BITS]
    if to not in _PLAIN or narrow or (to.itemsize < 4 and to is not torch.bool):
        return None
    if not x.is_symbolic:
        if to is torch.bool:
            return of_array(x.array != 0, to)
        if x.dtype.is_floating_point and not to.is_floating_point and not np.isfinite(x.array).all():
            return None
        return of_array(x.array, to)
    if to.is_floating_point:
        return of_array(n.each(torch.sym_float, x.array), to)
    if to is torch.bool:
        return of_array(n.each(lambda item: n.choose(n.equal(item, 0), False, True), x.array), to)
    if x.dtype is torch.bool:
        return of_array(n.each(lambda item: n.choose(item, 1, 0), x.array), to)
    return of_array(n.each(n.whole, x.array), to)


def _axis(c: Call, rank: int, default: int = 0) -> int:
    axis = c.integer("axis", default)
    if not -rank <= axis < max(rank, 1):
        raise c.invalid(f"the axis {axis} of a tensor of {rank} axes")
    return axis


def _gather(c: Call, operands: list[Numbers]) -> Numbers | None:
    data, indices = operands
    if indices.is_symbolic:
        return None
    axis = _axis(c, data.array.ndim)
    size = data.array.shape[axis]
    if indices.array.size and not (-size <= indices.array.min() and indices.array.max() < size):
        raise c.invalid(f"an index is outside of an axis of {size} elements")
    return of_array(np.take(data.array, indices.array, axis=axis), data.dtype)


def _concat(c: Call, operands: list[Numbers]) -> Numbers | None:
    if sum(each.array.size for each in operands) > MOST:
        return None
    axis = _axis(c, operands[0].array.ndim)
    arrays = [each.array.astype(object) for each in operands]
    return of_array(np.concatenate(arrays, axis=axis), operands[0].dtype)


def _unsqueeze(c: Call, operands: list[Numbers]) -> Numbers | None:
    axes = c.axes(1)
    x = operands[0]
    return None if axes is None else of_array(np.expand_dims(x.array, tuple(axes)), x.dtype)


def _squeeze(c: Call, operands: list[Numbers]) -> Numbers:
    axes = c.axes(1)
    x = operands[0]
    return of_array(np.squeeze(x.array, None if axes is None else tuple(axes)), x.dtype)


def _reshape(c: Call, operands: list[Numbers]) -> Numbers | None:
    x, shape = operands
    if shape.is_symbolic:
        return None
    zero = c.flag("allowzero")
    sizes = [x.array.shape[i] if size == 0 and not zero else size for i, size in enumerate(shape.list)]
    return of_array(x.array.reshape(sizes), x.dtype)


def _flatten(c: Call, operands: list[Numbers]) -> Numbers:
    x = operands[0]
    axis = c.integer("axis", 1)
    axis = axis + x.array.ndim if axis < 0 else axis
    return of_array(x.array.reshape(math.prod(x.array.shape[:axis]), -1), x.dtype)


def _identity(c: Call, operands: list[Numbers]) -> Numbers:
    return operands[0]


def _slice(c: Call, operands: list[Numbers]) -> Numbers | None:
    data = operands[0].array
    if c.version < 10:
        starts, ends, axes, steps = c.integers("starts"), c.integers("ends"), c.integers("axes"), None
    else:
        if any(each.is_symbolic for each in operands[1:]):
            return None
        starts, ends = operands[1].list, operands[2].list
        axes = operands[3].list if c.has(3) else None
        steps = operands[-1].list if c.has(4) else None
    if starts is None or ends is None:
        raise c.invalid("where the slice starts and ends is missing")
    places: list[slice] = [slice(None)] * data.ndim
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        step = steps[i] if steps else 1
        axis = axes[i] if axes else i
        if step == 0:
            raise c.invalid("a slice has the step 0")
        # What ends before the first element, going back, has no number of its own in Python.
        size = data.shape[axis]
        stop = None if step < 0 and (end < -size) else end
        places[axis] = slice(start, stop, step)
    return of_array(data[tuple(places)], operands[0].dtype)


def _expand(c: Call, operands: list[Numbers]) -> Numbers | None:
    x, shape = operands
    if shape.is_symbolic:
        return None
    sizes = np.broadcast_shapes(x.array.shape, tuple(shape.list))
    return of_array(np.broadcast_to(x.array, sizes), x.dtype) if math.prod(sizes) <= MOST else None


def _range(c: Call, operands: list[Numbers]) -> Numbers | None:
    if any(each.is_symbolic for each in operands):
        return None
    start, limit, delta = (each.list[0] for each in operands)
    if delta == 0:
        raise c.invalid("a range has the step 0")
    count = max(math.ceil((limit - start) / delta), 0)
    if count > MOST or operands[0].dtype.is_floating_point:
        return None
    return of_array(start + np.arange(count) * delta, operands[0].dtype)


def _constant_of_shape(c: Call, operands: list[Numbers]) -> Numbers | None:
    shape = operands[0]
    value = c.step.attributes.get("value")
    if shape.is_symbolic or math.prod(shape.list) > MOST or any(size < 0 for size in shape.list):
        return None
    if value is None:
        return of_array(np.zeros(shape.list, np.float32), torch.float32)
    return of_array(np.full(shape.list, value.array.reshape(-1)[0]), value.dtype)


def _shape(c: Call, operands: list[Numbers]) -> Numbers:
    sizes = operands[0].array.shape
    return n.of_list(sizes[c.integer("start", 0) : c.integer("end", len(sizes))])


def _size(c: Call, operands: list[Numbers]) -> Numbers:
    return n.of_scalar(operands[0].array.size)


def _reduce(function: Callable[[Any, Any], Any]) -> Known:
    def run(c: Call, operands: list[Numbers]) -> Numbers | None:
        x = operands[0]
        axes = c.axes(1)
        if x.array.ndim > 1 or not x.array.size or (axes not in (None, [0], [-1])) or x.dtype.is_floating_point:
            return None
        if not axes and c.flag("noop_with_empty_axes"):
            return x
        items = x.list
        found = items[0]
        for item in items[1:]:
            found = function(found, item)
        scalar = n.of_scalar(found, x.dtype)
        return of_array(scalar.array.reshape([1] * x.array.ndim), x.dtype) if c.flag("keepdims", True) else scalar

    return run


def _transpose(c: Call, operands: list[Numbers]) -> Numbers:
    return of_array(np.transpose(operands[0].array, c.integers("perm")), operands[0].dtype)


def _split(c: Call, operands: list[Numbers]) -> list[Numbers] | None:
    x = operands[0]
    sizes = operands[1].list if c.has(1) else c.integers("split")
    if (
        x.array.ndim != 1
        or (sizes is None and x.array.size % c.count)
        or (len(operands) > 1 and operands[1].is_symbolic)
    ):
        return None
    sizes = sizes or [x.array.size // c.count] * c.count
    places = np.cumsum(sizes)[:-1]
    return [of_array(part, x.dtype) for part in np.split(x.array, places)]


def _scatter_nd(c: Call, operands: list[Numbers]) -> Numbers | None:
    data, indices, updates = operands
    if indices.is_symbolic or c.text("reduction", "none") != "none":
        return None
    found: Array = data.array.astype(object)
    places = tuple(np.moveaxis(indices.array, -1, 0))
    found[places] = updates.array.astype(object)
    return of_array(found, data.dtype)


def _nonzero(c: Call, operands: list[Numbers]) -> Numbers | None:
    x = operands[0]
    if x.is_symbolic or x.array.ndim == 0:
        return None
    return of_array(np.stack(np.nonzero(x.array)), torch.int64)


TABLE: dict[str, Known] = {
    "Add": _binary(np.add, operator.add),
    "Sub": _binary(np.subtract, operator.sub),
    "Mul": _binary(np.multiply, operator.mul),
    "Div": _divide,
    "Mod": _modulo,
    "Max": _binary(np.maximum, n.greatest),
    "Min": _binary(np.minimum, n.least),
    "Equal": _binary(np.equal, n.equal, torch.bool),
    "Less": _binary(np.less, n.compare("lt"), torch.bool),
    "LessOrEqual": _binary(np.less_equal, n.compare("le"), torch.bool),
    "Greater": _binary(np.greater, n.compare("gt"), torch.bool),
    "GreaterOrEqual": _binary(np.greater_equal, n.compare("ge"), torch.bool),
    "And": _binary(np.logical_and, lambda a, b: a & b, torch.bool),
    "Or": _binary(np.logical_or, lambda a, b: a | b, torch.bool),
    "Not": _not,
    "Neg": _unary(np.negative, operator.neg),
    "Abs": _unary(np.abs, abs),
    "Sqrt": _unary(np.sqrt, torch.sym_sqrt if hasattr(torch, "sym_sqrt") else None),
    "Relu": _unary(lambda x: np.maximum(x, 0)),
    "Floor": _unary(np.floor, math.floor),
    "Ceil": _unary(np.ceil, math.ceil),
    "Reciprocal": _unary(np.reciprocal, lambda item: 1 / item),
    "Where": _where,
    "Cast": _cast,
    "CastLike": _cast,
    "Gather": _gather,
    "Concat": _concat,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Identity": _identity,
    "Slice": _slice,
    "Expand": _expand,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "Shape": _shape,
    "Size": _size,
    "ReduceProd": _reduce(operator.mul),
    "ReduceSum": _reduce(operator.add),
    "ReduceMax": _reduce(n.greatest),
    "ReduceMin": _reduce(n.least),
    "Transpose": _transpose,
    "Split": _split,
    "ScatterND": _scatter_nd,
    "NonZero": _nonzero,
}
