"""Which axis of each value is the tokens' (or the rows'), and the proof that each op keeps them apart.

A step runs the same graph over the new tokens alone. That is right for an op if output token i depends on input token i
and no other. Ops that mix tokens in a known causal way (those with a state descriptor) are left to state insertion; any
other op that mixes them is the proof that the model is not causal, or not known to be.

The rows of a batch get the same proof by the same rules, without exceptions: an answer does not depend on company. So
do the tokens that are picked for their logits, whose neighbours are no longer there.
"""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import Tensor, fx

from burnish.ir.errors import BurnishError, InvalidProgramError, MixedRowsError, NotCausalError, UnsupportedError
from burnish.ir.label_rules import filled
from burnish.ir.labels import Along, AxisLabel, Label
from burnish.ir.program import Program, describe, value
from burnish.ir.shapes import size_expression
from burnish.ir.signature import LOGITS_INDEX
from burnish.ir.traits import is_random, traits
from burnish.passes.analyses.position_only import PositionOnly

aten = torch.ops.aten


class AxisLabels:
    """Labels of all nodes of a program; raises for the first node that mixes what is followed in no known way.

    `mixing` are the nodes that let a token see earlier ones and have a state descriptor, in order.
    """

    def __init__(self, program: Program, along: Along = Along.TOKENS, positions: PositionOnly | None = None) -> None:
        """`positions`: those of the program, where they are known already."""
        self.program = program
        self.along = along
        self.symbol = self._symbol()
        self.positions = positions or PositionOnly(program)
        self.mixing: list[fx.Node] = []
        self.labels: dict[fx.Node, Label] = {}
        for node in program.graph.nodes:
            if node is program.tokens:
                self.labels[node] = {Along.TOKENS: AxisLabel(1), Along.ROWS: AxisLabel(0)}.get(along)
            elif node.op == "call_function":
                self.labels[node] = self._label(node)

    def _symbol(self) -> sympy.Symbol:
        rows, tokens = value(self.program.tokens).shape
        if self.along is Along.KEPT:
            index = self.program.inputs[LOGITS_INDEX.name]
            return size_expression(value(index).shape[0])
        return size_expression(tokens if self.along is Along.TOKENS else rows)

    def of(self, node: Any) -> AxisLabel | None:
        """The axis of what is followed in a node's value, None if it has none."""
        label = self.labels.get(node) if isinstance(node, fx.Node) else None
        return label if isinstance(label, AxisLabel) else None

    def parts(self, node: Any) -> Label:
        """The label of a node that gives several values: one each."""
        return self.labels.get(node)

    def _label(self, node: fx.Node) -> Label:
        known = traits(node.target)
        if is_random(node.target):
            raise UnsupportedError(
                f"{describe(node)} draws random numbers, so that the answer would be another each time: take it out (a "
                "dropout asks for training=self.training)"
            )
        if known.fills or self._same_for_rows(node):
            if self.along is Along.KEPT:
                return None
            others = frozenset(size_expression(size) for size in value(self.program.tokens).shape)
            return filled(self, [size_expression(size) for size in value(node).shape], others - {self.symbol})
        inputs = node.all_input_nodes
        picks = self.along is Along.KEPT and any(each.name == LOGITS_INDEX.name for each in inputs)
        if not picks and not any(self.labels.get(each) for each in inputs):
            return None
        if isinstance(node.meta.get("val"), torch.SymInt | torch.SymBool | torch.SymFloat | int):
            return None
        if self.along is not Along.KEPT:
            self._check_positions(node)
        if known.label is None:
            raise UnsupportedError(
                f"{describe(node)}: nothing is known of how {node.target} treats {self.along.value}, so the model "
                "cannot be made incremental. Please report it; a row in burnish/ir/traits.py is what it needs"
            )
        return known.label(self, node)

    def _check_positions(self, node: fx.Node) -> None:
        """Data may meet positions only in tables: anything else would start again at 0 in each step."""
        for argument in node.all_input_nodes:
            sized = (
                argument in self.positions and self.positions.is_sized(argument) and not self._same_for_rows(argument)
            )
            if sized and not traits(argument.target).fills and isinstance(argument.meta.get("val"), Tensor):
                raise UnsupportedError(
                    f"{describe(node)} meets {argument.name}, which depends on positions but is no table of them (the "
                    "refusals of the pass fold-positions say why), so the model cannot be made incremental"
                )

    def _same_for_rows(self, node: fx.Node) -> bool:
        """Whether the value is a constant that is repeated for each row of the batch."""
        source = node.args[0] if node.target is aten.expand.default else None
        if not isinstance(source, fx.Node) or source not in self.positions or self.positions.is_sized(source):
            return False
        tokens = size_expression(value(self.program.tokens).shape[1])
        return not any(tokens in size_expression(size).free_symbols for size in value(node).shape)

    # ------------------------------------------------------------ for the rules

    def remembered(self, node: fx.Node) -> None:
        """The node lets a token see earlier ones, in the way that its op's state descriptor knows."""
        self.mixing.append(node)

    def weight_values(self, node: fx.Node) -> Tensor:
        """The values of the weight that a node reads."""
        return self.program.weights[self.program.weight_of(node)].materialize()

    def mixes(self, node: fx.Node, how: str) -> BurnishError:
        """The error for a node that mixes what is followed."""
        told = f"{describe(node)} {how.format(self.along.value)}"
        if self.along is Along.ROWS:
            return MixedRowsError(
                f"the model mixes the rows of a batch: {told}, so that the answer to one prompt would depend on the "
                "others beside it. burnish.compile takes models that treat each row by itself"
            )
        if self.along is Along.KEPT:
            return InvalidProgramError(
                f"tokens were picked for their logits too early: {told}. This is a bug in burnish; please report it"
            )
        return NotCausalError(
            f"the model cannot be run token by token: {told}, so a token's output can depend on later "
            "tokens. burnish.compile takes causal language models; if this one is causal, its author's way of saying "
            "so is not one that burnish can prove"
        )
