"""A weight of floats as integers: each rounded to the nearest, or so that errors make up for one another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.ir.errors import InvalidInputError
from burnish.ir.quantization import SCALE_DTYPE, Quantized, pack
from burnish.ir.quantized_ops import block_of
from burnish.ir.weights import Stored

_ROWS = 512  # of a weight at a time: what is worked on fits into a cache, and no threads wait for one another over it
_BLOCK = 128  # columns whose errors go to all later ones in one product
_DAMPING = 0.01  # of the mean of the Hessian's diagonal
_FACTORS = tuple(1 - step / 80 for step in range(41))  # of the largest magnitude: what scales are tried for


@dataclass(frozen=True)
class Grid:
    """What numbers a weight[N, K] may have: scale * (q - zero), with a scale for each `group` along K."""

    bits: int
    group: int
    symmetric: bool = True  # no zero points; always so of 8 bits

    @property
    def name(self) -> str:
        """What a user calls it."""
        return f"int{self.bits}"

    @property
    def bounds(self) -> tuple[int, int]:
        """The least and the largest q."""
        return (-127, 127) if self.bits == 8 else (0, 15)

    def __str__(self) -> str:
        parts = "a scale" if self.symmetric else "a scale and a zero point"
        return f"{self.name}, {parts} for each {self.group}"


def grid_of_8_bits(size: int) -> Grid:
    """int8 of rows of `size`, with a scale for each block that artifacts for CPUs store one of; a row without blocks.

    A scale for a whole row is repeated there for each block: a block's own costs no byte and no time.
    """
    block = block_of(8, size, size)
    return Grid(8, size if block is None or size % block else block)


def nearest(weight: Tensor, grid: Grid) -> Quantized:
    """weight[N, K] rounded to the nearest, with scales by which the extremes of each group are just met."""
    found = []
    for rows in torch.split(weight.float(), _ROWS):
        groups = rows.T.reshape(-1, grid.group, len(rows))
        scales, zeros = _extremes(groups, grid, 1.0)
        q = _rounded(groups, scales, zeros, grid).flatten(0, 1)
        found.append((q, scales.squeeze(1), zeros.squeeze(1)))
    return _quantized(found, grid)


def searched(weight: Tensor, grid: Grid, importance: Tensor) -> Quantized:
    """weight[N, K] rounded to the nearest, with the scales of least squared error weighted by importance[K]."""
    found = []
    for rows in torch.split(weight.float(), _ROWS):
        groups = rows.T.reshape(-1, grid.group, len(rows))
        scales, zeros = _search(groups, grid, importance.reshape(-1, grid.group, 1))
        q = _rounded(groups, scales, zeros, grid).flatten(0, 1)
        found.append((q, scales.squeeze(1), zeros.squeeze(1)))
    return _quantized(found, grid)


def gptq(weight: Tensor, gram: Tensor, grid: Grid) -> Quantized:
    """weight[N, K] rounded column by column, each error made up for by the columns to come, for inputs of gram[K, K].

    `gram`: X^T X of what the linear reads, float64. GPTQ (Frantar et al., 2022); the scales of a group are searched
    when it is come to, for the least error by the weights that GPTQ gives to columns.
    """
    factor = inverse_factor(gram).float()
    return _quantized([_gptq(rows, factor, grid) for rows in torch.split(weight.float(), _ROWS)], grid)


def output_error(weight: Tensor, other: Tensor, gram: Tensor) -> float:
    """|X (other - weight)^T|^2 / |X weight^T|^2, of weights [N, K] and inputs of gram[K, K] = X^T X."""
    gram = gram.float()
    change = other - weight
    return float(((change @ gram) * change).sum() / ((weight @ gram) * weight).sum().clamp_min(1e-30))


def inverse_factor(gram: Tensor) -> Tensor:
    """The upper U[K, K] with U^T U = (gram + damping)^-1, float64."""
    mean = gram.diagonal().mean()
    if not bool(torch.isfinite(mean)):
        raise InvalidInputError("on calibration text a linear reads values that are not finite: nothing fits to them")
    # A linear that reads zeros alone has nothing to go by, and is rounded to the nearest.
    damping = _DAMPING * mean if mean > 0 else torch.ones_like(mean)
    damped = gram + damping * torch.eye(len(gram), dtype=gram.dtype)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


_Columns = tuple[Tensor, Tensor, Tensor]  # q[K, N], scales[K / group, N], zeros[K / group, N]


def _gptq(weight: Tensor, factor: Tensor, grid: Grid) -> _Columns:
    """Some rows of a weight. Columns lie side by side in memory here: [K, N]."""
    rest = weight.T.clone(memory_format=torch.contiguous_format)
    size, rows = rest.shape
    importance = (1 / factor.diagonal().square()).unsqueeze(1)
    q = torch.empty_like(rest)
    scales, zeros = (torch.empty(size // grid.group, rows) for _ in range(2))
    errors = torch.empty(min(_BLOCK, size), rows)
    scale = zero = torch.empty(0)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        for column in range(start, stop):
            group, place = divmod(column, grid.group)
            if place == 0:
                within = slice(column, column + grid.group)
                scale, zero = (part.squeeze(0) for part in _search(rest[within], grid, importance[within]))
                scales[group], zeros[group] = scale, zero
            q[column] = _rounded(rest[column], scale, zero, grid)
            error = (rest[column] - (q[column] - zero) * scale) / factor[column, column]
            rest[column + 1 : stop] -= factor[column, column + 1 : stop].unsqueeze(1) * error
            errors[column - start] = error
        rest[stop:] -= factor[start:stop, stop:].T @ errors[: stop - start]
    return q, scales, zeros


def _search(groups: Tensor, grid: Grid, importance: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and zero points [..., 1, N] of groups[..., group, N], of least error by importance[..., group, 1]."""
    scales, zeros = _extremes(groups, grid, 1.0)
    least = torch.full_like(scales, torch.inf)
    for factor in _FACTORS:
        scale, zero = _extremes(groups, grid, factor)
        floats = (_rounded(groups, scale, zero, grid) - zero) * scale
        error = ((floats - groups).square_() * importance).sum(-2, keepdim=True)
        better = error < least
        least = torch.where(better, error, least)
        scales, zeros = torch.where(better, scale, scales), torch.where(better, zero, zeros)
    return scales, zeros


def _extremes(groups: Tensor, grid: Grid, factor: float) -> tuple[Tensor, Tensor]:
    """Scales (of a float16's precision) and zero points [..., 1, N] by which `factor` of the extremes are met."""
    if grid.symmetric:
        largest = groups.abs().amax(-2, keepdim=True) * factor
        scale = (largest / (127 if grid.bits == 8 else 7)).to(SCALE_DTYPE).float()
        return scale, torch.full_like(scale, 0 if grid.bits == 8 else 8)
    low, high = (each(groups, -2, keepdim=True) * factor for each in (torch.amin, torch.amax))
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / 15).to(SCALE_DTYPE).float()
    return scale, (-low / scale.clamp_min(1e-30)).round_().clamp_(0, 15)


def _rounded(values: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """The integers of values, as floats."""
    # A scale too small for a float16 is 0, and so is all that it multiplies.
    return (values / scale.clamp_min(1e-30) + zero).round_().clamp_(*grid.bounds)


def _quantized(parts: list[_Columns], grid: Grid) -> Quantized:
    q, scales, zeros = (torch.cat(each, dim=1).T.contiguous() for each in zip(*parts, strict=True))
    return Quantized(
        Stored(pack(q, grid.bits, grid.group)),
        Stored(scales.to(SCALE_DTYPE)),
        None if grid.symmetric else Stored(zeros),
        grid.bits,
        grid.group,
    )
