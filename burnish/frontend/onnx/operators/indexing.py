"""Operators that read and write elements by index, sort, and count."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx.call import Call, Operator, Result, Table
from burnish.frontend.onnx.dtypes import as_dtype
from burnish.frontend.onnx.numbers import greatest, least
from burnish.frontend.onnx.operators.shape import axis_of, check_size
from burnish.frontend.onnx.operators.unsigned import from_ordered, narrowed, ordered, through_wider, widened

_LONGEST = 10**8  # of an axis whose size is symbolic: what is cut off there is nothing


def _gather(c: Call) -> Tensor:
    x = c.tensor(0)
    axis = axis_of(c, x, 0)
    known = c.numbers(1)
    if known is not None and known.array.ndim == 0:
        index = known.list[0]
        size = x.shape[axis]
        if isinstance(index, int) and isinstance(size, int) and not -size <= index < size:
            raise c.invalid(f"the index {index} is outside of an axis of {size} elements")
        return x.select(axis, index)
    indices = c.tensor(1)
    if c.of_weight and x.dim() == 2 and axis == 0 and known is None:
        return F.embedding(indices, x)  # of which the rows are counted from the first one
    if known is None or known.is_symbolic or (known.array < 0).any():
        indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    if x.dim() == 0:
        raise c.invalid("it reads by index from a tensor without axes")

    def select(data: Tensor) -> Tensor:
        if indices.dim() == 1:
            return torch.index_select(data, axis, indices)
        found = torch.index_select(data, axis, indices.reshape(-1))
        return found.reshape([*data.shape[:axis], *indices.shape, *data.shape[axis + 1 :]])

    return select(x)


def _positive(indices: Tensor, size: Any) -> Tensor:
    indices = as_dtype(indices, torch.int64)
    return torch.where(indices < 0, indices + size, indices)


def _gather_elements(c: Call) -> Tensor:
    x = c.tensor(0)
    axis = axis_of(c, x, 0)
    return through_wider(lambda each: torch.gather(each, axis, _positive(c.tensor(1), x.shape[axis])), x)


def _gather_nd(c: Call) -> Tensor:
    x, indices = c.tensor(0), as_dtype(c.tensor(1), torch.int64)
    shared = c.integer("batch_dims", 0)
    last = indices.shape[-1]
    places: list[Tensor] = []
    for axis in range(shared):
        shape = [1] * (indices.dim() - 1)
        shape[axis] = x.shape[axis]
        places.append(torch.arange(x.shape[axis]).reshape(shape))
    places += [_positive(indices[..., place], x.shape[shared + place]) for place in range(last)]
    return through_wider(lambda each: each[tuple(places)], x)


_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _scatter_elements(c: Call) -> Tensor:
    x, updates = c.tensor(0), c.tensor(2)
    axis = axis_of(c, x, 0)
    indices = _positive(c.tensor(1), x.shape[axis])
    how = c.text("reduction", "none")
    if how == "none":
        return through_wider(lambda data, new: torch.scatter(data, axis, indices, new), x, updates)
    if how not in _REDUCTIONS:
        raise c.invalid(f"there is no reduction {how!r}")
    return through_wider(lambda data, new: torch.scatter_reduce(data, axis, indices, new, _REDUCTIONS[how]), x, updates)


def _scatter_nd(c: Call) -> Tensor:
    x, indices, updates = c.tensor(0), as_dtype(c.tensor(1), torch.int64), c.tensor(2)
    how = c.text("reduction", "none")
    places = [_positive(indices[..., place], x.shape[place]) for place in range(indices.shape[-1])]
    if how in ("none", "add"):
        return through_wider(
            lambda data, new: torch.index_put(data, tuple(places), new, accumulate=how == "add"), x, updates
        )
    if how not in _REDUCTIONS:
        raise c.invalid(f"there is no reduction {how!r}")
    # As rows of what the indices do not reach, of which each is written as a whole.
    rank = len(places)
    row = math.prod(x.shape[rank:])
    flat = torch.zeros_like(places[0])
    for place, size in zip(places, x.shape[:rank], strict=True):
        flat = flat * size + place
    index = flat.reshape(-1, 1).expand(-1, row)
    rows = x.reshape(math.prod(x.shape[:rank]), row)
    return torch.scatter_reduce(rows, 0, index, updates.reshape(-1, row), _REDUCTIONS[how]).reshape(x.shape)


def _slice(c: Call) -> Tensor:
    x = c.tensor(0)
    if c.version < 10:
        starts, ends = c.required("starts"), c.required("ends")
        axes, steps = c.integers("axes"), None
    else:
        starts, ends = c.known(1, "where it starts"), c.known(2, "where it ends")
        axes = [int(axis) for axis in c.known(3, "the axes")] if c.has(3) else None
        steps = [int(step) for step in c.known(4, "the steps")] if c.has(4) else None
    for place, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis = axes[place] if axes else place
        step = steps[place] if steps else 1
        if not -x.dim() <= axis < x.dim() or step == 0:
            raise c.invalid(f"a slice of the axis {axis} with the step {step} of a tensor of {x.dim()} axes")
        x = _slice_axis(x, axis % x.dim(), start, end, step)
    return x


def _slice_axis(x: Tensor, axis: int, start: Any, end: Any, step: int) -> Tensor:
    if step > 0:
        if isinstance(end, int) and isinstance(x.shape[axis], torch.SymInt) and end >= _LONGEST:
            end = 2**63 - 1  # which no guard says to be more than the size
        if isinstance(start, int) and isinstance(end, int) and start == 0 and end >= 2**31 - 1 and step == 1:
            return x
        return torch.ops.aten.slice.Tensor(x, axis, start, end, step)  # type: ignore[no-any-return]
    # Backwards: torch has no negative steps, so the axis is turned first.
    size = x.shape[axis]
    turned = torch.flip(x, [axis])

    def place(index: Any) -> Any:
        if isinstance(index, int) and index < 0:
            return greatest(0, least(size, -index - 1)) if index > -(2**31) else size
        return greatest(0, size - 1 - index)

    return torch.ops.aten.slice.Tensor(turned, axis, place(start), place(end), -step)  # type: ignore[no-any-return]


def _nonzero(c: Call) -> Tensor:
    x = c.tensor(0)
    found = torch.nonzero(x if x.dim() else x.reshape(1))
    return found.t() if x.dim() else found.t()[:0]


def _compress(c: Call) -> Tensor:
    x, condition = c.tensor(0), c.tensor(1)
    if "axis" in c.step.attributes:
        axis = axis_of(c, x, 0)
    else:
        x, axis = x.reshape(-1), 0
    return torch.index_select(x, axis, torch.nonzero(condition).reshape(-1))


def _one_hot(c: Call) -> Tensor:
    indices, values = c.tensor(0), c.tensor(2)
    depth = int(c.scalar(1, "the depth"))
    axis = axis_of(c, indices, -1, extra=1)
    check_size(c, [*indices.shape, depth])
    places = torch.arange(depth, dtype=torch.int64).reshape([-1 if i == axis else 1 for i in range(indices.dim() + 1)])
    index = indices.to(torch.int64)
    index = torch.where(index < 0, index + depth, index).unsqueeze(axis)
    return torch.where(places == index, values[1], values[0])


def _top_k(c: Call) -> Result:
    x = c.tensor(0)
    axis = axis_of(c, x, -1)
    k = c.integer("k", 1) if c.version < 10 else c.scalar(1, "how many")
    largest = c.flag("largest", True)
    # A stable sort: of equal elements the first one comes first.
    values, indices = torch.sort(ordered(x), dim=axis, descending=largest, stable=True)
    found = from_ordered(values.narrow(axis, 0, k), x.dtype)
    return found, indices.narrow(axis, 0, k)


def _extreme(function: Callable[..., Tensor]) -> Operator:
    def run(c: Call) -> Tensor:
        x = ordered(c.tensor(0))
        axis, keep = axis_of(c, x, 0), c.flag("keepdims", True)
        if x.dtype is torch.bool:
            x = x.to(torch.uint8)
        if not c.flag("select_last_index"):
            return function(x, dim=axis, keepdim=keep)
        return x.shape[axis] - 1 - function(torch.flip(x, [axis]), dim=axis, keepdim=keep)

    return run


def _cumulative(function: Callable[[Tensor, int], Tensor], neutral: int) -> Operator:
    def run(c: Call) -> Tensor:
        x = c.tensor(0)
        axis = int(c.scalar(1, "the axis")) % max(x.dim(), 1)
        wide = widened(x)
        if c.flag("reverse"):
            wide = torch.flip(wide, [axis])
        if c.flag("exclusive"):
            first = torch.full_like(wide.narrow(axis, 0, 1), neutral)
            wide = torch.cat([first, wide.narrow(axis, 0, x.shape[axis] - 1)], dim=axis)
        found = function(wide, axis).to(wide.dtype)
        return narrowed(torch.flip(found, [axis]) if c.flag("reverse") else found, x.dtype)

    return run


def _unique(c: Call) -> Result:
    x = c.tensor(0)
    has_axis = "axis" in c.step.attributes
    axis = axis_of(c, x, 0) if has_axis else 0
    data = x if has_axis else x.reshape(-1)
    rows = data.movedim(axis, 0)
    values, inverse, counts = torch.unique(rows, sorted=True, return_inverse=True, return_counts=True, dim=0)
    places = torch.arange(rows.shape[0])
    first = torch.full((values.shape[0],), rows.shape[0], dtype=torch.int64).scatter_reduce(0, inverse, places, "amin")
    if not c.flag("sorted", True):
        first, order = torch.sort(first)
        values, counts = values[order], counts[order]
        inverse = torch.argsort(order)[inverse]
    return values.movedim(0, axis), first, inverse.reshape(-1), counts


def _reverse_sequence(c: Call) -> Tensor:
    x, lengths = c.tensor(0), as_dtype(c.tensor(1), torch.int64)
    batch, time = c.integer("batch_axis", 1), c.integer("time_axis", 0)
    if {batch, time} != {0, 1}:
        raise c.invalid("one of the axes of rows and of time is 0, and the other 1")
    size = x.shape[time]
    steps = torch.arange(size)
    steps, ends = (steps[:, None], lengths[None, :]) if time == 0 else (steps[None, :], lengths[:, None])
    places = torch.where(steps < ends, ends - 1 - steps, steps)
    index = places.reshape([*places.shape] + [1] * (x.dim() - 2)).expand(x.shape)
    return torch.gather(x, time, index)


def _non_max_suppression(c: Call) -> Tensor:
    """Boxes by score, each unless it overlaps one that was taken by more than the limit."""
    if c.exporting:
        raise c.unsupported("how many boxes are left depends on data")
    boxes, scores = c.tensor(0), c.tensor(1)
    most = int(c.scalar(2, "how many boxes")) if c.has(2) else 0
    overlap = float(c.scalar(3, "the overlap")) if c.has(3) else 0.0
    least = float(c.scalar(4, "the least score")) if c.has(4) else -math.inf
    if c.flag("center_point_box"):
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        low, high = centre - half, centre + half
    else:
        low, high = torch.minimum(boxes[..., :2], boxes[..., 2:]), torch.maximum(boxes[..., :2], boxes[..., 2:])
    found: list[tuple[int, int, int]] = []
    for row in range(scores.shape[0]):
        area = (high[row] - low[row]).prod(-1)
        for kind in range(scores.shape[1]):
            taken: list[int] = []
            order = torch.argsort(scores[row, kind], descending=True, stable=True).tolist()
            for box in order:
                if len(taken) >= most:
                    break
                if scores[row, kind, box] <= least and c.has(4):
                    continue
                sides = torch.minimum(high[row, taken], high[row, box]) - torch.maximum(low[row, taken], low[row, box])
                common = sides.clamp(min=0).prod(-1)
                if not (common / (area[taken] + area[box] - common) > overlap).any():
                    taken.append(box)
            found += [(row, kind, box) for box in taken]
    return torch.tensor(found, dtype=torch.int64).reshape(-1, 3)


TABLE: Table = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Scatter": _scatter_elements,
    "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd,
    "Slice": _slice,
    "NonZero": _nonzero,
    "Compress": _compress,
    "OneHot": _one_hot,
    "TopK": _top_k,
    "ArgMax": _extreme(torch.argmax),
    "ArgMin": _extreme(torch.argmin),
    "CumSum": _cumulative(torch.cumsum, 0),
    "CumProd": _cumulative(torch.cumprod, 1),
    "Unique": _unique,
    "ReverseSequence": _reverse_sequence,
    "NonMaxSuppression": _non_max_suppression,
}
