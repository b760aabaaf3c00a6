"""An attention with the products around it: what makes its queries, keys and values, and what joins its heads again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from burnish.ir.program import Program, operands
from burnish.passes.analyses.head_rows import VIEWS, Heads, NoHeads, heads_of, run_views

aten = torch.ops.aten


@dataclass(frozen=True)
class AttentionBlock:
    """One attention of a whole program."""

    attention: fx.Node
    query: Heads
    key: Heads
    value: Heads
    output: fx.Node  # the linear that takes the heads of all queries
    columns: Tensor  # int64[Hq, Dv], of that linear's weight
    x: fx.Node  # what queries, keys and values are projections of

    @property
    def heads(self) -> int:
        """How many heads the queries have."""
        return int(self.query.rows.shape[0])

    @property
    def kv_heads(self) -> int:
        """How many heads the keys and values have."""
        return int(self.key.rows.shape[0])


def attention_block(program: Program, attention: fx.Node) -> AttentionBlock:
    """The block around `attention`. NoHeads says what it has that a block has not."""
    query, key, value = (heads_of(program, read) for read in operands(attention)[:3])
    x: fx.Node = operands(query.linear)[0]
    within = {attention}.union(query.nodes, key.nodes, value.nodes)
    for part in (query, key, value):
        if operands(part.linear)[0] is not x:
            raise NoHeads("queries, keys and values are projections of different values", part.linear)
        for weight in operands(part.linear)[1:]:
            if weight is not None and weight.op != "get_attr":
                raise NoHeads("a projection's weight is computed in the graph", weight)
        for node in part.nodes:
            if not within.issuperset(node.users):
                raise NoHeads("a projection is read by something else, too", node)
    chain: list[fx.Node] = []
    node = attention
    while True:
        users = list(node.users)
        if len(users) != 1 or operands(users[0])[0] is not node:
            raise NoHeads("its heads are read by more than one product", node)
        if users[0].target is aten.linear.default:
            break
        node = users[0]
        if node.target not in VIEWS:
            raise NoHeads("its heads are not joined by views alone", node)
        chain.append(node)
    output = users[0]
    if operands(output)[1].op != "get_attr":
        raise NoHeads("a projection's weight is computed in the graph", output)
    heads, size = int(attention.meta["val"].shape[1]), int(attention.meta["val"].shape[3])
    numbers = torch.arange(heads * size).view(1, heads, 1, size)
    joined = run_views(program, attention, numbers, chain).flatten()
    if joined.numel() != heads * size or int(operands(output)[1].meta["val"].shape[1]) != heads * size:
        raise NoHeads("the product that follows does not take all heads of a token", output)
    return AttentionBlock(attention, query, key, value, output, joined.argsort().view(heads, size), x)
