"""What one more token costs: operations that launch work, and the bytes that they read and write.

Counted on the graph, one operation at a time, as if each read its operands from memory and wrote its result there.
A program with states runs the new token alone; one without runs all tokens again, and its reshapes count as views.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.fused_group import read_bytes
from burnish.ir.fused_ops import fused_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.panels import panel_ops
from burnish.ir.program import Program, Stage, operands
from burnish.ir.quantized_ops import quantized_ops
from burnish.ir.states import context_of
from burnish.ir.traits import traits
from burnish.ir.turns import turned

aten = torch.ops.aten

# They read only the rows that are asked for, of as many operands as belong to the table: all but the last.
_INTEGER_GATHERS = {quantized_ops.quantized_embedding.default}
# Beside others, they write the new tokens into states: operands 2 and 3, and results 1 and 2.
_PROJECTIONS = {fused_ops.attention_projection.default}


# Images with their channels first or last, queries with their heads in front of tokens or behind them.
EITHER_ORDER = frozenset(
    {
        aten.conv2d.default,
        aten.conv2d.padding,
        aten.conv_transpose2d.input,
        aten.max_pool2d.default,
        aten.avg_pool2d.default,
        aten.adaptive_avg_pool2d.default,
        aten.batch_norm.default,
        aten.scaled_dot_product_attention.default,
        burnish_ops.attention.default,
    }
)


def is_view(node: fx.Node) -> bool:
    """Whether its op gives a name to memory that is there already."""
    return traits(node.target).view


@dataclass(frozen=True)
class Cost:
    """Of one node, for one more token after others (`burnish.ir.states.context_of`)."""

    launches: int
    bytes_moved: int


def _sizes(program: Program) -> dict[str, int]:
    """What costs are counted for, by symbol: one more token, or the sizes of a graph's example."""
    if program.stage is Stage.GRAPH:
        return dict(program.details.get("examples", {}))
    length = context_of(program.signature.max_length) + 1
    named = {"capacity": length, "kept": 1}
    return {
        program.batch: 1,
        program.sequence: 1 if program.states else length,
        **{symbol: named.get(name, 1) for symbol, name in program.details.get("symbols", {}).items()},
    }


class CostCounter:
    """Costs of the nodes of one program."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._sizes = _sizes(program)
        self._known: dict[Any, int] = {}

    def cost(self, node: fx.Node) -> Cost:
        """Nothing for inputs, weights, sizes and views; else one launch, and operands and result once each."""
        val = node.meta.get("val")
        if node.op != "call_function" or not _tensors(val) or (traits(node.target).view and not self._copies(node)):
            return Cost(0, 0)
        if node.target is panel_ops.from_panels.default:
            return Cost(0, 0)  # another name: who reads the weight reads its panels
        read = [self._stored(argument) for argument in node.all_input_nodes]
        written = self.bytes_of(val)
        if traits(node.target).gathers:
            read[0] = min(read[0], written)
        elif node.target in _INTEGER_GATHERS:
            read[:-1] = [self._chosen_rows(node, table) for table in node.all_input_nodes[:-1]]
        elif traits(node.target).writes == (0,):
            read, written = [0, *read[1:]], read[1]
        elif node.target in _PROJECTIONS:
            read[2:4] = [0, 0]
            query, key_state, value_state = _tensors(val)
            written = self.bytes_of(query) + self._new_tokens(node, key_state) + self._new_tokens(node, value_state)
        elif node.target is burnish_ops.moe_linear.default:
            read = self._chosen_experts(node, read)
        elif node.target is fused_ops.fused_elementwise.default:
            read = read_bytes(node, self.bytes_of)
        return Cost(1, sum(read) + written)

    def _copies(self, node: fx.Node) -> bool:
        """Whether a reshape of a step cannot be another name for what it reads, as that lies in memory."""
        if node.target is not aten.reshape.default or not self._program.states:
            return False
        source, result = operands(node)[0].meta["val"], node.meta["val"]
        shape, strides, wanted = (
            [self._number(each) for each in sizes] for sizes in (source.shape, source.stride(), result.shape)
        )
        try:
            torch.empty_strided(shape, strides, device="meta").view(wanted)
        except RuntimeError:
            return True
        return False

    def conversions(self) -> tuple[int, int]:
        """How many permutes move elements for one more token, and the bytes that they read and write.

        A permute right in front of an op that its backends run in either order of axes, or behind it, is part of it.
        """
        moved = [self.bytes_of(node.meta["val"]) for node in self._program.graph.nodes if self._converts(node)]
        return len(moved), 2 * sum(moved)

    def _converts(self, node: fx.Node) -> bool:
        order = turned(node)
        if order is None or node.all_input_nodes[0].op == "get_attr":
            return False
        source = node.all_input_nodes[0]
        shape = [self._number(size) for size in source.meta["val"].shape]
        moving = [axis for axis in order if shape[axis] != 1]
        if moving == sorted(moving) or source.target in EITHER_ORDER:
            return False
        return not all(user.target in EITHER_ORDER for user in node.users)

    def floor(self) -> int:
        """The bytes that no way of computing one more token can do without; 0 for a program without states.

        Each weight that is needed once (rows, where rows are looked up), the states read, the new token written into
        them, the tokens in and the logits out.
        """
        if not self._program.states:
            return 0
        nodes = self._program.graph.nodes
        weights = {node.target: self._weight_floor(node) for node in nodes if node.op == "get_attr"}
        states = {state.name: state for state in self._program.states}
        total = sum(weights.values())
        for node in self._program.placeholders:
            size = self.bytes_of(node.meta["val"])
            total += size
            if node.name in states:
                axis = node.meta["val"].shape[states[node.name].axis]
                total += size // self._elements((axis,))
        return total + self.bytes_of(self._program.results["logits"].meta["val"])

    def _weight_floor(self, node: fx.Node) -> int:
        """Bytes of a weight that one more token needs."""
        return self._needed(node, self.bytes_of(node.meta["val"]))

    def _needed(self, node: fx.Node, size: int) -> int:
        """Bytes that the readers of a weight need of the `size` that are stored."""
        needed = 0
        for user in node.users:
            read = size
            if user.target is panel_ops.from_panels.default:
                read = self._needed(user, size)
            elif traits(user.target).gathers and user.args[0] is node:
                read = self.bytes_of(user.meta["val"])
            elif user.target in _INTEGER_GATHERS:
                read = self._chosen_rows(user, node)
            elif user.target is fused_ops.fused_elementwise.default:
                read = read_bytes(user, self.bytes_of)[operands(user)[0].index(node)]
            elif user.target is burnish_ops.moe_linear.default:
                read = self._chosen_experts(user, [size] * len(user.all_input_nodes))[user.all_input_nodes.index(node)]
            needed = max(needed, min(size, read))
        return needed

    def _chosen_experts(self, node: fx.Node, read: list[int]) -> list[int]:
        """Of the experts' weights, those that the tokens choose, if each chooses others."""
        weights, chosen = (node.args[1], node.args[2]), node.args[3]
        assert isinstance(chosen, fx.Node)
        choices = self._elements(chosen.meta["val"].shape)
        shares = []
        for argument, size in zip(node.all_input_nodes, read, strict=True):
            experts = int(argument.meta["val"].shape[0]) if argument in weights else 1
            shares.append(size * min(experts, choices) // experts)
        return shares

    def _chosen_rows(self, node: fx.Node, table: fx.Node) -> int:
        """Bytes of the rows of `table` that the ids, the last operand, ask for."""
        rows = self._elements(node.all_input_nodes[-1].meta["val"].shape)
        val = table.meta["val"]
        return min(self.bytes_of(val), rows * self.bytes_of(val) // int(val.shape[0]))

    def _new_tokens(self, node: fx.Node, state: Tensor) -> int:
        """Bytes of the slots of a cache [B, H, T, D] that a projection of x[B, S, K] writes."""
        batch, heads, _, size = state.shape
        tokens = node.all_input_nodes[0].meta["val"].shape[1]
        return self._elements((batch, heads, tokens, size)) * state.dtype.itemsize

    def _stored(self, node: fx.Node) -> int:
        """The bytes of what a node gives; of a weight in panels, those of the panels."""
        packed = node.target is panel_ops.from_panels.default
        return self.bytes_of((operands(node)[0] if packed else node).meta.get("val"))

    def bytes_of(self, val: Any) -> int:
        """The bytes of a fake value."""
        return sum(self._elements(tensor.shape) * tensor.dtype.itemsize for tensor in _tensors(val))

    def _elements(self, shape: Iterable[int | torch.SymInt]) -> int:
        count = 1
        for size in shape:
            count *= self._number(size)
        return count

    def _number(self, size: int | torch.SymInt) -> int:
        if isinstance(size, int):
            return size
        expression = size.node.expr
        if expression not in self._known:
            values = {symbol: self._sizes.get(str(symbol), 1) for symbol in expression.free_symbols}
            self._known[expression] = max(0, int(expression.subs(values)))
        return self._known[expression]


def _tensors(val: Any) -> list[Tensor]:
    if isinstance(val, Tensor):
        return [val]
    return [item for item in val if isinstance(item, Tensor)] if isinstance(val, tuple | list) else []
