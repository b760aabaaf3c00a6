"""A launch plan: a step of the model as kernels, buffers and sizes, as data.

Sizes are texts over `batch`, `sequence`, `capacity` and `kept`, which are numbers as soon as a step is run:
"(batch*sequence + 63)//64". A plan has several variants, each for some range of these.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

import msgspec

from burnish.ir.errors import ArtifactError

VERSION = 2  # of plan.json. 1: three results with fields of their own, and inputs by number
SIZES = ("batch", "sequence", "capacity", "kept")

Size: TypeAlias = int | str
"""A number, or a text over SIZES with + - * // % and parentheses, max and min."""


class TensorReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="tensor", omit_defaults=True):
    """A tensor in a buffer. `offset` and `stride` count elements.

    `buffer` is "input NAME", "state NAME", "weight NAME", "zeros N" or "temporary N".
    """

    buffer: str
    dtype: str
    shape: list[Size]
    stride: list[Size]
    offset: Size = 0


class Scalar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="scalar"):
    """A number: a size, or a float."""

    value: Size | float


Argument: TypeAlias = TensorReference | Scalar


class Launch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="launch"):
    """One kernel on a grid. `arguments` are in the kernel's order."""

    kernel: str  # its key among the plan's kernels
    grid: list[Size]
    arguments: list[Argument]
    node: str  # of the step graph, for people


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="call"):
    """One ATen or burnish op, for want of a kernel: its results are copied into `results`.

    An argument is a number, a string, true, false, null, a list of arguments, or an object with one key: `tensor` (a
    TensorReference), `size`, `dtype`, `memory_format` or `float` (for inf, -inf and nan).
    """

    op: str  # "aten.clone.default"
    arguments: list[Any]
    options: dict[str, Any]
    results: list[TensorReference]
    node: str
    reason: str  # why there is no kernel


class Buffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Memory between the first and the last step that use it, counted from 0."""

    bytes: Size
    first: int
    last: int


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a step can give, and what makes it, behind the steps that are for all results."""

    steps: list[Launch | Call]
    tensor: TensorReference


class Variant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The steps for sizes in some range. Temporaries count them with those of all results behind, in their order."""

    ranges: dict[str, tuple[int, int | None]]  # least and largest of SIZES that are bounded, and of rows
    steps: list[Launch | Call]
    temporaries: list[Buffer]
    zeros: list[Size]  # bytes of buffers that are zero before and after each step
    results: dict[str, Result]  # by name, logits among them, whose steps may run behind those of another

    @property
    def all_steps(self) -> list[Launch | Call]:
        """Those of all results, too."""
        return [*self.steps, *(step for result in self.results.values() for step in result.steps)]

    def fits(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is for these sizes; rows are batch * sequence."""
        known = {**sizes, "rows": sizes["batch"] * sizes["sequence"]}
        return all(
            least <= known[name] and (most is None or known[name] <= most)
            for name, (least, most) in self.ranges.items()
        )


class Kernel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kernel with all settled that is settled before it runs."""

    module: str  # of the function: "burnish.codegen.triton.kernels.rms_norm", or a file of the artifact
    function: str
    arguments: dict[str, str]  # names and Triton's types: "*fp16", "i32", "fp32"
    constants: dict[str, int | float | bool | str | None]
    aligned: list[str]  # arguments that are multiples of 16
    num_warps: int
    num_stages: int


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All variants, the first that fits is for a step, and their kernels by key."""

    variants: list[Variant]
    kernels: dict[str, Kernel]

    def variant(self, sizes: Mapping[str, int]) -> Variant:
        """The first that is for `sizes`. Raises ArtifactError if none is."""
        for variant in self.variants:
            if variant.fits(sizes):
                return variant
        raise ArtifactError(f"the artifact's launch plan has no variant for the sizes {dict(sizes)}")


def evaluate(size: Size, sizes: Mapping[str, int]) -> int:
    """The number that `size` is for these sizes. Raises ArtifactError if it is not a size."""
    try:
        return size if isinstance(size, int) else _parsed(size)(sizes)
    except ZeroDivisionError as error:
        raise ArtifactError(f"the launch plan has {size!r} for a size, which divides by 0") from error


_Evaluator: TypeAlias = Callable[[Mapping[str, int]], int]
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_FUNCTIONS = {"max": max, "min": min}


@lru_cache(maxsize=4096)
def _parsed(text: str) -> _Evaluator:
    try:
        return _evaluator(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, ValueError, RecursionError) as error:
        raise ArtifactError(f"the launch plan has {text!r} for a size: {error}") from error


def _evaluator(node: ast.expr, text: str) -> _Evaluator:
    """What computes a part of a size."""
    match node:
        case ast.Constant(value=int(number)) if not isinstance(number, bool):
            return lambda sizes: number
        case ast.Name(id=name) if name in SIZES:
            return lambda sizes: sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _evaluator(operand, text)
            return lambda sizes: -inner(sizes)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            function, first, second = _OPERATORS[type(op)], _evaluator(left, text), _evaluator(right, text)
            return lambda sizes: function(first(sizes), second(sizes))
        case ast.Call(func=ast.Name(id=name), args=[_, *_] as args, keywords=[]) if name in _FUNCTIONS:
            choose, parts = _FUNCTIONS[name], [_evaluator(each, text) for each in args]
            return lambda sizes: choose(part(sizes) for part in parts)
    raise ArtifactError(f"the launch plan has {text!r} for a size, which is no arithmetic over {', '.join(SIZES)}")
