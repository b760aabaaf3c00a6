"""A decoder as torch.export would give it, made node by node: for tests that need a program, and no module."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from burnish.ir.origin import Origin
from burnish.ir.program import Program
from burnish.ir.signature import Signature
from burnish.ir.symbols import TypedGraph

aten = torch.ops.aten
VOCABULARY, WIDTH, HEADS = 11, 8, 2


class Decoder(TypedGraph):
    """tokens -> logits: attention and a gated product in each layer, each behind a norm written by hand."""

    def __init__(self, layers: int, seed: int = 0) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.place = Origin()
        self.size("batch", 3)
        self.size("sequence", 5)
        tokens = self.input("tokens", ["batch", "sequence"], torch.int64)
        table = self.random("embedding.weight", VOCABULARY, WIDTH)
        x = self.call(aten.embedding.default, table, tokens)
        for number in range(layers):
            self.place = Origin(f"layers.{number}", "Layer", "decoder.py", 12, "x = x + self.attend(self.norm(x))")
            x = self.call(aten.add.Tensor, x, self.attend(self.normed(x, number), number))
            x = self.call(aten.add.Tensor, x, self.gated(self.normed(x, number), number))
        self.place = Origin()
        self.logits = self.call(aten.linear.default, x, table)

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().call(target, *args, **kwargs)
        node.meta["origin"] = self.place
        return node

    def random(self, name: str, *shape: int) -> fx.Node:
        return self.weight(name, torch.randn(*shape, generator=self.generator) / 2)

    def linear(self, x: fx.Node, number: int, name: str) -> fx.Node:
        return self.call(aten.linear.default, x, self.random(f"layers.{number}.{name}.weight", WIDTH, WIDTH))

    def normed(self, x: fx.Node, number: int) -> fx.Node:
        mean = self.call(aten.mean.dim, self.call(aten.pow.Tensor_Scalar, x, 2), [-1], True)
        root = self.call(aten.rsqrt.default, self.call(aten.add.Tensor, mean, 1e-5))
        return self.call(
            aten.mul.Tensor, self.call(aten.mul.Tensor, x, root), self.random(f"layers.{number}.norm.weight", WIDTH)
        )

    def attend(self, x: fx.Node, number: int) -> fx.Node:
        q, k, v = (
            self.call(
                aten.transpose.int,
                self.call(aten.unflatten.int, self.linear(x, number, name), 2, [HEADS, WIDTH // HEADS]),
                1,
                2,
            )
            for name in ("query", "key", "value")
        )
        seen = self.call(aten.scaled_dot_product_attention.default, q, k, v, None, 0.0, True)
        joined = self.call(aten.flatten.using_ints, self.call(aten.transpose.int, seen, 1, 2), 2)
        return self.linear(joined, number, "out")

    def gated(self, x: fx.Node, number: int) -> fx.Node:
        gate = self.call(aten.silu.default, self.linear(x, number, "gate"))
        return self.linear(self.call(aten.mul.Tensor, gate, self.linear(x, number, "up")), number, "down")


def decoder(layers: int = 2, max_length: int = 32) -> Program:
    """A captured program over VOCABULARY tokens."""
    made = Decoder(layers)
    return made.program(made.logits, signature=Signature(VOCABULARY, max_length, VOCABULARY))
