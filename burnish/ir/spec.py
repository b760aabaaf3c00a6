"""The specification of each stage: clauses about nodes, each with the words that a breach of it is told in.

*captured*: functional ops, none of which calls graphs of its own, over one input, the tokens.
*raised*: captured, and what each raising pass takes away is gone, or that pass said why it stays. A model may well have
an attention that nobody recognises: what raising promises is that none was passed over without a word.
*incremental*: inputs, ops and arguments of a step program, all of which an artifact can hold.
*lowered*: incremental, and what one target runs: that is the target's to say (`burnish.targets.base.Target.legal`).

`burnish.passes.check` checks them: those of a raising pass when it ends, and from then on those that other passes add.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import fx

from burnish.ir.labels import rank
from burnish.ir.program import Program, Stage, operands
from burnish.ir.second_names import FIRST_NAMES
from burnish.ir.serialize import is_foreign
from burnish.ir.shapes import is_over_tokens, is_sequence, same_shape
from burnish.ir.states import StateKind
from burnish.ir.traits import having, traits

aten = torch.ops.aten

SOFTMAXES = frozenset({aten.softmax.int, aten._softmax.default, aten._safe_softmax.default})


@dataclass(frozen=True)
class Clause:
    """Nodes that a program at a stage does not have.

    targets: the ops that it is about; None for all.
    breaks: whether a node that calls one of these breaks it.
    told: what the node is or does, behind its name.
    by: the raising pass that takes such nodes away; empty if no pass may leave one.
    refusable: the pass may leave one, and then says why.
    """

    told: str
    breaks: Callable[[Program, fx.Node], bool]
    targets: frozenset[Any] | None = None
    by: str = ""
    refusable: bool = False


def breaches(program: Program, nodes: Iterable[fx.Node], clauses: Iterable[Clause]) -> Iterator[tuple[fx.Node, Clause]]:
    """Each call among `nodes` that breaks one of `clauses`, with it, in the order of the nodes."""
    general: list[Clause] = []
    indexed: dict[Any, list[Clause]] = {}
    for clause in clauses:
        for target in clause.targets or ():
            indexed.setdefault(target, []).append(clause)
        if clause.targets is None:
            general.append(clause)
    for node in nodes:
        if node.op == "call_function":
            for clause in (*general, *indexed.get(node.target, ())):
                if clause.breaks(program, node):
                    yield node, clause


def _always(program: Program, node: fx.Node) -> bool:
    return True


# ---------------------------------------------------------------- captured


@cache
def _mutates(target: Any) -> bool:
    # A copy's in-place form (`detach_`), which export leaves on constants, changes what a value is to autograd alone.
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable and not traits(target).copy


def _writes(program: Program, node: fx.Node) -> bool:
    return _mutates(node.target)


def _is_higher_order(program: Program, node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.HigherOrderOperator)


CAPTURED = (
    Clause("is a higher-order op, which calls graphs of its own", _is_higher_order),
    Clause("writes to its arguments", _writes),
)


# ---------------------------------------------------------------- raised


def _is_of_weights(program: Program, addmm: fx.Node) -> bool:
    """Whether an addmm is a linear: of a bias and a matrix that are stored."""
    bias, _, weight = operands(addmm)[:3]
    stored = bias.op == weight.op == "get_attr" and not addmm.kwargs
    return stored and rank(bias) == 1


def _is_by_weight(program: Program, matmul: fx.Node) -> bool:
    """Whether a product is a linear: of something computed and a matrix that is stored."""
    x, factor = operands(matmul)
    matrix = factor.op == "get_attr" and rank(factor) == 2
    return matrix and x.op != "get_attr" and rank(x) >= 2


def _is_softmax(program: Program, quotient: fx.Node) -> bool:
    """Whether a quotient is exp(x) / sum(exp(x))."""
    exponential, total = operands(quotient)[:2]
    if not (isinstance(exponential, fx.Node) and isinstance(total, fx.Node)):
        return False
    return (
        exponential.target is aten.exp.default
        and total.target is aten.sum.dim_IntList
        and operands(total)[0] is exponential
    )


def _weighs_tokens(program: Program, softmax: fx.Node) -> bool:
    return is_over_tokens(program, operands(softmax)[0].meta["val"].shape)


def _turns_complex_numbers(program: Program, reshape: fx.Node) -> bool:
    """Whether it is view_as_real(view_as_complex(x) * turns), flattened."""
    real = operands(reshape)[0]
    turned = operands(real)[0] if real.target is aten.view_as_real.default else None
    if not isinstance(turned, fx.Node) or turned.target is not aten.mul.Tensor:
        return False
    return any(isinstance(each, fx.Node) and each.target is aten.view_as_complex.default for each in operands(turned))


def _is_silu(program: Program, product: fx.Node) -> bool:
    """Whether a product is x * sigmoid(x)."""
    first, second = operands(product)[:2]
    return any(
        isinstance(gate, fx.Node) and gate.target is aten.sigmoid.default and operands(gate)[0] is x
        for gate, x in ((first, second), (second, first))
    )


_GATES = frozenset({aten.silu.default, aten.gelu.default, aten.relu.default, aten.sigmoid.default})


def _is_gated(program: Program, product: fx.Node) -> bool:
    """Whether a product is activation(gate) * up, all of one shape, and `up` not made from `gate` (relu(x) * x)."""
    first, second = operands(product)[:2]
    if not all(isinstance(each, fx.Node) and isinstance(each.meta["val"], torch.Tensor) for each in (first, second)):
        return False  # a number, perhaps of a size
    shape = product.meta["val"].shape
    if not all(same_shape(each.meta["val"].shape, shape) for each in (first, second)):
        return False
    return any(
        active.target in _GATES and up is not operands(active)[0] and up not in operands(active)[0].users
        for active, up in ((first, second), (second, first))
    )


def _reaches_over_tokens(program: Program, convolution: fx.Node) -> bool:
    """Whether a convolution's output tokens see others, and it is not cut off: slices of it have their own reasons."""
    shape, kernel = (each.meta["val"].shape for each in operands(convolution)[:2])
    if len(shape) != 3 or not is_sequence(program, shape[2]) or int(kernel[-1]) == 1:
        return False
    return not all(user.target is aten.slice.Tensor for user in convolution.users)


RAISED = (
    Clause("is an assertion of export", _always, having("asserts"), "clean"),
    Clause("is ATen's second name for an op", _always, frozenset(FIRST_NAMES), "clean"),
    Clause(
        "is ATen's second name for an op",
        _always,
        frozenset({aten.square.default, aten.type_as.default, aten._native_batch_norm_legit_no_training.default}),
        "clean",
    ),
    Clause("writes a copy of a value", _always, frozenset({aten.copy.default}), "join-writes"),
    Clause(
        "writes a part of a value",
        _always,
        frozenset({aten.slice_scatter.default, aten.select_scatter.default}),
        "join-writes",
        refusable=True,
    ),
    Clause("is the root of a variance", _always, frozenset({aten.std.dim}), "canonicalize"),
    Clause("is a product told by letters", _always, frozenset({aten.einsum.default}), "canonicalize", refusable=True),
    Clause("is a linear in another spelling", _is_of_weights, frozenset({aten.addmm.default}), "canonicalize"),
    Clause("is a linear in another spelling", _is_by_weight, frozenset({aten.matmul.default}), "canonicalize"),
    Clause("is a softmax written by hand", _is_softmax, frozenset({aten.div.Tensor}), "canonicalize", refusable=True),
    Clause("weighs tokens by tokens, as attention does", _weighs_tokens, SOFTMAXES, "raise-attention", refusable=True),
    Clause(
        "is an attention of ATen's",
        _always,
        frozenset({aten.scaled_dot_product_attention.default}),
        "raise-attention",
        refusable=True,
    ),
    Clause("is a norm of ATen's", _always, frozenset({aten.rms_norm.default}), "raise-norms", refusable=True),
    Clause(
        "turns complex numbers, as rotary embeddings do",
        _turns_complex_numbers,
        frozenset({aten.reshape.default}),
        "raise-rotary",
        refusable=True,
    ),
    Clause("is a silu written by hand", _is_silu, frozenset({aten.mul.Tensor}), "raise-activations"),
    Clause("is a gated activation", _is_gated, frozenset({aten.mul.Tensor}), "raise-activations", refusable=True),
    Clause(
        "is a convolution over the tokens",
        _reaches_over_tokens,
        frozenset({aten.conv1d.default}),
        "raise-convolutions",
        refusable=True,
    ),
)

RAISED_BY = frozenset(clause.by for clause in RAISED)
"""The passes that raise a program together: when the last of them has run, in whatever order, it is raised."""


# ---------------------------------------------------------------- incremental


def _is_foreign(program: Program, node: fx.Node) -> bool:
    return is_foreign(node.target)


def _needs_all_tokens(program: Program, node: fx.Node) -> bool:
    """Whether a node runs over a whole text: what remembers a window has been given one by now."""
    state = traits(node.target).state
    whole_only = state is not None and state.kind is StateKind.WINDOW
    return whole_only or node.target is aten.scaled_dot_product_attention.default


def _lacks_position(program: Program, node: fx.Node) -> bool:
    place = traits(node.target).position
    return place is not None and (len(node.args) <= place or not isinstance(node.args[place], fx.Node))


INCREMENTAL = (
    Clause("is left, which a step cannot run on the new tokens alone", _needs_all_tokens),
    Clause("calls something that an artifact cannot hold", _is_foreign),
    Clause("does not know the position of the new tokens", _lacks_position),
)


def clauses_of(stage: Stage) -> tuple[Clause, ...]:
    """What holds of each node of a program at a stage, but for what the raising passes said that they leave."""
    if stage.is_step:
        return INCREMENTAL
    return (*CAPTURED, *RAISED) if stage is Stage.RAISED else CAPTURED
