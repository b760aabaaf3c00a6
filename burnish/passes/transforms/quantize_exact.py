"""Integers found again in floats that were made from integers: nothing is rounded then.

Many models are published as floats that a quantized file, or training for few bits, once gave: in each group of a row
the weights lie on at most 16 equally spaced levels. To round those to another grid of as many levels costs as much as
to round any others; on their own grid it costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.ir.quantization import SCALE_DTYPE, Quantized, pack
from burnish.ir.weights import Stored
from burnish.passes.transforms.quantize_rounding import Grid

_ROWS = 512  # of a weight at a time
# How much of the largest of a group may be lost: twice the half step by which bfloat16 or float16 may be off, as the
# value was rounded, and so were those that its levels are found from. Of float32 four times as much: there each value
# was computed with roundings, too, and is so again.
_SLACK = {torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10, torch.float32: 2.0**-21}
_STEPS = range(15, 7, -1)  # from the least to the largest of a group: those of fewer are a half or a third of these
_LARGEST = (-8, 7, 6, 5, 4)  # what the largest magnitude may stand for where there are no zero points; likewise
_PREFERRED = [(True, True), (True, False), (False, True), (False, False)]  # narrow scales, whole zero points


@dataclass(frozen=True)
class _Levels:
    """Some groups[n, group] on levels: scale * (u - zero), where mean = scale * (mean of u - zero)."""

    groups: Tensor  # float32
    u: Tensor  # uint8[n, group], from 0 to 15
    mean: Tensor  # float64[n, 1], of the groups
    scale: Tensor  # float64[n, 1]
    bound: Tensor  # float32[n, 1]: how much may be lost

    def exactly(self, narrow: bool, whole: bool) -> tuple[Tensor, Tensor] | None:
        """Scales and zero points, or if not `whole` minima, [n, 1] that lose nothing; None without any.

        `narrow`: scales are float16.
        """
        scale = self.scale.to(SCALE_DTYPE if narrow else torch.float32)
        level = self.u.double().mean(-1, keepdim=True)
        if whole:
            zero = (level - self.mean / torch.where(scale == 0, 1.0, scale.double())).float().round().clamp(0, 15)
            found, least = (self.u.float() - zero) * scale.float(), zero
        else:
            least = (self.mean - scale.double() * level).float()
            found = self.u.float() * scale.float() + least
        return (scale, least) if bool(((found - self.groups).abs() <= self.bound).all()) else None


def found_again(weight: Tensor, grid: Grid) -> Quantized | None:
    """weight[N, K] as the 4-bit integers that it was made from, in groups of `grid`; None if it is on no such grid.

    What comes back is off by no more than the rounding of the dtype that the weight was in (`_SLACK`), of the largest
    of a group: float16 or bfloat16 where all values are of these, else float32. Scales are float16 where those will
    do, and else float32; zero points are whole, or there are minima; without either scales have to be float16.
    """
    if grid.bits != 4:
        return None
    slack = _SLACK[dtype_of(weight)]
    parts: list[_Levels] = []
    for rows in torch.split(weight.float(), _ROWS):
        groups = rows.reshape(-1, grid.group)
        bound = slack * groups.abs().amax(-1, keepdim=True)
        u = _through_zero(groups, bound) if grid.symmetric else _levels(groups, bound)
        if u is None:
            return None
        parts.append(_fitted(groups, u, bound))
    for narrow, whole in _PREFERRED[: 1 if grid.symmetric else None]:
        found = [exact for part in parts if (exact := part.exactly(narrow, whole)) is not None]
        if len(found) == len(parts):
            u = torch.cat([part.u for part in parts]).reshape(weight.shape)
            scales, least = (torch.cat(each).reshape(len(weight), -1) for each in zip(*found, strict=True))
            if grid.symmetric and bool((least != 8).any()):
                return None
            zeros = Stored(least) if whole and not grid.symmetric else None
            minima = None if whole else Stored(least)
            return Quantized(Stored(pack(u, 4, grid.group)), Stored(scales), zeros, 4, grid.group, minima)
    return None


def dtype_of(weight: Tensor) -> torch.dtype:
    """The narrowest dtype that has all values."""
    narrow = (each for each in (torch.bfloat16, torch.float16) if torch.equal(weight.to(each).to(weight.dtype), weight))
    return next(narrow, torch.float32)


def _levels(groups: Tensor, bound: Tensor) -> Tensor | None:
    """uint8[n, group]: which level each of groups[n, group] is on, from the least of its group; None if on none."""
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    return _first_that_fits(groups, bound, low, [((high - low) / steps, 0) for steps in _STEPS])


def _through_zero(groups: Tensor, bound: Tensor) -> Tensor | None:
    """The same of levels of which number 8 is zero."""
    largest = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
    zero = torch.zeros_like(largest)
    return _first_that_fits(groups, bound, zero, [(largest / integer, 8) for integer in _LARGEST])


def _first_that_fits(groups: Tensor, bound: Tensor, start: Tensor, steps: list[tuple[Tensor, int]]) -> Tensor | None:
    """The levels of `start` + step * (u - zero) for the first step and zero that each group fits."""
    u = torch.full(groups.shape, 8, dtype=torch.uint8)
    left = torch.arange(len(groups))
    for step, zero in steps:
        part, least = groups[left], start[left]
        apart = step[left]
        levels = ((part - least) / torch.where(apart == 0, 1.0, apart)).round_()
        near = (levels * apart + least - part).abs() <= bound[left]
        fits = (near & (levels + zero >= 0) & (levels + zero <= 15)).all(-1)
        u[left[fits]] = (levels[fits] + zero).to(torch.uint8)
        left = left[~fits]
        if not len(left):
            return u
    return None


def _fitted(groups: Tensor, u: Tensor, bound: Tensor) -> _Levels:
    """Scales and zero points of least squares for the levels that there are."""
    values, levels = groups.double(), u.double()
    mean, level = values.mean(-1, keepdim=True), levels.mean(-1, keepdim=True)
    apart = levels - level
    varies = apart.square().sum(-1, keepdim=True)
    scale = (apart * (values - mean)).sum(-1, keepdim=True) / varies.clamp_min(1.0)
    # One value all over is an integer times a scale, one that a float16 has if there is any.
    alike, u = (varies == 0) & (mean != 0), u.clone()
    for integer in reversed(_LARGEST):
        step = mean / integer
        fits = alike & ((step.to(SCALE_DTYPE).double() * integer - mean).abs() <= bound)
        fits |= alike & (scale == 0)
        scale = torch.where(fits, step, scale)
        u = torch.where(fits, integer + 8, u).to(torch.uint8)
    return _Levels(groups, u, mean, scale, bound)
