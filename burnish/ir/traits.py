"""What each op is, once: where entries stand in its result, how it reads and writes memory, what it remembers.

Rows of ATen's ops stand here. An op of the library's own says them where it is defined (`burnish.ir.ops.define`).
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.ir import label_mixing_rules as mixing
from burnish.ir import label_rules as rules
from burnish.ir import label_view_rules as views
from burnish.ir.errors import InvalidProgramError
from burnish.ir.labels import Rule
from burnish.ir.program import describe, value
from burnish.ir.shapes import product, same_size
from burnish.ir.states import StateKind
from burnish.ir.step_forms import StateDescriptor, running_sum_step

aten = torch.ops.aten


@dataclass(frozen=True)
class Traits:
    """What an op is, in whatever program it stands.

    label: where tokens and rows stand in its result; None if nothing is known, or if only steps have the op.
    state: what it remembers from step to step, if it lets a token see earlier ones.
    position: the number of the argument that says how many tokens came before, for an op that has to know.
    view: its result is another name of memory that is there already.
    moves: the elements of its result are elements of its arguments (or their negatives).
    in_order: it takes elements of its first argument in their order: if the shape is the same, so is the value.
    copy: its value is its first argument's, in another place or layout of memory.
    cast: its value is its first argument's if the dtype is the same.
    fills: one number everywhere.
    shape_of_first: of its first argument it reads shape and dtype, never values.
    gathers: of its first argument it reads only the rows that are asked for.
    asserts: it checks sizes and dtypes for export, and gives nothing.
    writes: the numbers of the arguments, states, that it writes the new tokens into and otherwise leaves alone.
    """

    label: Rule | None = None
    state: StateDescriptor | None = None
    position: int | None = None
    view: bool = False
    moves: bool = False
    in_order: bool = False
    copy: bool = False
    cast: bool = False
    fills: bool = False
    shape_of_first: bool = False
    gathers: bool = False
    asserts: bool = False
    writes: tuple[int, ...] = ()


_UNKNOWN = Traits()
_POINTWISE = Traits(rules.pointwise)

TRAITS: dict[Any, Traits] = {}


def traits(target: Any) -> Traits:
    """What an op is; with no label rule if nothing is known of it."""
    known = TRAITS.get(target)
    if known is not None:
        return known
    pointwise = isinstance(target, torch._ops.OpOverload) and torch.Tag.pointwise in target.tags
    return _POINTWISE if pointwise else _UNKNOWN


def is_known(target: Any) -> bool:
    """Whether anything is known of an op: those of which nothing is stand in no step, as its tokens are followed."""
    return traits(target) is not _UNKNOWN


def is_random(target: Any) -> bool:
    """Whether an op draws random numbers. (torch says so of attention, too, for the dropout that it may have.)"""
    tagged = isinstance(target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in target.tags
    return tagged and target is not aten.scaled_dot_product_attention.default


def keeps_value(node: fx.Node) -> bool:
    """Whether a node's value is its first argument's, but for its dtype and its place or layout in memory."""
    known = traits(node.target)
    return known.copy or known.cast


def reshapes(node: fx.Node) -> bool:
    """Whether a node's value has all elements of its first argument, in their order, in whatever shape."""
    if not traits(node.target).in_order:
        return False
    source = node.args[0]
    assert isinstance(source, fx.Node)
    return same_size(product(value(source).shape), product(value(node).shape))


def state_descriptor(node: fx.Node) -> StateDescriptor:
    """What a node that lets tokens see earlier ones remembers; InvalidProgramError if its op does not say."""
    known = traits(node.target).state
    if known is None:
        raise InvalidProgramError(f"{describe(node)} lets tokens see earlier ones, and its op has no state descriptor")
    return known


def having(trait: str) -> frozenset[Any]:
    """The ops that have a trait, by its name."""
    return frozenset(target for target, each in TRAITS.items() if getattr(each, trait))


def _state(traits: Traits, *targets: Any) -> None:
    TRAITS.update(dict.fromkeys(targets, traits))


# ---------------------------------------------------------------- moves of elements

_state(
    Traits(views.reshape, view=True, moves=True, in_order=True),
    aten.view.default,
    aten.reshape.default,
    aten._unsafe_view.default,
    aten.flatten.using_ints,
    aten.unflatten.int,
)
_state(Traits(views.reshape, view=True, in_order=True), aten.view_as.default)
_state(
    Traits(views.expand, view=True, moves=True, in_order=True),
    aten.expand.default,
    aten.broadcast_to.default,
)
_state(Traits(views.expand, view=True, in_order=True), aten.expand_as.default)
_state(Traits(views.expand, in_order=True), aten.repeat.default)
_state(
    Traits(views.squeeze, view=True, moves=True, in_order=True),
    aten.squeeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
)
_state(Traits(views.slice_, view=True, moves=True, in_order=True), aten.slice.Tensor, aten.narrow.default)
_state(Traits(views.unsqueeze, view=True, moves=True, in_order=True), aten.unsqueeze.default)
_state(Traits(views.permute, view=True, moves=True), aten.permute.default)
_state(Traits(views.transpose, view=True, moves=True), aten.transpose.int, aten.t.default, aten.swapaxes.default)
_state(Traits(views.last_two, view=True, moves=True), aten.mT.default)
_state(Traits(views.reversed_axes, view=True, moves=True), aten.numpy_T.default)
_state(Traits(view=True), aten.movedim.int)
_state(Traits(views.select, view=True, moves=True), aten.select.int)
_state(
    Traits(rules.along("splits the {}"), view=True, moves=True),
    aten.split.Tensor,
    aten.split.sizes,
    aten.split_with_sizes.default,
    aten.chunk.default,
    aten.tensor_split.sections,
    aten.unbind.int,
)
_state(Traits(views.getitem, view=True, moves=True), operator.getitem)
_state(Traits(views.same, moves=True), aten.view_as_complex.default, aten.view_as_real.default)
_state(Traits(views.same, copy=True, view=True), aten.alias.default, aten.detach.default, aten.detach_.default)
_state(Traits(views.same, copy=True, moves=True), aten.clone.default)
_state(
    Traits(views.same, copy=True),
    aten.contiguous.default,
    aten.lift_fresh.default,
    aten.lift_fresh_copy.default,
)
_state(
    Traits(views.same, cast=True),
    aten._to_copy.default,
    aten.to.device,
    aten.to.dtype,
    aten.to.dtype_layout,
    aten.to.other,
    aten.type_as.default,
)
_state(Traits(views.cat, moves=True), aten.cat.default, aten.concat.default, aten.concatenate.default)
_state(Traits(views.stack, moves=True), aten.stack.default)
_state(Traits(views.pad), aten.pad.default, aten.constant_pad_nd.default)
_state(Traits(rules.along("turns the {} around", "dims")), aten.flip.default)
_state(Traits(rules.along("moves the {} around", "dims")), aten.roll.default)
_state(Traits(rules.along("repeats the {}")), aten.repeat_interleave.self_int)
_state(Traits(rules.pointwise, moves=True), aten.neg.default)

# ---------------------------------------------------------------- one number everywhere

_state(
    Traits(fills=True, shape_of_first=True),
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.empty_like.default,
    aten.new_ones.default,
    aten.new_zeros.default,
    aten.new_full.default,
    aten.new_empty.default,
)
_state(Traits(fills=True), aten.zeros.default, aten.ones.default, aten.full.default, aten.empty.memory_format)

# ---------------------------------------------------------------- made of sizes alone: no value with tokens is read

_state(
    Traits(),
    aten.arange.default,
    aten.arange.start,
    aten.arange.start_step,
    aten.scalar_tensor.default,
    aten.sym_size.int,
)

_state(
    Traits(asserts=True),
    aten._assert_tensor_metadata.default,
    aten._assert_scalar.default,
    aten._assert_async.default,
    aten._assert_async.msg,
    aten.sym_constrain_range.default,
    aten.sym_constrain_range_for_size.default,
)

# ---------------------------------------------------------------- reads and writes by an index

_state(Traits(rules.embedding, gathers=True), aten.embedding.default)
_state(Traits(rules.gather, gathers=True), aten.gather.default)
_state(Traits(rules.index, gathers=True), aten.index.Tensor)
_state(Traits(rules.index_select, gathers=True), aten.index_select.default)
_state(Traits(rules.index_put), aten.index_put.default)
_state(Traits(rules.scatter), aten.scatter.value, aten.scatter.src, aten.scatter_add.default)
_state(Traits(rules.like_first), aten.one_hot.default)

# ---------------------------------------------------------------- products, norms, reductions

_state(Traits(rules.linear), aten.linear.default)
_state(Traits(rules.matmul), aten.matmul.default, aten.mm.default, aten.bmm.default)
_state(Traits(rules.addmm), aten.addmm.default)
_state(Traits(rules.einsum), aten.einsum.default)
_state(Traits(rules.convolution), aten.conv1d.default, aten.conv1d.padding)
_state(Traits(rules.layer_norm), aten.layer_norm.default, aten.rms_norm.default)
_state(Traits(rules.first_axis_apart("normalises over the {}")), aten.group_norm.default)
_state(Traits(rules.batch_norm), aten.batch_norm.default)
_state(
    Traits(rules.along("takes a softmax over the {} that is no attention recognised")),
    aten.softmax.int,
    aten._softmax.default,
    aten._safe_softmax.default,
)
_state(Traits(rules.along("takes a softmax over the {}")), aten.log_softmax.int, aten._log_softmax.default)
_state(
    Traits(rules.along("reduces over the {}")),
    aten.mean.dim,
    aten.sum.dim_IntList,
    aten.amax.default,
    aten.amin.default,
    aten.max.dim,
    aten.min.dim,
    aten.argmax.default,
    aten.argmin.default,
    aten.any.dim,
    aten.prod.dim_int,
    aten.linalg_vector_norm.default,
    aten.norm.ScalarOpt_dim,
    aten.std.dim,
    aten.var.correction,
)
_state(Traits(rules.reduces_all), aten.mean.default, aten.sum.default, aten.max.default)
_state(Traits(rules.along("chooses among the {}")), aten.topk.default)
_state(Traits(rules.along("sorts the {}")), aten.sort.default, aten.sort.stable, aten.argsort.default)
_state(Traits(rules.along("splits the {}")), aten.glu.default)
_state(Traits(rules.along("compares the {} with their neighbours")), aten.diff.default)
_state(
    Traits(mixing.running_sum, StateDescriptor(StateKind.ACCUMULATOR, running_sum_step)),
    aten.cumsum.default,
)
_state(Traits(rules.along("multiplies up the {}")), aten.cumprod.default)
_state(
    Traits(rules.last_two_axes("masks the {} by their place, and is no attention that burnish recognises")),
    aten.triu.default,
    aten.tril.default,
)

# ---------------------------------------------------------------- pointwise, though torch does not tag them so

_state(
    _POINTWISE,
    aten.__and__.Tensor,
    aten.__or__.Tensor,
    aten.__xor__.Tensor,
    aten.rsub.Tensor,
    aten.rsub.Scalar,
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
    aten.where.Scalar,
    aten.masked_fill.Tensor,
    aten.view.dtype,  # the bits as another type
    aten.polar.default,
    aten.complex.default,
    aten.real.default,
    aten.imag.default,
    aten._conj.default,
    aten.isin.Tensor_Scalar,
    aten.floor_divide.default,
    aten.log_sigmoid.default,
    aten.hardswish.default,
)
