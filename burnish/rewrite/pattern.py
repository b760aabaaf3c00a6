"""What to look for: expressions over a graph's nodes, written like the formula that they find.

    x, weight, eps = Variable("x"), Variable("weight"), Number("eps")
    rms_norm = weight * (x * rsqrt(mean(x**2, Axis(-1), True) + eps))

A pattern object that stands in an expression twice is one node in the graph (`x` above). What an op's pattern does not
mention has its default. A number in a pattern is compared exactly. Interior nodes may have other users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import fx

aten = torch.ops.aten


class Pattern:
    """Base of all patterns; arithmetic on patterns makes patterns of arithmetic."""

    def __add__(self, other: Any) -> Pattern:
        return add(self, other)

    def __radd__(self, other: Any) -> Pattern:
        return add(other, self)

    def __sub__(self, other: Any) -> Pattern:
        return sub(self, other)

    def __mul__(self, other: Any) -> Pattern:
        return mul(self, other)

    def __rmul__(self, other: Any) -> Pattern:
        return mul(other, self)

    def __truediv__(self, other: Any) -> Pattern:
        return div(self, other)

    def __pow__(self, other: Any) -> Pattern:
        return power(self, other)

    def __neg__(self) -> Pattern:
        return neg(self)


@dataclass(frozen=True, eq=False)
class Variable(Pattern):
    """Any node, or any for which `allowed` holds; `meaning` says in messages what that is."""

    name: str
    allowed: Callable[[fx.Node], bool] | None = None
    meaning: str = "a node"


@dataclass(frozen=True, eq=False)
class Number(Pattern):
    """Any number: a literal, or a weight with one element."""

    name: str


@dataclass(frozen=True, eq=False)
class Argument(Pattern):
    """Any argument, taken as it is: a list, a number, None, a node."""

    name: str


@dataclass(frozen=True, eq=False)
class Axis(Pattern):
    """An axis, or a list of just this axis; counted from the end of the op's first argument if negative, as always."""

    axis: int


@dataclass(frozen=True)
class Op:
    """Ops that are one word of the pattern language; their arguments agree in order.

    `free` arguments may have any value where a pattern does not mention them; all others must have their default.
    """

    name: str
    targets: frozenset[Any]
    commutes: bool = False
    free: frozenset[str] = frozenset()

    def __call__(self, *args: Any, **named: Any) -> Call:
        return Call(self, args, named)


@dataclass(frozen=True, eq=False)
class Call(Pattern):
    """A node that calls one of `op.targets` with arguments that match."""

    op: Op
    args: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Either(Pattern):
    """The first of `options` that matches; what only another one mentions stays unbound."""

    options: tuple[Pattern, ...]


@dataclass(frozen=True, eq=False)
class Maybe(Pattern):
    """`inner`, or one of `op.targets` on it with any further arguments."""

    op: Op
    inner: Pattern


def either(*options: Pattern) -> Either:
    """The first of `options` that matches."""
    return Either(options)


def op(name: str, *targets: Any, commutes: bool = False, free: tuple[str, ...] = ()) -> Op:
    """A word of the pattern language for `targets`."""
    return Op(name, frozenset(targets), commutes, frozenset(free))


def roots(pattern: Pattern) -> frozenset[Any]:
    """The targets that a node which matches `pattern` may have; it must be an op or a choice of ops."""
    if isinstance(pattern, Call):
        return pattern.op.targets
    if isinstance(pattern, Either):
        return frozenset().union(*(roots(option) for option in pattern.options))
    raise TypeError(f"a rule's pattern must begin with an op, not with a {type(pattern).__name__}")


@cache
def size(pattern: Pattern) -> int:
    """How many ops a match of `pattern` has at most, each counted once."""
    counted: set[int] = set()
    return _size(pattern, counted)


def _size(pattern: Any, counted: set[int]) -> int:
    if isinstance(pattern, list | tuple):
        return sum(_size(item, counted) for item in pattern)
    if not isinstance(pattern, Pattern) or id(pattern) in counted:
        return 0
    counted.add(id(pattern))
    if isinstance(pattern, Call):
        return 1 + sum(_size(item, counted) for item in _operands(pattern))
    if isinstance(pattern, Either):
        return max(_size(option, set(counted)) for option in pattern.options)
    return _size(pattern.inner, counted) if isinstance(pattern, Maybe) else 0


def _operands(pattern: Call) -> Iterator[Any]:
    yield from pattern.args
    yield from pattern.named.values()


# The words that arithmetic on patterns is made of. Alias sets are declared here, once, and nowhere else.
add = op("add", aten.add.Tensor, aten.add.Scalar, commutes=True)
sub = op("sub", aten.sub.Tensor, aten.sub.Scalar)
mul = op("mul", aten.mul.Tensor, aten.mul.Scalar, commutes=True)
div = op("div", aten.div.Tensor, aten.div.Scalar)
neg = op("neg", aten.neg.default)
power = op("pow", aten.pow.Tensor_Scalar)
