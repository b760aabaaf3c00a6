"""Regimes: ranges of a step's sizes that a plan has a variant for, and the symbols that stand for sizes there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from burnish.ir.symbols import symbolic_size

_CAPACITY = (1, None, 61)


@dataclass(frozen=True)
class Regime:
    """Sizes that have a variant of their own: a number, or least, largest and an example."""

    name: str
    batch: int | tuple[int, int | None, int]
    sequence: int | tuple[int, int | None, int]
    kept: int | tuple[int, int | None, int]
    typical: Mapping[str, int]  # what it is timed with
    most_rows: int | None = None  # batch * sequence


@dataclass
class SymbolicSizes:
    """The sizes of a regime by name, each a number or a symbol."""

    environment: ShapeEnv = field(default_factory=lambda: ShapeEnv(duck_shape=False))
    by_name: dict[str, int | torch.SymInt] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)  # of the symbols: "s31" -> "batch"
    ranges: dict[str, tuple[int, int | None]] = field(default_factory=dict)  # that a variant is for

    @staticmethod
    def of(regime: Regime) -> SymbolicSizes:
        """Those of a regime; there may be any number of tokens in the states."""
        found = SymbolicSizes()
        for name in ("batch", "sequence", "kept", "capacity"):
            given = _CAPACITY if name == "capacity" else getattr(regime, name)
            if isinstance(given, int):
                found.by_name[name], found.ranges[name] = given, (given, given)
                continue
            least, most, example = given
            if name != "capacity":
                found.ranges[name] = (least, most)
            found.by_name[name] = symbol = symbolic_size(found.environment, name, example, least, most)
            found.names[str(symbol.node.expr)] = name
        if regime.most_rows is not None:
            found.ranges["rows"] = (1, regime.most_rows)
        return found
