"""Programs made node by node, for the tests of the engine."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from burnish.ir.infer import infer
from burnish.ir.program import Program, Signature
from burnish.ir.weights import Stored, Weights

SHAPE = (2, 3, 8)


class Builder:
    """A program with the inputs tokens[2, 3] and x, y[2, 3, 8]."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.mode = FakeTensorMode()
        self.weights = Weights()
        self.tokens = self._input("tokens", torch.zeros(2, 3, dtype=torch.int64))
        self.x, self.y = (self._input(name, torch.zeros(SHAPE)) for name in ("x", "y"))

    def _input(self, name: str, example: torch.Tensor) -> fx.Node:
        node = self.graph.placeholder(name)
        node.meta["val"] = self.mode.from_tensor(example)
        return node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A typed node."""
        node = self.graph.call_function(target, args, kwargs)
        infer(node, self.mode)
        return node

    def weight(self, tensor: torch.Tensor) -> fx.Node:
        """A node that reads a weight."""
        node = self.graph.create_node("get_attr", self.weights.add("weight", Stored(tensor)))
        node.meta["val"] = self.mode.from_tensor(tensor)
        return node

    def program(self, *outputs: fx.Node) -> Program:
        """The program that gives `outputs`."""
        self.graph.output(outputs)
        return Program(self.graph, self.weights, Signature(8, 3, 8))
