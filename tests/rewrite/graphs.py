"""Programs made node by node, for the tests of the engine."""

from __future__ import annotations

import torch
from torch import fx

from burnish.ir.program import Program
from burnish.ir.signature import Signature
from burnish.ir.symbols import TypedGraph

SHAPE = (2, 3, 8)


class Builder(TypedGraph):
    """A program with the inputs tokens[2, 3] and x, y[2, 3, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = self.input("tokens", SHAPE[:2], torch.int64)
        self.x, self.y = (self.input(name, SHAPE, torch.float32) for name in ("x", "y"))

    def stored(self, tensor: torch.Tensor) -> fx.Node:
        """A node that reads a weight."""
        return self.weight("weight", tensor)

    def giving(self, *outputs: fx.Node) -> Program:
        """The program that gives `outputs`."""
        self.graph.output(outputs)
        return Program(self.graph, self.weights, Signature(8, 3, 8))
