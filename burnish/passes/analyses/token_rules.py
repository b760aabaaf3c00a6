"""One rule an op that computes: where its output's tokens stand, or the error that it mixes them."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from burnish.ir.code_ops import code_ops
from burnish.ir.errors import UnsupportedError
from burnish.ir.ops import burnish_ops
from burnish.ir.program import describe
from burnish.passes.analyses.token_label import Label, TokenAxis
from burnish.passes.analyses.token_view_rules import VIEW_RULES, Rule, argument_of

if TYPE_CHECKING:
    from burnish.passes.analyses.token_axis import TokenAxes

aten = torch.ops.aten


def tensors_of(node: fx.Node) -> list[fx.Node]:
    """The node's tensor arguments, also those in lists."""
    return [argument for argument in node.all_input_nodes if isinstance(argument.meta.get("val"), Tensor)]


def pointwise(axes: TokenAxes, node: fx.Node) -> Label:
    """Each element for itself: where the operands' tokens stand, once they are broadcast to one shape."""
    rank = axes.rank(node)
    found: TokenAxis | None = None
    for argument in node.all_input_nodes:
        if isinstance(argument.meta.get("val"), torch.SymInt | torch.SymFloat):
            if axes.program.sequence in {str(s) for s in argument.meta["val"].node.expr.free_symbols}:
                raise UnsupportedError(
                    f"{describe(node)} computes with the number of tokens, which a step does not know"
                )
            continue
        label = axes.of(argument)
        if label is None:
            continue
        aligned = TokenAxis(label.axis + rank - axes.rank(argument), label.inner)
        if found is not None and aligned != found:
            raise axes.mixes(node, "combines tokens on one axis with tokens on another")
        found = aligned
    return found


def _along(index: int, default: Any, how: str) -> Rule:
    """An op that works along the axis (or axes) in argument `index`; tokens must not be on it."""

    def rule(axes: TokenAxes, node: fx.Node) -> Label:
        label = axes.of(node.args[0])  # type: ignore[arg-type]
        if label is None:
            others = [argument for argument in tensors_of(node) if axes.of(argument)]
            if others:
                raise axes.mixes(node, "reads a value without tokens by one with tokens")
            return None
        rank = axes.rank(node.args[0])  # type: ignore[arg-type]
        listed = argument_of(node, index, "dim", default)
        chosen = list(range(rank)) if listed in (None, []) else [listed] if isinstance(listed, int) else list(listed)
        removed = sorted({int(axis) % rank for axis in chosen})
        if label.axis in removed:
            raise axes.mixes(node, how)
        val = node.meta["val"]
        results = val if isinstance(val, tuple | list) else (val,)
        kept = results[0].dim() == rank
        moved = label if kept else TokenAxis(label.axis - sum(axis < label.axis for axis in removed), label.inner)
        return tuple(moved for _ in val) if isinstance(val, tuple | list) else moved

    return rule


def _reduce_all(axes: TokenAxes, node: fx.Node) -> Label:
    raise axes.mixes(node, "reduces over all tokens")


def _linear(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if any(axes.of(argument) for argument in tensors_of(node)[1:]):
        raise axes.mixes(node, "multiplies by a matrix made from the tokens")
    if label is not None and label.axis == axes.rank(node.args[0]) - 1:  # type: ignore[arg-type]
        raise axes.mixes(node, "multiplies along the tokens' axis")
    return label


def _matmul(axes: TokenAxes, node: fx.Node) -> Label:
    return _product(axes, node, node.args[-2], node.args[-1])


def _addmm(axes: TokenAxes, node: fx.Node) -> Label:
    label = _product(axes, node, node.args[1], node.args[2])
    bias = axes.of(node.args[0])  # type: ignore[arg-type]
    if bias is not None:
        raise axes.mixes(node, "adds a matrix made from the tokens")
    return label


def _product(axes: TokenAxes, node: fx.Node, left: Any, right: Any) -> Label:
    rank = axes.rank(node)
    first, second = axes.of(left), axes.of(right)
    left_rank, right_rank = axes.rank(left), axes.rank(right)
    if (first is not None and first.axis == left_rank - 1) or (
        second is not None and right_rank > 1 and (second.axis == right_rank - 2)
    ):
        raise axes.mixes(node, "sums over the tokens")
    if second is not None and right_rank == 1:
        raise axes.mixes(node, "sums over the tokens")
    found = [
        TokenAxis(label.axis + rank - operand_rank, label.inner)
        for label, operand_rank in ((first, left_rank), (second, right_rank))
        if label is not None
    ]
    if len(found) == 2 and found[0] != found[1]:
        raise axes.mixes(node, "multiplies every token with every other, and is no attention that burnish recognises")
    return found[0] if found else None


def _einsum(axes: TokenAxes, node: fx.Node) -> Label:
    left, _, right = str(node.args[0]).replace(" ", "").partition("->")
    letters = set()
    for term, operand in zip(left.split(","), node.args[1], strict=True):  # type: ignore[arg-type]
        label = axes.of(operand)
        if label is not None:
            letters.add(term[label.axis])
    if len(letters) != 1 or "." in left:
        raise axes.mixes(node, "multiplies every token with every other, and is no attention that burnish recognises")
    letter = letters.pop()
    if letter not in right:
        raise axes.mixes(node, "sums over the tokens")
    return TokenAxis(right.index(letter))


def _embedding(axes: TokenAxes, node: fx.Node) -> Label:
    return axes.of(node.args[1])  # type: ignore[arg-type]


def _layer_norm(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    normalized = len(node.args[1])  # type: ignore[arg-type]
    if label is not None and label.axis >= axes.rank(node) - normalized:
        raise axes.mixes(node, "normalises over the tokens")
    return label


def _group_norm(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if label is not None and label.axis != 0:
        raise axes.mixes(node, "normalises over the tokens")
    return label


def _gather(axes: TokenAxes, node: fx.Node) -> Label:
    source, axis, index = node.args[0], int(node.args[1]), node.args[2]  # type: ignore[arg-type]
    first, second = axes.of(source), axes.of(index)  # type: ignore[arg-type]
    if first is None:  # a table without tokens: each token reads for itself
        return second
    if first != second or first.axis == axis % axes.rank(node):
        raise axes.mixes(node, "reads tokens by an index")
    return first


def _index(axes: TokenAxes, node: fx.Node) -> Label:
    """A table without tokens read by indices with tokens: each token reads for itself."""
    source, indices = node.args[0], list(node.args[1])  # type: ignore[arg-type]
    given = [index for index in indices if index is not None]
    label = axes.of(source)  # type: ignore[arg-type]
    if label is not None:
        at = next(place for place, index in enumerate(indices) if index is not None)
        plain = len(given) == 1 and axes.of(given[0]) is None and axes.rank(given[0]) == 1
        if not plain or at == label.axis:
            raise axes.mixes(node, "reads tokens by an index")
        return label
    if len(given) != 1 or indices[0] is None:
        raise axes.mixes(node, "reads by several indices")
    return axes.of(given[0])


def _getitem(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.labels.get(node.args[0])  # type: ignore[arg-type]
    return label[int(node.args[1])] if isinstance(label, tuple) else label  # type: ignore[arg-type]


def _lookup(axes: TokenAxes, node: fx.Node) -> Label:
    return axes.of(node.args[1])  # type: ignore[arg-type]


def _attention(axes: TokenAxes, node: fx.Node) -> Label:
    if node.kwargs.get("mask") == "none" and not (node.kwargs.get("bias") or len(node.args) > 4):
        raise axes.mixes(node, "lets a token attend to later tokens (it has no mask)")
    return TokenAxis(2)


def _attention_bias(axes: TokenAxes, node: fx.Node) -> Label:
    table = node.args[0]
    assert isinstance(table, fx.Node)
    values = axes.program.weights[str(table.target)].materialize()
    users = [user for user in node.users if user.kwargs.get("mask") == "none"]
    if users and bool((values > float("-inf")).triu(1).any()):
        raise axes.mixes(users[0], "lets a token attend to later tokens: its mask was evaluated and shows them")
    return TokenAxis(2)


def _cumulative(axes: TokenAxes, node: fx.Node) -> Label:
    return axes.of(node.args[0])  # type: ignore[arg-type]


def _channels(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if label is not None and label.axis != 0:
        raise axes.mixes(
            node, "convolves over the tokens with a window that reaches later ones (or one not recognised)"
        )
    return label


def _moe(axes: TokenAxes, node: fx.Node) -> Label:
    return axes.of(node.args[0]) or axes.of(node.args[3])  # type: ignore[arg-type]


def _one_hot(axes: TokenAxes, node: fx.Node) -> Label:
    return axes.of(node.args[0])  # type: ignore[arg-type]


def _index_select(axes: TokenAxes, node: fx.Node) -> Label:
    index = node.args[2]
    if isinstance(index, fx.Node) and index.op == "placeholder":  # the tokens whose logits are asked for
        return None
    return _along(1, 0, "picks tokens by an index")(axes, node)


def _index_put(axes: TokenAxes, node: fx.Node) -> Label:
    """x[mask] = number: each token is written by its own mask."""
    source, indices, values = node.args[:3]
    assert isinstance(indices, list | tuple)
    label = axes.of(source)  # type: ignore[arg-type]
    mask = indices[0] if len(indices) == 1 else None
    if not isinstance(mask, fx.Node) or mask.meta["val"].dtype != torch.bool or values.meta["val"].numel() != 1:  # type: ignore[union-attr]
        raise axes.mixes(node, "writes among the tokens")
    chosen = axes.of(mask)
    if chosen is not None and label is not None and chosen != label:
        raise axes.mixes(node, "writes among the tokens")
    return label


def _triangle(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if label is not None and label.axis >= axes.rank(node) - 2:
        raise axes.mixes(node, "masks tokens by their place, and is no attention that burnish recognises")
    return label


def _last_axis(axes: TokenAxes, node: fx.Node) -> Label:
    label = axes.of(node.args[0])  # type: ignore[arg-type]
    if label is not None and label.axis == axes.rank(node) - 1:
        raise axes.mixes(node, "has one scale for all tokens")
    return label


# Pointwise, but torch does not tag them so.
_POINTWISE = {
    aten.where.ScalarOther,
    aten.where.ScalarSelf,
    aten.where.Scalar,
    aten.masked_fill.Tensor,
    aten.polar.default,
    aten.complex.default,
    aten.real.default,
    aten.imag.default,
    aten._conj.default,
    aten.isin.Tensor_Scalar,
    aten.floor_divide.default,
    aten.log_sigmoid.default,
    aten.hardswish.default,
    aten.dropout.default,
}

_REDUCTION = "reduces over the tokens"
RULES: dict[Any, Rule] = {
    **VIEW_RULES,
    **dict.fromkeys(_POINTWISE, pointwise),
    aten.index_put.default: _index_put,
    aten.triu.default: _triangle,
    aten.tril.default: _triangle,
    operator.getitem: _getitem,
    burnish_ops.rotary.default: pointwise,
    burnish_ops.gated_activation.default: pointwise,
    burnish_ops.attention.default: _attention,
    burnish_ops.attention_bias.default: _attention_bias,
    burnish_ops.lookup.default: _lookup,
    burnish_ops.moe_linear.default: _moe,
    code_ops.code_scales.default: _last_axis,
    code_ops.to_codes.default: pointwise,
    code_ops.from_codes.default: pointwise,
    aten.linear.default: _linear,
    aten.matmul.default: _matmul,
    aten.mm.default: _matmul,
    aten.bmm.default: _matmul,
    aten.addmm.default: _addmm,
    aten.einsum.default: _einsum,
    aten.embedding.default: _embedding,
    aten.layer_norm.default: _layer_norm,
    aten.rms_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.gather.default: _gather,
    aten.index.Tensor: _index,
    aten.cumsum.default: _cumulative,
    aten.one_hot.default: _one_hot,
    aten.conv1d.default: _channels,
    aten.conv1d.padding: _channels,
    aten.softmax.int: _along(1, None, "takes a softmax over the tokens that is no attention recognised"),
    aten.log_softmax.int: _along(1, None, "takes a softmax over the tokens"),
    aten._softmax.default: _along(1, None, "takes a softmax over the tokens that is no attention recognised"),
    aten.mean.dim: _along(1, None, _REDUCTION),
    aten.sum.dim_IntList: _along(1, None, _REDUCTION),
    aten.amax.default: _along(1, None, _REDUCTION),
    aten.amin.default: _along(1, None, _REDUCTION),
    aten.max.dim: _along(1, None, _REDUCTION),
    aten.min.dim: _along(1, None, _REDUCTION),
    aten.argmax.default: _along(1, None, _REDUCTION),
    aten.any.dim: _along(1, None, _REDUCTION),
    aten.prod.dim_int: _along(1, None, _REDUCTION),
    aten.linalg_vector_norm.default: _along(2, None, _REDUCTION),
    aten.norm.ScalarOpt_dim: _along(2, None, _REDUCTION),
    aten.std.dim: _along(1, None, _REDUCTION),
    aten.var.correction: _along(1, None, _REDUCTION),
    aten.topk.default: _along(2, -1, "chooses among the tokens"),
    aten.sort.default: _along(1, -1, "sorts the tokens"),
    aten.argsort.default: _along(1, -1, "sorts the tokens"),
    aten.split.Tensor: _along(2, 0, "splits the tokens"),
    aten.split_with_sizes.default: _along(2, 0, "splits the tokens"),
    aten.chunk.default: _along(2, 0, "splits the tokens"),
    aten.unbind.int: _along(1, 0, "splits the tokens"),
    aten.flip.default: _along(1, None, "turns the tokens around"),
    aten.roll.default: _along(2, None, "moves tokens around"),
    aten.index_select.default: _index_select,
    aten.repeat_interleave.self_int: _along(2, None, "repeats tokens"),
    aten.glu.default: _along(1, -1, "splits the tokens"),
    aten.diff.default: _along(2, -1, "compares tokens with their neighbours"),
    aten.cumprod.default: _along(1, None, "multiplies up the tokens"),
    aten.scatter.value: _along(1, None, "writes among the tokens"),
    aten.scatter.src: _along(1, None, "writes among the tokens"),
    aten.scatter_add.default: _along(1, None, "writes among the tokens"),
    aten.mean.default: _reduce_all,
    aten.sum.default: _reduce_all,
    aten.max.default: _reduce_all,
}
