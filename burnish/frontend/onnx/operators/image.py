"""Images in other sizes, and read at places between their pixels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx import numbers as n
from burnish.frontend.onnx.call import Call, Table
from burnish.frontend.onnx.operators.shape import check_size

_TORCH = {  # how torch calls what it has, by mode, coordinates and, for the nearest pixel, rounding
    ("nearest", "asymmetric", "floor"): ("nearest", None),
    ("linear", "half_pixel", ""): ("linear", False),
    ("linear", "pytorch_half_pixel", ""): ("linear", False),
    ("linear", "align_corners", ""): ("linear", True),
    ("cubic", "half_pixel", ""): ("cubic", False),
    ("cubic", "align_corners", ""): ("cubic", True),
}
_NAMES = {
    ("nearest", 1): "nearest",
    ("nearest", 2): "nearest",
    ("nearest", 3): "nearest",
    ("linear", 1): "linear",
    ("linear", 2): "bilinear",
    ("linear", 3): "trilinear",
    ("cubic", 2): "bicubic",
}


def _resize(c: Call) -> Tensor:
    x = c.tensor(0)
    axes = [axis % x.dim() for axis in c.integers("axes") or range(x.dim())]
    place = 1 if c.version < 11 else 2
    roi = [float(each) for each in c.known(1, "the region")] if c.version >= 11 and c.has(1) else []
    scales: list[Any] = [1.0] * x.dim()
    sizes: list[Any] = list(x.shape)
    if c.has(place) and c.known(place, "the scales"):
        for axis, scale in zip(axes, c.known(place, "the scales"), strict=True):
            scales[axis] = scale
            sizes[axis] = _floor(x.shape[axis] * scale)
    elif c.has(3):
        wanted = c.known(3, "the sizes")
        ratios = [want / x.shape[axis] for axis, want in zip(axes, wanted, strict=True)]
        policy = c.text("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            ratio = min(ratios) if policy == "not_larger" else max(ratios)
            ratios = [ratio] * len(axes)
            wanted = [math.floor(ratio * x.shape[axis] + 0.5) for axis in axes]
        for axis, want, ratio in zip(axes, wanted, ratios, strict=True):
            sizes[axis], scales[axis] = want, ratio
    else:
        raise c.invalid("it has neither scales nor sizes")
    check_size(c, sizes)
    regions = {axis: (roi[i], roi[i + len(axes)]) for i, axis in enumerate(axes)} if len(roi) == 2 * len(axes) else {}
    coordinates = "asymmetric" if c.version < 11 else c.text("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if c.version < 11 else c.text("nearest_mode", "round_prefer_floor")
    return _resized(c, x, sizes, scales, coordinates, rounding, regions)


def _upsample(c: Call) -> Tensor:
    x = c.tensor(0)
    scales = c.reals("scales") if c.version < 9 else c.known(1, "the scales")
    if scales is None or len(scales) != x.dim():
        raise c.invalid("it has no scale for each axis")
    sizes = [_floor(size * scale) for size, scale in zip(x.shape, scales, strict=True)]
    check_size(c, sizes)
    return _resized(c, x, sizes, list(scales), "asymmetric", "floor", {})


def _floor(size: Any) -> Any:
    return math.floor(size) if isinstance(size, int | float) else n.whole(size)


def _resized(
    c: Call,
    x: Tensor,
    sizes: list[Any],
    scales: list[Any],
    coordinates: str,
    rounding: str,
    regions: dict[int, tuple[float, float]],
) -> Tensor:
    mode = c.text("mode", "nearest")
    changed = [
        axis for axis in range(x.dim()) if not (n.equal(sizes[axis], x.shape[axis]) is True and scales[axis] == 1)
    ]
    if not changed and coordinates != "tf_crop_and_resize":
        return x
    found = _by_torch(c, x, sizes, scales, mode, coordinates, rounding, changed)
    if found is not None:
        return found
    symbolic = any(isinstance(size, torch.SymInt) for axis in changed for size in (sizes[axis], x.shape[axis]))
    if symbolic and mode == "nearest":
        for axis in changed:
            x = _nearest(c, x, axis, sizes[axis], scales[axis], coordinates, rounding)
        return x
    if symbolic:
        raise c.unsupported(f"the mode {mode} with the coordinates {coordinates} of an axis that has no fixed size")
    dtype = x.dtype
    wide = x if x.is_floating_point() and dtype.itemsize >= 4 else x.to(torch.float32)
    for axis in changed if coordinates != "tf_crop_and_resize" else range(x.dim()):
        weights, outside = _weights(
            c, int(x.shape[axis]), int(sizes[axis]), float(scales[axis]), coordinates, rounding, regions.get(axis)
        )
        moved = torch.matmul(wide.movedim(axis, -1), torch.tensor(weights.T, dtype=wide.dtype))
        if outside is not None and outside.any():
            value = c.real("extrapolation_value", 0.0)
            moved = torch.where(torch.tensor(outside), value, moved)
        wide = moved.movedim(-1, axis)
    return wide.to(dtype)


def _by_torch(
    c: Call,
    x: Tensor,
    sizes: list[Any],
    scales: list[Any],
    mode: str,
    coordinates: str,
    rounding: str,
    changed: list[int],
) -> Tensor | None:
    """By torch's interpolation, if that is the same."""
    found = _TORCH.get((mode, coordinates, rounding if mode == "nearest" else ""))
    if mode == "nearest" and _is_floor(coordinates, rounding, [scales[axis] for axis in changed]):
        found = ("nearest", None)
    rank = x.dim() - 2
    if found is None or min(changed) < 2 or (mode, rank) not in _NAMES or not x.is_floating_point():
        return None
    if c.flag("antialias") or c.flag("exclude_outside") or c.real("cubic_coeff_a", -0.75) != -0.75:
        return None
    symbolic = (torch.SymInt, torch.SymFloat)
    for axis in range(2, x.dim()):
        exact = isinstance(sizes[axis], symbolic) or isinstance(scales[axis], symbolic)
        if not exact and abs(sizes[axis] - x.shape[axis] * scales[axis]) > 1e-6 * sizes[axis]:
            return None
        if coordinates == "pytorch_half_pixel" and not isinstance(sizes[axis], symbolic) and sizes[axis] == 1:
            return None
    return F.interpolate(x, size=sizes[2:], mode=_NAMES[mode, rank], align_corners=found[1])


def _is_floor(coordinates: str, rounding: str, scales: list[Any]) -> bool:
    """Whether the nearest pixel is that of the place over the scale, rounded down, as torch has it."""
    if any(not isinstance(scale, int | float) or scale != int(scale) for scale in scales):
        return False
    if coordinates == "asymmetric":
        return rounding == "round_prefer_floor" and all(scale in (1, 2) for scale in scales)
    # The middle of a small pixel is less than half of a large one from the middle of that.
    return coordinates == "half_pixel" and rounding.startswith("round_prefer")


def _nearest(c: Call, x: Tensor, axis: int, out: Any, scale: Any, coordinates: str, rounding: str) -> Tensor:
    """The nearest pixels along an axis, also of a size that is not fixed."""
    places = torch.arange(out, dtype=torch.float64)
    if coordinates == "asymmetric":
        at = places / scale
    elif coordinates == "half_pixel":
        at = (places + 0.5) / scale - 0.5
    else:
        raise c.unsupported(f"the nearest pixel with the coordinates {coordinates} of an axis that has no fixed size")
    rounded = {
        "round_prefer_floor": lambda: torch.ceil(at - 0.5),
        "round_prefer_ceil": lambda: torch.floor(at + 0.5),
        "floor": lambda: torch.floor(at),
        "ceil": lambda: torch.ceil(at),
    }.get(rounding)
    if rounded is None:
        raise c.invalid(f"there is no rounding {rounding!r}")
    index = torch.clamp(rounded(), 0, x.shape[axis] - 1).to(torch.int64)
    return torch.index_select(x, axis, index)


def _source(
    size: int, out: int, scale: float, coordinates: str, region: tuple[float, float] | None
) -> np.ndarray[Any, Any] | None:
    """Where in the input each place of the output is."""
    y = np.arange(out, dtype=np.float64)
    length = scale * size
    if coordinates == "align_corners":
        return y * (0.0 if length == 1 else (size - 1) / (length - 1))
    if coordinates == "asymmetric":
        return y / scale
    if coordinates == "tf_crop_and_resize":
        low, high = region or (0.0, 1.0)
        if length == 1:
            return np.full(out, (high - low) * (size - 1) / 2 + low * (size - 1))
        return y * (high - low) * (size - 1) / (length - 1) + low * (size - 1)
    if coordinates == "pytorch_half_pixel" and length == 1:
        return np.full(out, -0.5)
    if coordinates in ("half_pixel", "pytorch_half_pixel"):
        return (y + 0.5) / scale - 0.5
    if coordinates == "half_pixel_symmetric":
        return size / 2 * (1 - out / length) + (y + 0.5) / scale - 0.5
    return None


def _weights(
    c: Call, size: int, out: int, scale: float, coordinates: str, rounding: str, region: tuple[float, float] | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]:
    """What each place of the input weighs in each of the output [out, size], and which of these are outside."""
    at = _source(size, out, scale, coordinates, region)
    if at is None:
        raise c.invalid(f"there are no coordinates {coordinates!r}")
    outside = (at < 0) | (at > size - 1) if coordinates == "tf_crop_and_resize" else None
    mode = c.text("mode", "nearest")
    left = np.ceil(at) - 1  # the one to the left, also of a whole number
    ratio = at - left
    if mode == "nearest":
        up = {
            "round_prefer_floor": ratio > 0.5,
            "round_prefer_ceil": ratio >= 0.5,
            "floor": ratio == 1,
            "ceil": np.ones_like(ratio, dtype=bool),
        }.get(rounding)
        if up is None:
            raise c.invalid(f"there is no rounding {rounding!r}")
        taps, parts = np.zeros(1), np.ones((out, 1))
        left = left + up
    else:
        taps, parts = _taps(c, mode, ratio, scale if c.flag("antialias") else 1.0)
    places = left[:, None] + taps
    if c.flag("exclude_outside") and mode != "nearest":
        parts = np.where((places >= 0) & (places < size), parts, 0)
        parts = parts / parts.sum(-1, keepdims=True)
    found = np.zeros((out, size))
    np.add.at(found, (np.arange(out)[:, None], np.clip(places, 0, size - 1).astype(np.int64)), parts)
    return found, outside


def _taps(
    c: Call, mode: str, ratio: np.ndarray[Any, Any], scale: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The neighbours that are read, from the one to the left on, and what they weigh."""
    scale = min(scale, 1.0)
    reach = {"linear": 1, "cubic": 2}.get(mode)
    if reach is None:
        raise c.invalid(f"there is no mode {mode!r}")
    start = math.floor(-reach / scale) + 1
    taps = np.arange(start, 2 - start, dtype=np.float64)
    distance = np.abs((taps - ratio[:, None]) * scale)
    if mode == "linear":
        parts = np.clip(1 - distance, 0, 1)
    else:
        a = c.real("cubic_coeff_a", -0.75)
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((distance - 5) * distance + 8) * distance * a - 4 * a
        parts = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    return taps, parts / parts.sum(-1, keepdims=True)


_MODES = {"linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic", "bicubic": "bicubic", "nearest": "nearest"}


def _grid_sample(c: Call) -> Tensor:
    x, grid = c.tensor(0), c.tensor(1)
    mode = _MODES.get(c.text("mode", "linear"))
    around = c.text("padding_mode", "zeros")
    if mode is None or around not in ("zeros", "border", "reflection"):
        raise c.invalid(f"there is no mode {c.text('mode', 'linear')!r} with {around!r}")
    if x.dim() not in (4, 5) or (x.dim() == 5 and mode == "bicubic"):
        raise c.unsupported(f"the mode {mode} over {x.dim() - 2} axes")
    return F.grid_sample(x, grid, mode, around, align_corners=c.flag("align_corners"))


def _roi_align(c: Call) -> Tensor:
    """Means, or maxima, of points of regions that are read between the pixels."""
    x, regions, rows = c.tensor(0), c.tensor(1), c.tensor(2)
    height, width = c.integer("output_height", 1), c.integer("output_width", 1)
    ratio = c.integer("sampling_ratio", 0)
    half = c.version >= 16 and c.text("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    if ratio < 1:
        raise c.unsupported("how many points are read depends on the regions: give a sampling_ratio")
    check_size(c, [regions.shape[0], height * ratio, width * ratio, x.shape[1]])
    boxes = regions * c.real("spatial_scale", 1.0) - (0.5 if half else 0.0)
    sizes = boxes[:, 2:] - boxes[:, :2]
    if not half:
        sizes = torch.clamp(sizes, min=1.0)

    def points(start: Tensor, size: Tensor, bins: int) -> Tensor:
        steps = (torch.arange(bins * ratio, dtype=x.dtype) + 0.5) / ratio
        return start[:, None] + steps * (size / bins)[:, None]

    y = points(boxes[:, 1], sizes[:, 1], height)[:, :, None]
    z = points(boxes[:, 0], sizes[:, 0], width)[:, None, :]
    images = torch.index_select(x, 0, rows.to(torch.int64))
    flat = images.flatten(2)
    high, wide = x.shape[2], x.shape[3]
    inside = (y >= -1) & (y <= high) & (z >= -1) & (z <= wide)
    y, z = torch.clamp(y, min=0), torch.clamp(z, min=0)
    top, left = torch.clamp(torch.floor(y), max=high - 1), torch.clamp(torch.floor(z), max=wide - 1)
    y, z = torch.minimum(y, torch.full_like(y, high - 1)), torch.minimum(z, torch.full_like(z, wide - 1))
    parts = []
    for down in (0, 1):
        for right in (0, 1):
            at_y, at_z = torch.clamp(top + down, max=high - 1), torch.clamp(left + right, max=wide - 1)
            weight = (y - top if down else 1 - (y - top)) * (z - left if right else 1 - (z - left))
            index = (at_y * wide + at_z).to(torch.int64).flatten(1).unsqueeze(1).expand(-1, x.shape[1], -1)
            values = torch.gather(flat, 2, index).reshape(*index.shape[:2], height * ratio, width * ratio)
            parts.append(values * torch.where(inside, weight, 0.0).unsqueeze(1))
    windows = [each.unfold(2, ratio, ratio).unfold(3, ratio, ratio).flatten(4) for each in parts]
    if c.text("mode", "avg") == "max":  # of each of the four products, not of their sum
        return torch.stack(windows).amax(0).amax(-1)
    return sum(windows[1:], windows[0]).mean(-1)


TABLE: Table = {
    "Resize": _resize,
    "Upsample": _upsample,
    "GridSample": _grid_sample,
    "RoiAlign": _roi_align,
}
