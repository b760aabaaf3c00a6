"""Which axis of each value is the tokens', and the proof that each op keeps tokens apart.

A step runs the same graph over the new tokens alone. That is right for an op if output token i depends on input token i
and no other. Ops that mix tokens in a known causal way (attention, causal convolution, shift, running sum) are left to
state insertion; any other op that mixes them is the proof that the model is not causal, or not known to be.
"""

from __future__ import annotations

from typing import Any

import sympy
import torch
from torch import fx

from burnish.ir.errors import NotCausalError, UnsupportedError
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, describe
from burnish.passes.analyses.position_only import FILLS, PositionOnly
from burnish.passes.analyses.token_label import Label, TokenAxis, size_expression
from burnish.passes.analyses.token_rules import RULES, pointwise

__all__ = ["TokenAxes", "TokenAxis"]

aten = torch.ops.aten


class TokenAxes:
    """Labels of all nodes of a program; raises for the first node that mixes tokens in no known causal way."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.symbol = next(
            (
                symbol
                for symbol in program.tokens.meta["val"].shape[1].node.expr.free_symbols
                if str(symbol) == program.sequence
            ),
            sympy.Symbol(program.sequence),
        )
        self.positions = PositionOnly(program)
        self.labels: dict[fx.Node, Label] = {}
        for node in program.graph.nodes:
            if node.op == "placeholder":
                self.labels[node] = TokenAxis(1) if node is program.tokens else None
            elif node.op == "call_function":
                self.labels[node] = self._label(node)

    def of(self, node: fx.Node) -> TokenAxis | None:
        """The token axis of a node's value, None if it has none."""
        label = self.labels.get(node)
        return label if isinstance(label, TokenAxis) else None

    def _label(self, node: fx.Node) -> Label:
        if node.target in FILLS:
            return self._filled(node)
        if not any(self.labels.get(argument) for argument in node.all_input_nodes):
            return TokenAxis(1) if node.target is burnish_ops.positions.default else None
        if isinstance(node.meta.get("val"), torch.SymInt | torch.SymBool | torch.SymFloat | int):
            return None
        self._check_positions(node)
        rule = RULES.get(node.target)
        if rule is None and isinstance(node.target, torch._ops.OpOverload) and torch.Tag.pointwise in node.target.tags:
            rule = pointwise
        if rule is None:
            raise UnsupportedError(
                f"{describe(node)}: nothing is known of how {node.target} treats tokens, so the model cannot be made "
                "incremental. Please report it; a rule of a few lines in token_axis.py is what it needs"
            )
        return rule(self, node)

    def _check_positions(self, node: fx.Node) -> None:
        """Data may meet positions only in tables: anything else would start again at 0 in each step."""
        for argument in node.all_input_nodes:
            sized = (
                argument in self.positions and self.positions.is_sized(argument) and not self._same_for_rows(argument)
            )
            if sized and argument.target not in FILLS and isinstance(argument.meta.get("val"), torch.Tensor):
                raise UnsupportedError(
                    f"{describe(node)} meets {argument.name}, which depends on positions but is no table of them (the "
                    "refusals of the pass fold-positions say why), so the model cannot be made incremental"
                )

    def _same_for_rows(self, node: fx.Node) -> bool:
        """Whether the value is a constant that is repeated for each row of the batch."""
        source = node.args[0] if node.target is aten.expand.default else None
        if not isinstance(source, fx.Node) or source not in self.positions or self.positions.is_sized(source):
            return False
        sizes = [size_expression(size) for size in node.meta["val"].shape]
        return not any(self.symbol in size.free_symbols for size in sizes)

    def _filled(self, node: fx.Node) -> Label:
        """One number everywhere: any axis whose size follows the tokens will do."""
        for axis, size in enumerate(node.meta["val"].shape):
            expression = size_expression(size)
            if self.symbol not in expression.free_symbols:
                continue
            inner = expression / self.symbol
            for symbol in expression.free_symbols:
                if str(symbol) == self.program.batch:
                    inner = inner / symbol
            return TokenAxis(axis, sympy.simplify(inner))
        return None

    # ------------------------------------------------------------ for the rules

    def rank(self, node: fx.Node) -> int:
        """The number of axes of a node's value."""
        return int(node.meta["val"].dim())

    def mixes(self, node: fx.Node, how: str) -> NotCausalError:
        """The error for a node that mixes tokens."""
        return NotCausalError(
            f"the model cannot be run token by token: {describe(node)} {how}, so a token's output can depend on later "
            "tokens. burnish.compile takes causal language models; if this one is causal, its author's way of saying "
            "so is not one that burnish can prove"
        )

    def suffix(self, shape: Any, axis: int) -> sympy.Expr:
        """The product of the sizes behind `axis`."""
        product: sympy.Expr = sympy.Integer(1)
        for size in shape[axis + 1 :]:
            product = product * size_expression(size)
        return product
