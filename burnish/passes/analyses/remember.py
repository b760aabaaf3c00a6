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

from burnish.ir.arguments import argument
from burnish.ir.code_ops import code_ops
from burnish.ir.program import Program, operands, value
from burnish.ir.shapes import is_batch, is_sequence
from burnish.ir.traits import state_descriptor, traits
from burnish.passes.analyses.axis_labels import AxisLabels

aten = torch.ops.aten

_OPERATIONS_A_BYTE = 8.0  # arithmetic that costs as much time as moving one byte; low, so that products are not redone
_TIE = 1e-3  # among equal cuts, the one nearest to the attention: nothing is left to redo there

_PRODUCTS = {aten.linear.default, aten.matmul.default, aten.mm.default, aten.bmm.default, aten.addmm.default}


def values_to_remember(program: Program, labels: AxisLabels) -> list[fx.Node]:
    """The nodes to remember for all tokens: the cheapest that all is made from that some node wants for all tokens.

    Which operands these are is in the state descriptors of their ops. In graph order.
    """
    wanted = list(
        dict.fromkeys(argument(node, name) for node in labels.mixing for name in state_descriptor(node).all_tokens)
    )
    network = nx.DiGraph()
    source, sink = "computed for the new tokens", "known for all tokens"
    stack, seen = list(wanted), set(wanted)
    for node in wanted:
        network.add_edge((node, "out"), sink)  # no capacity: infinite
    while stack:
        node = stack.pop()
        network.add_edge((node, "in"), (node, "out"), capacity=_cost_to_remember(program, labels, node))
        redo = _cost_to_redo(program, labels, node)
        if math.isinf(redo):
            network.add_edge(source, (node, "in"))
            continue
        network.add_edge(source, (node, "in"), capacity=redo)
        for operand in node.all_input_nodes:
            if labels.of(operand) is None:
                continue
            network.add_edge((operand, "out"), (node, "in"))
            if operand not in seen:
                seen.add(operand)
                stack.append(operand)
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


def _cost_to_remember(program: Program, labels: AxisLabels, node: fx.Node) -> float:
    """Bytes read a past token; infinite where the value cannot be a state: rows first, one token an entry."""
    label = labels.of(node)
    val = node.meta["val"]
    if label is None or not isinstance(val, Tensor) or not is_batch(program, val.shape[0]):
        return math.inf
    if not is_sequence(program, val.shape[label.axis]) or node.op != "call_function":
        return math.inf
    return _bytes_a_token(program, node)


def _cost_to_redo(program: Program, labels: AxisLabels, node: fx.Node) -> float:
    known = traits(node.target)
    if node.op != "call_function" or known.state is not None:  # to have it for all tokens is to remember it
        return math.inf
    if any(isinstance(operand.meta.get("val"), tuple | list) for operand in node.all_input_nodes):
        return math.inf  # a part of several values, which are not remembered as one
    # What only says how memory is read; to widen what is remembered in 8 bits is a part of that, and asked for by name.
    if known.view or node.target is code_ops.from_codes.default:
        return _TIE
    moved = _bytes_a_token(program, node)
    for each in node.all_input_nodes:
        if labels.of(each) is not None:
            moved += _bytes_a_token(program, each)
    if node.target in _PRODUCTS:
        weight = value(operands(node)[1])
        moved += 2.0 * float(math.prod(int(s) for s in weight.shape if isinstance(s, int))) / _OPERATIONS_A_BYTE
    return moved
