"""Convolutions, forwards and backwards."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx.call import Call, Result, Table
from burnish.frontend.onnx.numbers import greatest
from burnish.frontend.onnx.operators.shape import check_size

_MOST = 2**31
_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def spatial(c: Call, name: str, rank: int, default: int, count: int = 1) -> list[int]:
    """An attribute with `count` integers for each of the axes of space."""
    found = c.integers(name) or [default] * rank * count
    if len(found) != rank * count:
        raise c.invalid(f"its attribute {name} has {len(found)} elements for {rank} axes")
    if any(not -_MOST < each < _MOST for each in found):
        raise c.invalid(f"its attribute {name} is {found}")
    if name in ("strides", "dilations", "kernel_shape") and any(each < 1 for each in found):
        raise c.invalid(f"its attribute {name} is {found}, and at least 1 is expected")
    return found


def padding(c: Call, x: Tensor, kernel: list[int], strides: list[int], dilations: list[int]) -> tuple[list[Any], Any]:
    """What is added before and after each axis of space."""
    rank = x.dim() - 2
    how = c.text("auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        before, after = [], []
        for size, taps, stride, dilation in zip(x.shape[2:], kernel, strides, dilations, strict=True):
            out = -(-size // stride)
            total = greatest(0, (out - 1) * stride + (taps - 1) * dilation + 1 - size)
            less = total // 2
            before.append(less if how == "SAME_UPPER" else total - less)
            after.append(total - less if how == "SAME_UPPER" else less)
        return before, after
    if how not in ("NOTSET", "VALID", ""):
        raise c.invalid(f"there is no padding {how!r}")
    pads = spatial(c, "pads", rank, 0, 2) if how in ("NOTSET", "") else [0] * 2 * rank
    return pads[:rank], pads[rank:]


def pad_space(x: Tensor, before: list[Any], after: list[Any], value: float = 0.0) -> Tensor:
    """`x` with its axes of space padded."""
    flat = [amount for pair in zip(reversed(before), reversed(after), strict=True) for amount in pair]
    return F.pad(x, flat, value=value)


def convolve(c: Call, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """With the attributes of the call."""
    rank = x.dim() - 2
    if rank not in _CONVOLUTIONS or w.dim() != x.dim():
        raise c.unsupported(f"a convolution over {rank} axes with a filter of {w.dim()} axes: 1 to 3 are")
    strides, dilations = spatial(c, "strides", rank, 1), spatial(c, "dilations", rank, 1)
    before, after = padding(c, x, list(w.shape[2:]), strides, dilations)
    check_size(c, [*x.shape, *before, *after])
    if before != after or any(isinstance(each, int) and each < 0 for each in before):
        x, before = pad_space(x, before, after), [0] * rank
    group = c.integer("group", 1)
    return _CONVOLUTIONS[rank](x, w, bias, strides, before, dilations, group)


def _conv(c: Call) -> Tensor:
    return convolve(c, c.tensor(0), c.tensor(1), c.optional(2))


def _conv_transpose(c: Call) -> Tensor:
    x, w, bias = c.tensor(0), c.tensor(1), c.optional(2)
    rank = x.dim() - 2
    if rank not in _TRANSPOSED:
        raise c.unsupported(f"a transposed convolution over {rank} axes: 1 to 3 are")
    strides, dilations = spatial(c, "strides", rank, 1), spatial(c, "dilations", rank, 1)
    extra = spatial(c, "output_padding", rank, 0)
    wanted, how = c.integers("output_shape"), c.text("auto_pad", "NOTSET")
    full = [
        stride * (size - 1) + (taps - 1) * dilation + 1 + more
        for size, taps, stride, dilation, more in zip(x.shape[2:], w.shape[2:], strides, dilations, extra, strict=True)
    ]
    if wanted is None and how in ("SAME_UPPER", "SAME_LOWER"):
        wanted = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    if wanted is None:
        pads = spatial(c, "pads", rank, 0, 2) if how == "NOTSET" else [0] * 2 * rank
        before, after = pads[:rank], pads[rank:]
    else:
        totals = [size - want for size, want in zip(full, wanted[-rank:], strict=True)]
        less = [total // 2 for total in totals]
        rest = [total - half for total, half in zip(totals, less, strict=True)]
        before, after = (less, rest) if how == "SAME_UPPER" else (rest, less)
    check_size(c, [x.shape[0], w.shape[1], *full])
    group = c.integer("group", 1)
    transposed = _TRANSPOSED[rank]
    if (
        before == after
        and all(each >= 0 for each in before)
        and all(more < max(stride, dilation) for more, stride, dilation in zip(extra, strides, dilations, strict=True))
    ):
        return transposed(x, w, bias, strides, before, extra, group, dilations)
    # The whole of it, of which what would be padding is cut off.
    found = transposed(x, w, None, strides, 0, 0, group, dilations)
    found = pad_space(found, [-each for each in before], [more - each for more, each in zip(extra, after, strict=True)])
    return found if bias is None else found + bias.reshape([1, -1] + [1] * rank)


def _deform_conv(c: Call) -> Tensor:
    """A convolution whose taps are moved by offsets, between places by interpolation."""
    x, w, offset, bias, mask = c.tensor(0), c.tensor(1), c.tensor(2), c.optional(3), c.optional(4)
    if x.dim() != 4:
        raise c.unsupported(f"a deformable convolution over {x.dim() - 2} axes: 2 are")
    strides, dilations = spatial(c, "strides", 2, 1), spatial(c, "dilations", 2, 1)
    before, after = padding(c, x, list(w.shape[2:]), strides, dilations)
    batch, channels, height, width = x.shape
    rows, columns = w.shape[2:]
    groups, sets = c.integer("group", 1), c.integer("offset_group", 1)
    out = [
        (size + a + b - (taps - 1) * dilation - 1) // stride + 1
        for size, a, b, taps, stride, dilation in zip(
            (height, width), before, after, (rows, columns), strides, dilations, strict=True
        )
    ]
    taps = rows * columns
    offset = offset.reshape(batch, sets, taps, 2, *out)
    down = torch.arange(rows).repeat_interleave(columns) * dilations[0]
    across = torch.arange(columns).repeat(rows) * dilations[1]
    y = (torch.arange(out[0]) * strides[0] - before[0])[None, :, None] + down[:, None, None]
    z = (torch.arange(out[1]) * strides[1] - before[1])[None, None, :] + across[:, None, None]
    y, z = y + offset[:, :, :, 0], z + offset[:, :, :, 1]
    each = channels // sets
    source = x.reshape(batch, sets, each, height * width)
    low_y, low_z = torch.floor(y), torch.floor(z)
    total = torch.zeros(batch, sets, each, taps, *out, dtype=x.dtype)
    for dy in (0, 1):
        for dz in (0, 1):
            at_y, at_z = low_y + dy, low_z + dz
            weight = (1 - torch.abs(y - at_y)) * (1 - torch.abs(z - at_z))
            inside = (at_y >= 0) & (at_y < height) & (at_z >= 0) & (at_z < width)
            place = at_y.clamp(0, height - 1) * width + at_z.clamp(0, width - 1)
            index = place.to(torch.int64).reshape(batch, sets, 1, -1).expand(-1, -1, each, -1)
            found = torch.gather(source, 3, index).reshape(total.shape)
            total = total + found * torch.where(inside, weight, 0.0).unsqueeze(2)
    if mask is not None:
        total = total * mask.reshape(batch, sets, 1, taps, *out)
    columns_of = total.reshape(batch, groups, channels // groups * taps, math.prod(out))
    filters = w.reshape(groups, w.shape[0] // groups, -1)
    result = torch.matmul(filters, columns_of).reshape(batch, w.shape[0], *out)
    return result if bias is None else result + bias.reshape(1, -1, 1, 1)


def _col2im(c: Call) -> Tensor:
    """Blocks summed into an image, over any number of axes: a transposed convolution with one tap a filter."""
    x = c.tensor(0)
    image, block = [int(v) for v in c.known(1, "the image")], [int(v) for v in c.known(2, "the block")]
    rank, taps = len(image), math.prod(block)
    strides, dilations = spatial(c, "strides", rank, 1), spatial(c, "dilations", rank, 1)
    pads = spatial(c, "pads", rank, 0, 2)
    counts = [
        (size + pads[i] + pads[i + rank] - (block[i] - 1) * dilations[i] - 1) // strides[i] + 1
        for i, size in enumerate(image)
    ]
    batch, channels = x.shape[0], x.shape[1] // taps
    data = x.reshape(batch * channels, taps, *counts)
    filters = torch.eye(taps, dtype=x.dtype).reshape(taps, 1, *block)
    if rank not in _TRANSPOSED:
        raise c.unsupported(f"blocks of {rank} axes: 1 to 3 are")
    full = _TRANSPOSED[rank](data, filters, None, strides, 0, 0, 1, dilations)
    after = [image[i] + pads[i] - full.shape[2 + i] for i in range(rank)]
    found = pad_space(full, [-each for each in pads[:rank]], after)
    return found.reshape(batch, channels, *image)


def _causal_conv(c: Call) -> Result:
    """Along the last axis, over what came before; gives also what the next call has before it."""
    x, w, bias, past = c.tensor(0), c.tensor(1), c.optional(2), c.optional(3)
    taps = w.shape[-1]
    if past is None:
        past = torch.zeros(x.shape[0], x.shape[1], taps - 1, dtype=x.dtype)
    padded = torch.cat([past.to(x.dtype), x], dim=2)
    found = F.conv1d(padded, w, bias, groups=x.shape[1])
    activation = c.text("activation", "none")
    if activation in ("silu", "swish"):
        found = F.silu(found)
    elif activation != "none":
        raise c.invalid(f"there is no activation {activation!r}")
    return found, padded.narrow(2, padded.shape[2] - (taps - 1), taps - 1)


TABLE: Table = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DeformConv": _deform_conv,
    "Col2Im": _col2im,
    "CausalConvWithState": _causal_conv,
}
