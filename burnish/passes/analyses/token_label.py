"""Where tokens stand in a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy
import torch


@dataclass(frozen=True)
class TokenAxis:
    """Where tokens stand: axis `axis`, whose size is outer * tokens * `inner` (plain axes have inner == 1)."""

    axis: int
    inner: sympy.Expr = sympy.S.One


Label = TokenAxis | None | tuple["Label", ...]


def size_expression(size: Any) -> sympy.Expr:
    """A size as an expression in the symbols."""
    return size.node.expr if isinstance(size, torch.SymInt) else sympy.Integer(int(size))
