"""What to remember: a minimum cut between what a step computes and what needs every token.

A value that attention wants for *all* tokens can be remembered, or computed again each step from values that are. Both
cost memory traffic for each past token and step: a remembered value is read once, a value computed again is written and
its inputs are read, and its arithmetic counts at the machine's ratio of operations to bytes. The cheapest choice is the
minimum cut. So keys are remembered after their rotary embedding, and before their heads are repeated.
"""

from __future__ import annotations

import math

import networkx as nx
import torch
from torch import Tensor, fx

from burnish.ir.code_ops import code_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program
from burnish.passes.analyses.position_only import is_batch, is_sequence
from burnish.passes.analyses.token_axis import TokenAxes

aten = torch.ops.aten

_OPERATIONS_A_BYTE = 8.0  # arithmetic that costs as much time as moving one byte; low, so that products are not redone
_TIE = 1e-3  # among equal cuts, the one nearest to the attention: nothing is left to redo there

# Ops that only say how memory is read; to widen what is remembered in 8 bits is a part of that, and asked for by name.
_VIEWS = {
    code_ops.from_codes.default,
    aten.reshape.default,
    aten.view.default,
    aten.transpose.int,
    aten.permute.default,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
}
_PRODUCTS = {aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default, aten.addmm.default}
# They see other tokens themselves: to have them for all tokens is to remember them.
_MIXING = {
    burnish_ops.attention.default,
    burnish_ops.causal_conv1d.default,
    burnish_ops.shift.default,
    aten.cumsum.default,
}


def values_to_remember(program: Program, axes: TokenAxes, wanted: list[fx.Node]) -> list[fx.Node]:
    """The nodes whose values, remembered for all tokens, give `wanted` for all tokens most cheaply; in graph order."""
    network = nx.DiGraph()
    source, sink = "computed for the new tokens", "known for all tokens"
    stack, seen = list(wanted), set(wanted)
    for node in wanted:
        network.add_edge((node, "out"), sink)  # no capacity: infinite
    while stack:
        node = stack.pop()
        network.add_edge((node, "in"), (node, "out"), capacity=_cost_to_remember(program, axes, node))
        redo = _cost_to_redo(program, axes, node)
        if math.isinf(redo):
            network.add_edge(source, (node, "in"))
            continue
        network.add_edge(source, (node, "in"), capacity=redo)
        for argument in node.all_input_nodes:
            if axes.of(argument) is None:
                continue
            network.add_edge((argument, "out"), (node, "in"))
            if argument not in seen:
                seen.add(argument)
                stack.append(argument)
    _, (new_side, all_side) = nx.minimum_cut(network, source, sink)
    chosen = {node for node in seen if (node, "in") in new_side and (node, "out") in all_side}
    return [node for node in program.graph.nodes if node in chosen]


def _bytes_a_token(program: Program, node: fx.Node) -> float:
    val = node.meta["val"]
    if not isinstance(val, Tensor):
        return math.inf
    count = float(val.dtype.itemsize)
    for size in val.shape:
        if isinstance(size, torch.SymInt):
            if is_batch(program, size) or is_sequence(program, size):
                continue
            return math.inf
        count *= size
    return count


def _cost_to_remember(program: Program, axes: TokenAxes, node: fx.Node) -> float:
    """Bytes read a past token; infinite where the value cannot be a state: rows first, one token an entry."""
    label = axes.of(node)
    val = node.meta["val"]
    if label is None or not isinstance(val, Tensor) or not is_batch(program, val.shape[0]):
        return math.inf
    if not is_sequence(program, val.shape[label.axis]) or node.op != "call_function":
        return math.inf
    return _bytes_a_token(program, node)


def _cost_to_redo(program: Program, axes: TokenAxes, node: fx.Node) -> float:
    if node.op != "call_function" or node.target in _MIXING:
        return math.inf
    if node.target in _VIEWS:
        return _TIE
    moved = _bytes_a_token(program, node)
    for argument in node.all_input_nodes:
        if axes.of(argument) is not None:
            moved += _bytes_a_token(program, argument)
    if node.target in _PRODUCTS:
        weight = node.args[1].meta["val"]  # type: ignore[union-attr]
        moved += 2.0 * float(math.prod(int(s) for s in weight.shape if isinstance(s, int))) / _OPERATIONS_A_BYTE
    return moved
