"""`burnish::fused_elementwise`: several operations on elements, rows and their views in one, told as text.

    input %linear: f32[batch, sequence, 64]
    input %norm_weight: f32[64]
    size %sym_size: size batch
    %rms_norm: f32[batch, sequence, 64] = burnish.rms_norm(%linear, %norm_weight, 1e-06)  # layers.*.norm | RMSNorm
    %tanh: f32[batch, sequence, 64] = aten.tanh(%rms_norm)  # layers.*.mlp | MLP | model.py:31 | x = torch.tanh(x)
    return [%tanh]

The lines of `burnish.ir.full_text`; their types are for readers and do not bind. The reference runs the lines one by
one, so that fusing keeps the numbers by definition. A body is data, from anywhere: it calls the ops listed here alone.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sympy
import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher

from burnish.ir.body import Group, Read, Step, given, parse_body
from burnish.ir.ops import burnish_ops, define
from burnish.ir.program import operands
from burnish.ir.traits import Traits

aten = torch.ops.aten

POINTWISE = frozenset(
    {
        aten.abs.default,
        aten.add.Scalar,
        aten.add.Tensor,
        aten.bitwise_and.Tensor,
        aten.bitwise_not.default,
        aten.bitwise_or.Tensor,
        aten.ceil.default,
        aten.clamp.default,
        aten.clamp_max.default,
        aten.clamp_min.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.cos.default,
        aten.div.Scalar,
        aten.div.Tensor,
        aten.elu.default,
        aten.eq.Scalar,
        aten.eq.Tensor,
        aten.erf.default,
        aten.exp.default,
        aten.expm1.default,
        aten.floor.default,
        aten.ge.Scalar,
        aten.ge.Tensor,
        aten.gelu.default,
        aten.gt.Scalar,
        aten.gt.Tensor,
        aten.hardsigmoid.default,
        aten.hardswish.default,
        aten.hardtanh.default,
        aten.le.Scalar,
        aten.le.Tensor,
        aten.leaky_relu.default,
        aten.log.default,
        aten.log1p.default,
        aten.log_sigmoid.default,
        aten.logical_and.default,
        aten.logical_not.default,
        aten.logical_or.default,
        aten.lt.Scalar,
        aten.lt.Tensor,
        aten.masked_fill.Scalar,
        aten.max.other,
        aten.maximum.default,
        aten.min.other,
        aten.minimum.default,
        aten.mish.default,
        aten.mul.Scalar,
        aten.mul.Tensor,
        aten.ne.Scalar,
        aten.ne.Tensor,
        aten.neg.default,
        aten.pow.Tensor_Scalar,
        aten.reciprocal.default,
        aten.relu.default,
        aten.relu6.default,
        aten.rsqrt.default,
        aten.rsub.Scalar,
        aten.sigmoid.default,
        aten.silu.default,
        aten.sin.default,
        aten.softplus.default,
        aten.sqrt.default,
        aten.square.default,
        aten.sub.Scalar,
        aten.sub.Tensor,
        aten.tanh.default,
        aten.to.dtype,
        aten._to_copy.default,
        aten.where.ScalarOther,
        aten.where.ScalarSelf,
        aten.where.self,
        burnish_ops.gated_activation.default,
        burnish_ops.rotary.default,
    }
)
"""Each element from elements of the same row (a rotary embedding: from two of them), with broadcasting."""

REDUCTIONS = frozenset(
    {
        aten.amax.default,
        aten.layer_norm.default,
        aten.mean.dim,
        aten.softmax.int,
        aten._softmax.default,
        aten.sum.dim_IntList,
        burnish_ops.rms_norm.default,
    }
)
"""Each element, or one a row, from all of the row: the last axis."""

GATHERS = frozenset({aten.embedding.default, aten.index_select.default, burnish_ops.lookup.default})
"""Rows of argument 0."""

VIEWS = frozenset(
    {
        aten.expand.default,
        aten.permute.default,
        aten.reshape.default,
        aten.select.int,
        aten.slice.Tensor,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.squeeze.dim,
        aten.transpose.int,
        aten.unsqueeze.default,
        aten.view.default,
        operator.getitem,
    }
)
"""Other names of the same elements."""

MEMBERS = POINTWISE | REDUCTIONS | GATHERS | {burnish_ops.positions.default, aten.cat.default}
"""What a group is made of; views stand between these."""

COMPLEX = frozenset({aten.polar.default, aten.view_as_real.default})
"""Of complex numbers: in formulas of position tables, and in no kernel."""

OPS: dict[str, Any] = {
    "getitem" if op is operator.getitem else str(op).removesuffix(".default"): op for op in (*MEMBERS, *VIEWS, *COMPLEX)
}
"""All that a body may call, by the names that texts have for it."""


@lru_cache(maxsize=4096)
def parse_group(body: str) -> Group:
    """What a body says. Raises ParseError, with the number of its line."""
    return parse_body(body, OPS)


MOST_FOLDED = 16
"""Terms of a sum that are added one by one."""


def folded_axis(call: Step | fx.Node, shape: Sequence[Any]) -> int | None:
    """The short axis, not the last one, that a sum adds up: its terms are added one by one, in place of a reduction."""
    args: tuple[Any, ...] = call.args
    dims = args[1] if len(args) > 1 else call.kwargs.get("dim")
    if call.target is not aten.sum.dim_IntList or not isinstance(dims, list | tuple) or len(dims) != 1:
        return None
    (axis,) = (int(dim) % len(shape) for dim in dims if isinstance(dim, int))
    short = isinstance(shape[axis], int) and shape[axis] <= MOST_FOLDED
    return axis if short and axis != len(shape) - 1 else None


def bound(call: Step | fx.Node) -> dict[str, Any]:
    """The arguments of a call by their names, defaults included."""
    target: Any = call.target
    schema = target._schema.arguments
    found = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    found.update(zip((argument.name for argument in schema), call.args, strict=False))
    return found | dict(call.kwargs)


def run_group(group: Group, inputs: Sequence[Any], sizes: Sequence[Any]) -> dict[str, Any]:
    """All values of a group by name, its operations run one by one."""
    values = given(group, inputs, sizes)
    for step in group.steps:
        args, kwargs = step.arguments(values.__getitem__)
        values[step.name] = step.target(*args, **kwargs)
    return values


@define("fused_elementwise(Tensor[] inputs, SymInt[] sizes, *, str body) -> Tensor[]", Traits())
def fused_elementwise(inputs: Sequence[Tensor], sizes: Sequence[int], *, body: str) -> list[Tensor]:
    """What the lines of `body` compute from `inputs` and `sizes`, and return."""
    group = parse_group(body)
    values = run_group(group, inputs, sizes)
    return [values[name] for name in group.results]


@dataclass(frozen=True)
class RowSpace:
    """What a kernel goes over. `flat`: each element of a result is a row of its own."""

    rows: int | torch.SymInt
    flat: bool = False


def row_space(results: Sequence[Tensor], reduced: Sequence[Tensor]) -> RowSpace | str:
    """The rows that all results of a group and all that it reduces have in common; else why there are none."""
    whole = [tuple(value.shape) for value in results]
    flat = [(*shape, 1) for shape in whole]
    for counted in ([tuple(value.shape) for value in reduced],) if reduced else (whole, flat):
        if any(not shape or not isinstance(shape[-1], int) for shape in counted):
            continue
        rows = [_product(shape[:-1]) for shape in counted]
        if all(_same(each, rows[0]) for each in rows) and (
            counted is flat or all(_has_rows(shape, rows[0]) for shape in whole)
        ):
            return RowSpace(rows[0], counted is flat)
    return "they have different numbers of rows"


_Size = int | torch.SymInt


def _product(sizes: Sequence[_Size]) -> _Size:
    found: _Size = 1
    for size in sizes:
        found = found * size
    return found


def _has_rows(shape: Sequence[_Size], rows: _Size) -> bool:
    """Whether it has rows of a known size in that number, or one element for each."""
    in_columns = bool(shape) and isinstance(shape[-1], int) and _same(_product(shape[:-1]), rows)
    return in_columns or _same(_product(shape), rows)


def _same(one: _Size, two: _Size) -> bool:
    """Whether two sizes are known to be the same, for all sizes of the inputs."""
    if isinstance(one, int) and isinstance(two, int):
        return one == two
    first, second = (each if isinstance(each, int) else each.node.expr for each in (one, two))
    return bool(sympy.expand(first - second) == 0)


def read_bytes(node: fx.Node, nbytes: Any) -> list[int]:
    """For each input of a fused node, the bytes that it reads: of a table, only the rows asked for.

    `nbytes` gives the bytes of a fake value.
    """
    inputs, sizes = operands(node)
    group = parse_group(str(node.kwargs["body"]))
    fakes = [each.meta["val"] for each in inputs]
    whole = [nbytes(fake) for fake in fakes]
    tables = {step.args[0].name for step in group.steps if step.target in GATHERS} & set(group.inputs)
    if not tables:
        return whole
    known = [each.meta["val"] if isinstance(each, fx.Node) else each for each in sizes]
    with enable_python_dispatcher(), fakes[0].fake_mode:
        values = run_group(group, fakes, known)
    read = dict.fromkeys(group.inputs, 0)
    for step in group.steps:
        for name in set(step.reads()) & read.keys():
            is_table = step.target in GATHERS and step.args[0] == Read(name)
            read[name] += nbytes(values[step.name]) if is_table else whole[group.inputs.index(name)]
    return [min(read[name], size) for name, size in zip(group.inputs, whole, strict=True)]
