"""Pooling over windows and over everything."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx.call import Call, Result, Table
from burnish.frontend.onnx.operators.convolution import pad_space, padding, spatial

_AVERAGE: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAXIMUM: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MAXIMUM_AT: dict[int, Callable[..., Any]] = {
    1: F.max_pool1d_with_indices,
    2: F.max_pool2d_with_indices,
    3: F.max_pool3d_with_indices,
}


class _Windows:
    """The windows of a call: their size, steps, and what is added around."""

    def __init__(self, c: Call, x: Tensor) -> None:
        rank = x.dim() - 2
        if rank not in _AVERAGE:
            raise c.unsupported(f"pooling over {rank} axes: 1 to 3 are")
        self.kernel = spatial(c, "kernel_shape", rank, 1)
        self.strides, self.dilations = spatial(c, "strides", rank, 1), spatial(c, "dilations", rank, 1)
        self.before, self.after = padding(c, x, self.kernel, self.strides, self.dilations)
        self.ceil = c.flag("ceil_mode") and c.text("auto_pad", "NOTSET") in ("NOTSET", "")
        # What has to be added after for the last window to be whole.
        self.whole = [self._whole(i, size) for i, size in enumerate(x.shape[2:])]
        self.taps = math.prod(self.kernel)

    def _whole(self, i: int, size: Any) -> Any:
        if not self.ceil:
            return self.after[i]
        span = (self.kernel[i] - 1) * self.dilations[i] + 1
        out = -(-(size + self.before[i] + self.after[i] - span) // self.strides[i]) + 1
        if (out - 1) * self.strides[i] >= size + self.before[i]:
            out = out - 1  # the last window starts inside of the image
        needed = (out - 1) * self.strides[i] + span - size - self.before[i]
        return needed if needed > self.after[i] else self.after[i]

    @property
    def is_plain(self) -> bool:
        """Whether torch's own padding says it: as much before as after, and no more than half of a window."""
        return self.whole == self.before and all(
            isinstance(pad, int) and 0 <= 2 * pad <= kernel
            for pad, kernel in zip(self.before, self.kernel, strict=True)
        )

    def taken(self, x: Tensor, value: float) -> Tensor:
        """The elements of the windows [N, C, taps, out...], for what no pooling of torch's says."""
        x = pad_space(x, self.before, self.whole, value)
        for i, (taps, stride, dilation) in enumerate(zip(self.kernel, self.strides, self.dilations, strict=True)):
            x = x.unfold(2 + i, (taps - 1) * dilation + 1, stride)[..., ::dilation]
        rank = len(self.kernel)
        return x.flatten(2 + rank).movedim(-1, 2)


def _average_pool(c: Call) -> Tensor:
    x = c.tensor(0)
    windows = _Windows(c, x)
    counts_padding = c.flag("count_include_pad")
    if windows.is_plain and all(each == 1 for each in windows.dilations):
        return _AVERAGE[x.dim() - 2](
            x, windows.kernel, windows.strides, windows.before, count_include_pad=counts_padding
        )
    total = windows.taken(x, 0.0).sum(2)
    ones = torch.ones_like(x[:1, :1])
    if counts_padding:  # which what makes the last window whole is not
        ones = pad_space(ones, windows.before, windows.after, 1.0)
        inner = _Windows.__new__(_Windows)
        vars(inner).update(vars(windows))
        inner.before = [0] * len(windows.before)
        inner.whole = [a - b for a, b in zip(windows.whole, windows.after, strict=True)]
        return total / inner.taken(ones, 0.0).sum(2)
    return total / windows.taken(ones, 0.0).sum(2)


def _lp_pool(c: Call) -> Tensor:
    x, p = c.tensor(0), c.integer("p", 2)
    taken = torch.abs(_Windows(c, x).taken(x, 0.0))
    return taken.pow(p).sum(2).pow(1 / p)


def _max_pool(c: Call) -> Result:
    x = c.tensor(0)
    dtype = x.dtype
    if not x.is_floating_point():
        x = x.to(torch.float32)  # exact for the bytes that ONNX allows
    windows = _Windows(c, x)
    rank = x.dim() - 2
    shape = x.shape
    padded = x
    if not windows.is_plain:
        padded = pad_space(x, windows.before, windows.whole, -math.inf)
    pads = windows.before if windows.is_plain else [0] * rank
    if not c.wants(1):
        return _MAXIMUM[rank](padded, windows.kernel, windows.strides, pads, windows.dilations).to(dtype)
    found, places = _MAXIMUM_AT[rank](padded, windows.kernel, windows.strides, pads, windows.dilations)
    # Places in one padded plane become places in the whole tensor.
    coordinates = []
    rest = places
    for size in reversed(padded.shape[2:]):
        coordinates.append(rest % size)
        rest = rest // size
    coordinates.reverse()
    if not windows.is_plain:
        coordinates = [each - pad for each, pad in zip(coordinates, windows.before, strict=True)]
    sizes = list(shape[2:])
    if c.integer("storage_order", 0):
        coordinates.reverse()
        sizes.reverse()
    plane = torch.zeros_like(places)
    for each, size in zip(coordinates, sizes, strict=True):
        plane = plane * size + each
    planes = torch.arange(shape[0] * shape[1]).reshape([shape[0], shape[1]] + [1] * rank)
    return found.to(dtype), planes * math.prod(shape[2:]) + plane


def _max_unpool(c: Call) -> Tensor:
    x, places = c.tensor(0), c.tensor(1)
    rank = x.dim() - 2
    kernel, strides = spatial(c, "kernel_shape", rank, 1), spatial(c, "strides", rank, 1)
    pads = spatial(c, "pads", rank, 0, 2)
    inferred = [
        (size - 1) * stride + taps - pads[i] - pads[i + rank]
        for i, (size, stride, taps) in enumerate(zip(x.shape[2:], strides, kernel, strict=True))
    ]
    # The places are of the tensor of the inferred shape, which is a corner of the one that is asked for.
    flat = torch.zeros(math.prod([*x.shape[:2], *inferred]), dtype=x.dtype)
    found = flat.scatter(0, places.reshape(-1), x.reshape(-1)).reshape([*x.shape[:2], *inferred])
    if not c.has(2):
        return found
    wanted = c.known(2, "the shape")
    if list(wanted[2:]) == inferred:
        return found
    return pad_space(found, [0] * rank, [want - size for want, size in zip(wanted[2:], inferred, strict=True)])


def _global(function: Callable[[Tensor, list[int]], Tensor]) -> Callable[[Call], Tensor]:
    def run(c: Call) -> Tensor:
        x = c.tensor(0)
        return function(x, list(range(2, x.dim())))

    return run


def _global_lp_pool(c: Call) -> Tensor:
    x, p = c.tensor(0), c.integer("p", 2)
    return torch.abs(x).pow(p).sum(list(range(2, x.dim())), keepdim=True).pow(1 / p)


TABLE: Table = {
    "AveragePool": _average_pool,
    "LpPool": _lp_pool,
    "MaxPool": _max_pool,
    "MaxUnpool": _max_unpool,
    "GlobalAveragePool": _global(lambda x, axes: torch.mean(x, dim=axes, keepdim=True)),
    "GlobalMaxPool": _global(lambda x, axes: torch.amax(x, dim=axes, keepdim=True)),
    "GlobalLpPool": _global_lp_pool,
}
