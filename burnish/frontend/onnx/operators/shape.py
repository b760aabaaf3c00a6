"""Operators on shapes: what they are, and tensors in another one."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx import numbers as n
from burnish.frontend.onnx.call import Call, Result, Table
from burnish.frontend.onnx.numbers import MOST, Numbers
from burnish.frontend.onnx.operators.unsigned import through_wider

_MOST_ELEMENTS = 2**33  # of a tensor that a node makes of nothing: more is a mistake or worse


def axis_of(c: Call, x: Tensor, default: int, extra: int = 0) -> int:
    """The attribute `axis`, counted from the first one."""
    rank = x.dim() + extra
    axis = c.integer("axis", default)
    if not -rank <= axis < max(rank, 1):
        raise c.invalid(f"the axis {axis} of a tensor of {x.dim()} axes")
    return axis % max(rank, 1)


def check_size(c: Call, sizes: list[Any]) -> None:
    """Raises InvalidModelError if a tensor of these sizes is absurd."""
    if any(isinstance(size, int) and size < 0 for size in sizes):
        raise c.invalid(f"it makes a tensor of the shape {sizes}")
    known = math.prod(size for size in sizes if isinstance(size, int))
    if known > _MOST_ELEMENTS:
        raise c.invalid(f"it makes a tensor of the shape {sizes}, of more than {_MOST_ELEMENTS} elements")


def _shape(c: Call) -> Numbers:
    value = c.value(0)
    sizes: list[Any] = list(value.shape if isinstance(value, Tensor) else value.array.shape)
    return n.of_list(sizes[c.integer("start", 0) : c.integer("end", len(sizes))])


def _size(c: Call) -> Numbers:
    return n.of_scalar(math.prod(c.tensor(0).shape))


def _reshape(c: Call) -> Tensor:
    x = c.tensor(0)
    sizes = c.known(1, "the shape")
    if not c.flag("allowzero"):
        for place, size in enumerate(sizes):
            if isinstance(size, int) and size == 0:
                if place >= x.dim():
                    raise c.invalid(f"its shape {sizes} takes an axis of {tuple(x.shape)} that is not there")
                sizes[place] = x.shape[place]
    return x.reshape(sizes)


def _flatten(c: Call) -> Tensor:
    x = c.tensor(0)
    axis = c.integer("axis", 1)
    if not -x.dim() <= axis <= x.dim():
        raise c.invalid(f"the axis {axis} of a tensor of {x.dim()} axes")
    axis = axis + x.dim() if axis < 0 else axis
    if axis == 1 and x.dim() > 1:
        return torch.flatten(x, 1) if x.dim() > 2 else x
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _squeeze(c: Call) -> Tensor:
    x = c.tensor(0)
    axes = c.axes(1)
    if axes is None:
        return x.squeeze()
    for axis in axes:
        if not -x.dim() <= axis < x.dim() or (isinstance(x.shape[axis], int) and x.shape[axis] != 1):
            raise c.invalid(f"the axis {axis} of {tuple(x.shape)} is not of size 1")
    for axis in sorted((axis % x.dim() for axis in axes), reverse=True):
        x = x.squeeze(axis)
    return x


def _unsqueeze(c: Call) -> Tensor:
    x = c.tensor(0)
    axes = c.axes(1)
    if axes is None:
        raise c.invalid("its axes are missing")
    rank = x.dim() + len(axes)
    for axis in sorted(axis + rank if axis < 0 else axis for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(c: Call) -> Tensor:
    x = c.tensor(0)
    order = c.integers("perm")
    order = list(range(x.dim()))[::-1] if order is None else order
    if sorted(order) != list(range(x.dim())):
        raise c.invalid(f"{order} is no order of the axes of a tensor of {x.dim()}")
    moved = [axis for axis, source in enumerate(order) if axis != source]
    if not moved:
        return x
    return x.transpose(*moved) if len(moved) == 2 else x.permute(order)


def _concat(c: Call) -> Tensor:
    tensors = c.tensors()
    axis = c.integer("axis", 1)
    return through_wider(lambda *parts: torch.cat(parts, dim=axis), *tensors) if len(tensors) > 1 else tensors[0]


def _split(c: Call) -> Result:
    x = c.tensor(0)
    axis = axis_of(c, x, 0)
    sizes = [int(size) for size in c.known(1, "the sizes")] if c.has(1) else c.integers("split")
    if sizes is None:
        parts = c.integer("num_outputs", c.count)
        size = -(-x.shape[axis] // parts)  # rounded up: the last one may be smaller
        sizes = [size] * (parts - 1) + [x.shape[axis] - size * (parts - 1)]
    return list(torch.split(x, sizes, dim=axis))


def expand(x: Tensor, sizes: list[Any]) -> Tensor:
    """`x` broadcast with a shape, of which either may have the axes of size 1."""
    rank = max(x.dim(), len(sizes))
    shape: list[Any] = [1] * (rank - x.dim()) + list(x.shape)
    wanted = [1] * (rank - len(sizes)) + list(sizes)
    found = []
    for have, want in zip(shape, wanted, strict=True):
        if n.equal(want, 1) is True or n.equal(have, want) is True:
            found.append(have)
        else:
            found.append(want)
    return x.expand(found)


def _expand(c: Call) -> Tensor:
    sizes = c.known(1, "the shape")
    check_size(c, sizes)
    return expand(c.tensor(0), sizes)


def _tile(c: Call) -> Tensor:
    x, repeats = c.tensor(0), c.known(1, "how often")
    check_size(c, [size * times for size, times in zip(x.shape, repeats, strict=True)])
    return through_wider(lambda each: each.repeat(*repeats), x)


def _constant_of_shape(c: Call) -> Tensor:
    sizes = c.known(0, "the shape")
    check_size(c, sizes)
    value = c.step.attributes.get("value")
    if value is None:
        return torch.zeros(sizes)
    filled: Tensor = torch.full(sizes, value.list[0], dtype=value.dtype)
    return filled


def _range(c: Call) -> Tensor:
    start, limit, delta = (c.scalar(index, what) for index, what in enumerate(("the start", "the end", "the step")))
    value = c.value(0)
    dtype = value.dtype
    if isinstance(delta, int | float) and delta == 0:
        raise c.invalid("a range has the step 0")
    if not any(isinstance(each, torch.SymInt | torch.SymFloat) for each in (start, limit, delta)):
        count = math.ceil((limit - start) / delta)
        check_size(c, [max(count, 0)])
        if dtype.is_floating_point:
            steps: Tensor = start + torch.arange(max(count, 0), dtype=torch.float64) * delta
            return steps.to(dtype)
        if count <= 0:
            return torch.empty(0, dtype=dtype)
    return torch.arange(start, limit, delta, dtype=dtype)


def _eye_like(c: Call) -> Tensor:
    x = c.tensor(0)
    rows, columns = x.shape
    places = torch.arange(columns)[None, :] - torch.arange(rows)[:, None]
    return (places == c.integer("k", 0)).to(c.dtype("dtype") or x.dtype)


def _identity(c: Call) -> Result:
    return c.value(0)


def _constant(c: Call) -> Result:
    value = c.step.attributes.get("value")
    if isinstance(value, Numbers):
        return value
    for name, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        if name in c.step.attributes:
            return n.of_scalar(c.required(name), dtype)
    for name, dtype in (("value_floats", torch.float32), ("value_ints", torch.int64)):
        if name in c.step.attributes:
            return n.of_list(c.required(name), dtype)
    raise c.unsupported("a constant that is a text or sparse")


_PADDING = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def _pad(c: Call) -> Tensor:
    x = c.tensor(0)
    pads = c.integers("pads") if c.version < 11 else [*c.known(1, "the padding")]
    if pads is None:
        raise c.invalid("its padding is missing")
    axes = [int(axis) % x.dim() for axis in c.known(3, "the axes")] if c.has(3) else list(range(x.dim()))
    if len(pads) != 2 * len(axes):
        raise c.invalid(f"it has {len(pads)} amounts of padding for {len(axes)} axes")
    before, after = [0] * x.dim(), [0] * x.dim()
    for place, axis in enumerate(axes):
        before[axis], after[axis] = pads[place], pads[place + len(axes)]
    check_size(c, [a + size + b for a, size, b in zip(before, x.shape, after, strict=True)])
    mode = c.text("mode", "constant")
    if mode == "constant":
        flat = [amount for axis in reversed(range(x.dim())) for amount in (before[axis], after[axis])]
        while len(flat) > 2 and flat[-2:] == [0, 0]:
            flat = flat[:-2]
        return _pad_with(c, x, flat)
    if mode not in _PADDING:
        raise c.invalid(f"there is no padding {mode!r}")
    for axis in range(x.dim()):
        x = _pad_axis(x, axis, before[axis], after[axis], mode)
    return x


def _pad_with(c: Call, x: Tensor, flat: list[Any]) -> Tensor:
    """With one value, which may be data."""
    if c.has(2) and c.version >= 11 and c.numbers(2) is None:
        inside = F.pad(torch.ones(x.shape, dtype=torch.uint8), flat).to(torch.bool)
        return torch.where(inside, _pad_number(x, flat, 0), c.tensor(2).reshape(()))
    return _pad_number(x, flat, c.real("value", 0.0) if c.version < 11 else c.scalar(2, "it") if c.has(2) else 0)


def _pad_number(x: Tensor, flat: list[Any], value: Any) -> Tensor:
    if x.dtype is torch.bool:
        return F.pad(x.to(torch.uint8), flat, value=int(value)).to(torch.bool)
    return through_wider(lambda each: F.pad(each, flat, value=value), x)


def _pad_axis(x: Tensor, axis: int, before: int, after: int, mode: str) -> Tensor:
    """With indices, as torch pads only some ranks so; negative amounts cut off."""
    if before == 0 and after == 0:
        return x
    size = x.shape[axis]
    places = torch.arange(-before, size + after)
    if mode == "edge":
        places = places.clamp(0, size - 1)
    elif mode == "wrap":
        places = torch.remainder(places, size)
    elif size == 1:
        places = torch.zeros_like(places)
    else:
        period = 2 * (size - 1)
        places = torch.remainder(places, period)
        places = torch.where(places >= size, period - places, places)
    return through_wider(lambda each: torch.index_select(each, axis, places), x)


def _depth_to_space(c: Call) -> Tensor:
    x, block = c.tensor(0), c.integer("blocksize", 1)
    if block < 1 or x.dim() != 4 or x.shape[1] % (block * block):
        raise c.invalid(f"blocks of {block} of a tensor {tuple(x.shape)}")
    if c.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, block)
    batch, channels, height, width = x.shape
    x = x.reshape(batch, block, block, channels // block**2, height, width)
    return x.permute(0, 3, 4, 1, 5, 2).reshape(batch, channels // block**2, height * block, width * block)


def _space_to_depth(c: Call) -> Tensor:
    x, block = c.tensor(0), c.integer("blocksize", 1)
    batch, channels, height, width = x.shape
    if block < 1 or height % block or width % block:
        raise c.invalid(f"blocks of {block} of a tensor {tuple(x.shape)}")
    x = x.reshape(batch, channels, height // block, block, width // block, block)
    order = (0, 1, 3, 5, 2, 4) if c.text("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return x.permute(order).reshape(batch, channels * block**2, height // block, width // block)


def _center_crop_pad(c: Call) -> Tensor:
    x, shape = c.tensor(0), c.known(1, "the shape")
    axes = [axis % x.dim() for axis in c.integers("axes") or range(x.dim())]
    for axis, size in zip(axes, shape, strict=True):
        have = x.shape[axis]
        if size < have:
            x = x.narrow(axis, (have - size) // 2, size)
        elif size > have:
            flat = [0, 0] * (x.dim() - 1 - axis) + [(size - have) // 2, size - have - (size - have) // 2]
            x = F.pad(x, flat)
    return x


def _trilu(c: Call) -> Tensor:
    x = c.tensor(0)
    k = int(c.scalar(1, "the diagonal")) if c.has(1) else 0
    k = max(min(k, 2**31), -(2**31))
    return torch.triu(x, k) if c.flag("upper", True) else torch.tril(x, k)


def constant(tensor: Tensor) -> Tensor | Numbers:
    """A tensor that does not change: numbers if it is small, and numpy has its type."""
    foreign = tensor.dtype is torch.bfloat16 or (tensor.is_floating_point() and tensor.dtype.itemsize == 1)
    if tensor.numel() > MOST or foreign or tensor.is_complex():
        return tensor
    return Numbers(tensor.detach().numpy().copy(), tensor.dtype)


TABLE: Table = {
    "Shape": _shape,
    "Size": _size,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Transpose": _transpose,
    "Concat": _concat,
    "Split": _split,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "EyeLike": _eye_like,
    "Identity": _identity,
    "Constant": _constant,
    "Pad": _pad,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
    "CenterCropPad": _center_crop_pad,
    "Trilu": _trilu,
}
