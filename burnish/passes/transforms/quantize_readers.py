"""What reads the weights that can be of integers: linears, and lookups of tokens in a table."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from burnish.ir import label_rules as rules
from burnish.ir.program import Program
from burnish.ir.traits import traits
from burnish.passes.transforms.quality import logits_node
from burnish.passes.transforms.stream import Stream

aten = torch.ops.aten

_SCORES = {aten.softmax.int, aten._softmax.default}


def weight_read(reader: fx.Node) -> fx.Node:
    """The weight that a linear multiplies by, or that an embedding looks rows up in."""
    found = reader.args[1 if reader.target is aten.linear.default else 0]
    assert isinstance(found, fx.Node)
    return found


def head_of(program: Program) -> fx.Node | None:
    """The linear that gives the logits, with nothing but functions of single values behind it; None without one."""
    node = logits_node(program)
    while node.target is not aten.linear.default:
        reads = [each for each in node.all_input_nodes if each.op == "call_function"]
        if len(reads) != 1:
            return None
        node = reads[0]
    return node


def is_table(program: Program, node: fx.Node) -> bool:
    """Whether a node looks the tokens' rows up; tables of positions are folded by another pass."""
    return node.target is aten.embedding.default and node.args[1] in program.placeholders


def is_tied(program: Program) -> bool:
    """Whether the table of embeddings is the weight of something else, too: of the head, mostly."""
    tables = {str(weight_read(node).target) for node in program.graph.nodes if is_table(program, node)}
    users = [
        user for node in program.graph.nodes if node.op == "get_attr" and node.target in tables for user in node.users
    ]
    return any(not is_table(program, user) for user in users)


def all_readers(program: Program) -> list[fx.Node]:
    """Linears and lookups of tokens, linears first: of a weight that both read, the linear says more."""
    linears = [node for node in program.graph.nodes if node.target is aten.linear.default]
    return [*linears, *(node for node in program.graph.nodes if is_table(program, node))]


def by_input(readers: Iterable[fx.Node]) -> list[list[fx.Node]]:
    """Readers of one value together, in the order of the graph."""
    found: dict[object, list[fx.Node]] = {}
    for node in sorted(readers):
        found.setdefault(node.args[0] if node.target is aten.linear.default else node, []).append(node)
    return list(found.values())


def gram_of(stream: Stream, x: object) -> Tensor:
    """X^T X of all rows X of x[..., K] on the calibration text, float64[K, K]."""
    assert isinstance(x, fx.Node)
    size = int(x.meta["val"].shape[-1])
    gram = torch.zeros(size, size, dtype=torch.float64)
    for batch in stream.each(x):
        rows = batch.reshape(-1, size).float()
        gram += (rows.T @ rows).double()
    return gram


def choice_of(reader: fx.Node) -> str:
    """Why a linear stays in floats whose outputs choose experts: rounded ones would choose others. Else nothing."""
    reached, seen = [reader], {reader}
    while reached:
        for user in reached.pop().users:
            if user.target is aten.topk.default:
                return f"its outputs choose experts ({user.name}): rounded, they would choose others"
            kind = traits(user.target)
            if user not in seen and (user.target in _SCORES or kind.view or kind.label is rules.pointwise):
                seen.add(user)
                reached.append(user)
    return ""
