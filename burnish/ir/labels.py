"""Where the entries of one axis of the input (its tokens, its rows) stand in a value, and what a rule of an op is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import sympy
import torch
from torch import fx

from burnish.ir.errors import BurnishError


class Along(Enum):
    """Which axis is followed, and what its entries are called in messages."""

    TOKENS = "tokens"  # of the sequence; what is computed of one may reach later ones where an op remembers
    ROWS = "rows of the batch"
    KEPT = "tokens picked for their logits"  # whose neighbours are no longer there


@dataclass(frozen=True)
class AxisLabel:
    """Where entries stand: on axis `axis`, whose size is outer * entries * `inner` (plain axes have inner == 1)."""

    axis: int
    inner: sympy.Expr = sympy.S.One


Label = AxisLabel | None | tuple["Label", ...]


class Labels(Protocol):
    """What a rule is given: the labels of all nodes ahead, and the words for refusing."""

    along: Along
    symbol: sympy.Symbol  # how many entries there are

    def of(self, node: Any) -> AxisLabel | None:
        """The label of a node's value; None if it has none of the entries, or is no node."""
        ...

    def parts(self, node: Any) -> Label:
        """The label of a node that gives several values: one each."""
        ...

    def remembered(self, node: fx.Node) -> None:
        """The node lets a token see earlier ones, in the way that its op's state descriptor knows."""
        ...

    def mixes(self, node: fx.Node, how: str) -> BurnishError:
        """The error for a node that mixes entries; a {} in `how` is what they are called."""
        ...

    def weight_values(self, node: fx.Node) -> torch.Tensor:
        """The values of the weight that a node reads."""
        ...


Rule = Callable[[Labels, fx.Node], Label]
"""Where the entries stand in the node's value, from where they stand in its arguments; raises if it mixes them."""


def rank(node: Any) -> int:
    """The number of axes of a node's value."""
    return int(node.meta["val"].dim())
