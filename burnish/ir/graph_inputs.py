"""Inputs that a graph is tried with: of the sizes that it may have, made of an example's values; and what they give."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from burnish.ir.conditions import holds, number
from burnish.ir.program import Program

_MOST = 1 << 24  # elements of an input at a size that is not the example's
_MOST_INSIDE = 1 << 27  # and of a value on the way: attention over pixels has many

Tensors = Mapping[str, Tensor]


def several_sizes(program: Program) -> Iterator[dict[str, int]]:
    """Sizes by name to compare a graph at: the example's, and each of them the least, one more, and twice as large."""
    examples, ranges = _example_sizes(program), program.details["ranges"]
    yield examples
    for name, size in examples.items():
        least, most = ranges[name]
        for other in dict.fromkeys((max(least, 1), size + 1, 2 * size)):
            sizes = {**examples, name: other}
            if other != size and least <= other <= (most or other) and _allowed(program, sizes):
                yield sizes


def _example_sizes(program: Program) -> dict[str, int]:
    names = program.details["symbols"]
    return {names[symbol]: size for symbol, size in program.details["examples"].items()}


def _largest(program: Program, sizes: Mapping[str, int]) -> int:
    """The elements of the largest value, of those whose sizes are known before it runs."""
    by_symbol = {symbol: sizes[name] for symbol, name in program.details["symbols"].items() if name in sizes}
    known: dict[Any, int | None] = {}

    def size_of(size: Any) -> int | None:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression not in known:
            free = {each: by_symbol.get(str(each)) for each in expression.free_symbols}
            known[expression] = None if None in free.values() else int(expression.subs(free))
        return known[expression]

    largest = 0
    for node in program.graph.nodes:
        if isinstance(val := node.meta.get("val"), Tensor):
            found = [size_of(each) for each in val.shape]
            if None not in found:
                largest = max(largest, math.prod(found))  # type: ignore[arg-type]
    return largest


def _allowed(program: Program, sizes: Mapping[str, int]) -> bool:
    return all(holds(condition, sizes) for condition in program.details["conditions"])


def inputs_of(program: Program, sizes: Mapping[str, int], examples: Tensors) -> dict[str, Tensor] | None:
    """Inputs of these sizes, by placeholder, made of what the examples have in them, so that ids stay ids.

    None if they would be too large, or what is computed of them.
    """
    if _largest(program, sizes) > max(_MOST_INSIDE, _largest(program, _example_sizes(program))):
        return None
    generator = torch.Generator().manual_seed(0)
    found: dict[str, Tensor] = {}
    for each in program.interface.inputs:
        shape = [axis if isinstance(axis, int) else number(axis, sizes) for axis in each.axes]
        example = examples[each.name]
        if list(example.shape) == shape:
            found[each.name] = example.contiguous()
            continue
        count = torch.Size(shape).numel()
        if count > max(_MOST, example.numel()):
            return None
        if example.numel() == 0:
            found[each.name] = torch.zeros(shape, dtype=example.dtype)
        else:
            places = torch.randint(example.numel(), (count,), generator=generator)
            values = example.reshape(-1)[places]
            if values.is_floating_point():  # a little less each, so that no two are equal: what is chosen is then one
                values = values * (1 - 1e-2 * torch.rand(count, generator=generator).to(values.dtype))
            found[each.name] = values.reshape(shape)
    return found


def told(sizes: Mapping[str, int]) -> str:
    """Sizes in words."""
    return "inputs of " + ", ".join(f"{name} {size}" for name, size in sizes.items()) if sizes else "the inputs"


def difference_of(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, of the largest number that is wanted; infinite for another shape or dtype.

    NaN and infinities differ from all but themselves. Integers have to be equal.
    """
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return float("inf")
    if not wanted.numel():
        return 0.0
    if not (wanted.is_floating_point() or wanted.is_complex()):
        return 0.0 if torch.equal(found, wanted) else float("inf")
    if wanted.is_complex():
        found, wanted = torch.view_as_real(found.resolve_conj()), torch.view_as_real(wanted.resolve_conj())
    one, other = found.to(torch.float64), wanted.to(torch.float64)
    same = (one == other) | (one.isnan() & other.isnan())
    apart = (one - other).abs().masked_fill(same, 0.0)
    largest = float(other.abs()[other.isfinite()].max()) if bool(other.isfinite().any()) else 0.0
    return float(apart.nan_to_num(float("inf"), float("inf")).max()) / (largest or 1.0)
