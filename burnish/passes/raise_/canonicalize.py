"""One spelling for what has several: a linear, an einsum of two operands, a softmax written by hand, a deviation."""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any, ClassVar

import torch
from torch import fx

from burnish.ir.arguments import argument
from burnish.ir.edit import Editor, remove_dead
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, operands
from burnish.ir.shapes import is_sequence, same_size
from burnish.ir.weights import Permute
from burnish.passes.base import Effect, Log

aten = torch.ops.aten
_TRANSPOSES = {aten.t.default, aten.transpose.int, aten.permute.default}
_MAXIMA = {aten.amax.default, aten.max.dim}


@dataclass(frozen=True)
class Canonicalize:
    """addmm, matmul by a weight -> linear; einsum -> matmul; exp(x) / sum(exp(x)) -> softmax; std -> sqrt(var).

    Experts, like linears, have weights of which the last axis is what they read.
    """

    name: ClassVar[str] = "canonicalize"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Rewrite each of these in `program`, in place."""
        editor = Editor(program)
        for node in list(program.graph.nodes):
            if node.target is aten.einsum.default:
                _einsum_to_matmul(program, node, editor, log)
        for node in list(program.graph.nodes):
            if node.target is aten.matmul.default:
                _matmul_to_linear(program, node, editor, log)
            elif node.target is aten.addmm.default:
                _addmm_to_linear(program, node, editor, log)
            elif node.target is burnish_ops.moe_linear.default:
                _turn_experts(program, node, editor, log)
            elif node.target is aten.div.Tensor:
                _raise_softmax(node, editor, log)
            elif node.target is aten.std.dim:
                _std_to_variance(node, editor, log)
        remove_dead(program)
        return program


def _matmul_to_linear(program: Program, node: fx.Node, editor: Editor, log: Log) -> None:
    """x @ weight, or x @ weight.T, where weight[K, N] is stored."""
    x, factor = operands(node)
    views: list[fx.Node] = []
    while factor.op == "call_function" and factor.target in (*_TRANSPOSES, aten.unsqueeze.default):
        views.append(factor)
        factor = operands(factor)[0]
    if factor.op != "get_attr" or factor.meta["val"].dim() != 2 or x.meta["val"].dim() < 2 or x.op == "get_attr":
        return
    turns = sum(view.target in _TRANSPOSES for view in views)
    if any(view.target is aten.unsqueeze.default and view.args[1] != 0 for view in views):
        return
    if any(view.target in _TRANSPOSES and not _swaps_last(view) for view in views):
        return
    if node.meta["val"].dim() != x.meta["val"].dim():
        return
    with editor.before(node):
        weight = factor if turns % 2 else _transposed(program, editor, factor)
        linear = editor.call(aten.linear.default, x, weight, like=node)
    editor.replace(node, linear)
    log.rewrite(node, "matmul by a weight as a linear")


def _swaps_last(node: fx.Node) -> bool:
    """Whether a transposition swaps the last two axes and nothing else."""
    rank = node.meta["val"].dim()
    if node.target is aten.permute.default:
        return list(operands(node)[1]) == [*range(rank - 2), rank - 1, rank - 2]
    axes = {int(axis) % rank for axis in operands(node)[1:]} or {0, 1}
    return axes == {rank - 2, rank - 1}


def _transposed(program: Program, editor: Editor, weight: fx.Node) -> fx.Node:
    """A stored weight [..., K, N] as [..., N, K]; one that was turned for its model, as it was stored."""
    name = str(weight.target)
    source = program.weights[name]
    order = (*range(len(source.shape) - 2), len(source.shape) - 1, len(source.shape) - 2)
    turned = source.source if isinstance(source, Permute) and source.order == order else Permute(source, order)
    return editor.weight(f"{name}.transposed", turned)


def _turn_experts(program: Program, node: fx.Node, editor: Editor, log: Log) -> None:
    """Experts that are stored as [experts, in, out]: they would be folded into a copy."""
    weight = argument(node, "weight")
    if weight.op != "call_function" or weight.target not in _TRANSPOSES or not _swaps_last(weight):
        return
    source = operands(weight)[0]
    if source.op == "get_attr":
        editor.replace(weight, _transposed(program, editor, source))
        log.rewrite(node, "experts that are stored the other way round")


def _addmm_to_linear(program: Program, node: fx.Node, editor: Editor, log: Log) -> None:
    """bias + x @ weight: a linear whose weight is stored the other way round (GPT-2's Conv1D).

    Where x is [B, S, K] flattened to [B * S, K] for it, and the result unflattened, the linear takes x as it was.
    """
    bias, x, weight = operands(node)
    if weight.op != "get_attr" or bias.op != "get_attr" or node.kwargs or bias.meta["val"].dim() != 1:
        return
    turned = _transposed(program, editor, weight)
    replaced = [node]
    source = x.args[0] if x.target is aten.reshape.default else None
    if isinstance(source, fx.Node) and source.meta["val"].dim() == 3:
        wide = [*source.meta["val"].shape[:-1], weight.meta["val"].shape[1]]
        users = list(node.users)
        if all(
            user.target is aten.reshape.default and str(list(user.meta["val"].shape)) == str(wide) for user in users
        ):
            x, replaced = source, users
    with editor.before(node):
        linear = editor.call(aten.linear.default, x, turned, bias, like=node)
    for each in replaced:
        editor.replace(each, linear)
    log.rewrite(node, "addmm as a linear")


def _raise_softmax(node: fx.Node, editor: Editor, log: Log) -> None:
    """exp(x - max(x)) / sum(exp(x - max(x))), with or without the maximum."""
    exponential, total = operands(node)
    if not isinstance(exponential, fx.Node) or exponential.target is not aten.exp.default:
        return
    if not isinstance(total, fx.Node) or total.target is not aten.sum.dim_IntList or total.args[0] is not exponential:
        return
    axes = list(operands(total)[1])
    keeps_axis = total.args[2] if len(total.args) > 2 else total.kwargs.get("keepdim", False)
    if len(axes) != 1 or not keeps_axis:
        log.refuse(node, "exp(x) / sum(exp(x)) over several axes, or without keepdim")
        return
    scores = exponential.args[0]
    assert isinstance(scores, fx.Node)
    if scores.target is aten.sub.Tensor and _is_maximum(scores.args[1], scores.args[0]):
        scores = scores.args[0]
    with editor.before(node):
        softmax = editor.call(aten.softmax.int, scores, axes[0], like=node)
    editor.replace(node, softmax)
    log.rewrite(node, "softmax written by hand")


def _is_maximum(node: Any, of: Any) -> bool:
    if isinstance(node, fx.Node) and getattr(node.target, "__name__", "") == "getitem":
        node = node.args[0]
    return isinstance(node, fx.Node) and node.target in _MAXIMA and node.args[0] is of


def _std_to_variance(node: fx.Node, editor: Editor, log: Log) -> None:
    def given(place: int, name: str, default: bool) -> bool:
        return bool(node.args[place] if len(node.args) > place else node.kwargs.get(name, default))

    options: dict[str, Any] = {"correction": int(given(2, "unbiased", True)), "keepdim": given(3, "keepdim", False)}
    with editor.before(node):
        variance = editor.call(aten.var.correction, *node.args[:2], like=node, **options)
        deviation = editor.call(aten.sqrt.default, variance, like=node)
    editor.replace(node, deviation)
    log.rewrite(node, "deviation as the root of the variance")


def _einsum_to_matmul(program: Program, node: fx.Node, editor: Editor, log: Log) -> None:
    equation = str(node.args[0]).replace(" ", "")
    factors: list[fx.Node] = list(operands(node)[1])
    inputs, arrow, output = _lettered(equation, [each.meta["val"].dim() for each in factors]).partition("->")
    terms = inputs.split(",")
    if len(terms) != 2 or not arrow or "." in output or any(len(set(term)) != len(term) for term in terms):
        log.refuse(node, f"einsum {equation!r} is not a product of two operands with all axes named")
        return
    sizes: dict[str, Any] = {}
    for term, operand in zip(terms, factors, strict=True):
        for axis, size in zip(term, operand.meta["val"].shape, strict=True):
            if not same_size(sizes.setdefault(axis, size), size):
                log.refuse(node, f"einsum {equation!r} repeats an axis of {terms} to fit the other one's")
                return
    left, right = (set(term) for term in terms)
    if left | right == set(output):
        with editor.before(node):
            first, second = (
                _arrange(editor, factor, term, list(output), [], node)
                for factor, term in zip(factors, terms, strict=True)
            )
            editor.replace(node, editor.call(aten.mul.Tensor, first, second, like=node))
        log.rewrite(node, f"einsum {equation} as a product of elements")
        return
    summed = [letter for letter in terms[0] if letter in right and letter not in output]
    if len(summed) != 1 or (left | right) - set(output) - set(summed):
        log.refuse(node, f"einsum {equation!r} sums over {len(summed)} shared axes, not one")
        return
    row = _own_axis(program, terms[0], right, output, sizes)
    column = _own_axis(program, terms[1], left, output, sizes)
    batch = [letter for letter in output if letter not in (row, column)]
    with editor.before(node):
        first = _arrange(editor, factors[0], terms[0], batch, [row, summed[0]], node)
        second = _arrange(editor, factors[1], terms[1], batch, [summed[0], column], node)
        result = editor.call(aten.matmul.default, first, second, like=node)
        order = [*batch, row, column]
        for letter, place in ((row, -2), (column, -1)):  # in this order: the last axis is the last before and after
            if letter is None:
                result = editor.call(aten.squeeze.dim, result, place, like=node)
        order = [letter for letter in order if letter is not None]
        if order != list(output):
            result = editor.call(aten.permute.default, result, [order.index(letter) for letter in output], like=node)
    editor.replace(node, result)
    log.rewrite(node, f"einsum {equation} as a matrix product")


def _lettered(equation: str, ranks: list[int]) -> str:
    """The equation with letters for the axes that "..." stands for, the last of them the same in all terms."""
    if "..." not in equation:
        return equation
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    counts = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks, strict=True)]
    free = [letter for letter in ascii_uppercase if letter not in equation][: max(counts)]
    lettered = [
        term.replace("...", "".join(free[len(free) - count :])) for term, count in zip(terms, counts, strict=True)
    ]
    return f"{','.join(lettered)}{arrow}{output.replace('...', ''.join(free))}"


def _own_axis(program: Program, term: str, other: set[str], output: str, sizes: dict[str, Any]) -> str | None:
    """The axis of the product that only this operand has: the tokens' if there is one, else the last."""
    own = [letter for letter in term if letter in output and letter not in other]
    return next((letter for letter in own if is_sequence(program, sizes[letter])), own[-1] if own else None)


def _arrange(
    editor: Editor, operand: fx.Node, term: str, batch: list[str], last: list[str | None], like: fx.Node
) -> fx.Node:
    """The operand with its axes in the order batch + last; axes that it does not have become 1."""
    wanted = [*batch, *last]
    order = [term.index(letter) for letter in wanted if letter is not None and letter in term]
    result = operand
    if order != list(range(len(term))):
        result = editor.call(aten.permute.default, result, order, like=like)
    for axis, letter in enumerate(wanted):
        if letter is None or letter not in term:
            result = editor.call(aten.unsqueeze.default, result, axis, like=like)
    return result
