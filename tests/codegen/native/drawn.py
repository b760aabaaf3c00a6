"""What kernels are tested with: operands of any strides, instruction sets and teams of threads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from hypothesis import strategies as st
from torch import Tensor

from burnish.codegen.native import spec
from burnish.runtime.native.library import best_level, levels

STRANGE = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0)
PLAIN = levels()[-1]
MACHINES = st.tuples(st.sampled_from([None, PLAIN]), st.sampled_from([1, 3]))
"""An instruction set, None for the best, and a number of threads."""


@contextmanager
def machine(level: str | None, threads: int) -> Iterator[None]:
    """Kernels run so within it."""
    tokens = spec.LEVEL.set(level or best_level()), spec.THREADS.set(threads)
    try:
        yield
    finally:
        spec.LEVEL.reset(tokens[0])
        spec.THREADS.reset(tokens[1])


def shapes(least: int = 0, most: int = 4) -> st.SearchStrategy[tuple[int, ...]]:
    """Small shapes, and some whose last axis is longer than a block."""
    sizes = st.lists(st.integers(1, 5), min_size=least, max_size=most)
    inner = st.sampled_from([1, 2, 3, 7, 16, 31, 64, 513, 1100])
    return st.tuples(sizes, inner, st.booleans()).map(
        lambda drawn: (*drawn[0][:-1], drawn[1]) if drawn[0] and drawn[2] else tuple(drawn[0])
    )


def filled(shape: Sequence[int], dtype: torch.dtype, seed: int, strange: bool = False) -> Tensor:
    """Random elements, some of which are no numbers, or infinite."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == torch.bool:
        return torch.rand(tuple(shape), generator=generator) > 0.5
    if not dtype.is_floating_point:
        least = 0 if dtype == torch.uint8 else -9
        return torch.randint(least, 10, tuple(shape), generator=generator).to(dtype)
    x = torch.randn(tuple(shape), generator=generator) * 3
    if strange:
        which = torch.rand(x.shape, generator=generator)
        for number, value in enumerate(STRANGE):
            x[(which > number / 20) & (which <= (number + 1) / 20)] = value
    return x.to(dtype)


@st.composite
def strided(
    draw: st.DrawFn,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    strange: bool = False,
    dense: bool = False,
) -> Tensor:
    """A tensor of that shape as a view of a larger one: its axes in another order, every other element, repeated."""
    kinds = ["dense", "permuted"] if dense else ["dense", "permuted", "stepped", "repeated"]
    kind, seed = draw(st.sampled_from(kinds)), draw(st.integers(0, 999))
    if kind == "permuted":
        order = draw(st.permutations(range(len(shape))))
        x = filled([shape[axis] for axis in order], dtype, seed, strange)
        return x.permute([order.index(axis) for axis in range(len(shape))])
    if kind == "stepped" and shape:
        x = filled([2 * size + 1 for size in shape], dtype, seed, strange)
        return x[tuple(slice(1, None, 2) for _ in shape)]
    if kind == "repeated" and shape:
        axis = draw(st.integers(0, len(shape) - 1))
        return filled([*shape[:axis], 1, *shape[axis + 1 :]], dtype, seed, strange).expand(tuple(shape))
    return filled(shape, dtype, seed, strange)


def assert_same(found: Tensor, expected: Tensor) -> None:
    """The same numbers of the same type in the same order in memory."""
    assert_alike(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def assert_alike(found: Tensor, expected: Tensor) -> None:
    """The same type, and the same order in memory: views of one can be views of the other."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    steps = [
        tuple(stride for size, stride in zip(x.shape, x.stride(), strict=True) if size != 1) for x in (found, expected)
    ]
    assert steps[0] == steps[1] or not found.numel()
