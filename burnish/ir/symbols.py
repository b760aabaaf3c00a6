"""Symbolic sizes, and typed graphs that have them, made without torch.export: by hand, or from a text."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource, TensorProperty, TensorPropertySource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StrictMinMaxConstraint
from torch.utils._sympy.numbers import int_oo
from torch.utils._sympy.value_ranges import ValueRanges

from burnish.ir.infer import fake_weight, infer
from burnish.ir.origin import Origin
from burnish.ir.program import Program, Stage
from burnish.ir.signature import Interface, Signature
from burnish.ir.states import State
from burnish.ir.weights import Stored, Weight, Weights


def symbolic_size(
    environment: ShapeEnv | None, name: str, example: int, least: int = 2, most: int | None = None, symbol: str = ""
) -> torch.SymInt:
    """A new size that can be any number from `least` to `most` (None: without end).

    `example` decides where the range does not. torch numbers symbols by a hash of what they are called: `symbol`
    ("s52") is the one to have, if some name like `name` gives it. Expressions print in the order of their symbols.
    """
    assert environment is not None
    limits = ValueRanges(least, int_oo if most is None else most)
    source = _source(name, symbol)
    found = environment.create_symbol(
        example,
        source,
        dynamic_dim=DimDynamic.DYNAMIC,
        constraint_dim=StrictMinMaxConstraint(vr=limits, warn_only=False),
        do_not_specialize_zero_one=least < 2,
    )
    size = environment.create_symintnode(found, hint=example, source=source)
    assert isinstance(size, torch.SymInt)
    return size


def _source(name: str, symbol: str) -> TensorPropertySource:
    named = TensorPropertySource(ConstantSource(name), TensorProperty.SIZE, 0)
    if not symbol:
        return named
    others = (TensorPropertySource(ConstantSource(f"{name}_{n}"), TensorProperty.SIZE, 0) for n in range(1000))
    return next((each for each in (named, *others) if _symbol_of(each) == symbol), named)


def _symbol_of(source: TensorPropertySource) -> str:
    """What torch will call a symbol from there, if no other is called so."""
    return f"s{int(hashlib.sha256(source.name.encode()).hexdigest(), 16) % 100}"


class TypedGraph:
    """A program under construction: each node is typed as it is added."""

    def __init__(self) -> None:
        self.environment = ShapeEnv(duck_shape=False)
        self.mode = FakeTensorMode(shape_env=self.environment, allow_non_fake_inputs=True)
        self.graph = fx.Graph()
        self.weights = Weights()
        self.states: list[State] = []
        self.sizes: dict[str, torch.SymInt] = {}

    @classmethod
    def of_tokens(cls, batch: int = 3, sequence: int = 5) -> tuple[TypedGraph, fx.Node]:
        """A graph with the input tokens[batch, sequence] alone, and that. The sizes are examples."""
        made = cls()
        made.size("batch", batch)
        made.size("sequence", sequence)
        return made, made.input("tokens", ["batch", "sequence"], torch.int64)

    def size(self, name: str, example: int, least: int = 2, most: int | None = None, symbol: str = "") -> torch.SymInt:
        """A size that shapes may have, by its name: see `symbolic_size`."""
        self.sizes[name] = symbolic_size(self.environment, name, example, least, most, symbol)
        return self.sizes[name]

    def empty(self, shape: Sequence[int | str | torch.SymInt], dtype: torch.dtype) -> Tensor:
        """A fake value of a shape, whose sizes are numbers, symbols or names of sizes."""
        with self.mode:
            return torch.empty([self.sizes[size] if isinstance(size, str) else size for size in shape], dtype=dtype)

    def input(self, name: str, shape: Sequence[int | str | torch.SymInt], dtype: torch.dtype) -> fx.Node:
        """An input."""
        val = self.empty(shape, dtype)
        node = self.graph.create_node("placeholder", name, name=name)
        node.meta["val"] = val
        return node

    def state(self, state: State) -> fx.Node:
        """A state, whose sizes "batch" and "capacity" are declared, and the input that reads it."""
        self.states.append(state)
        return self.input(state.name, state.shape, state.dtype)

    def weight(self, name: str, weight: Weight | Tensor) -> fx.Node:
        """A weight and the node that reads it."""
        weight = Stored(weight) if isinstance(weight, Tensor) else weight
        return self.read(self.weights.add(name, weight))

    def read(self, weight: str, name: str | None = None) -> fx.Node:
        """A node that reads a weight that is there."""
        node = self.graph.create_node("get_attr", weight, name=name)
        node.meta["val"] = fake_weight(self.weights[weight], self.mode)
        return node

    def call(self, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that calls `target`. Raises InvalidProgramError if the arguments do not fit."""
        node = self.graph.create_node("call_function", target, args, kwargs)
        infer(node, self.mode)
        return node

    def program(self, *results: fx.Node, signature: Signature | Interface, stage: Stage = Stage.CAPTURED) -> Program:
        """The program that gives `results`. A language model's has to have the sizes "batch" and "sequence"."""
        self.graph.output(results).meta["origin"] = Origin()
        own = {} if stage is Stage.GRAPH else {name: str(self.sizes[name]) for name in ("batch", "sequence")}
        details: dict[str, Any] = {}
        if names := {str(size): name for name, size in self.sizes.items() if name not in own}:
            details["symbols"] = names
        if stage is Stage.GRAPH:
            details["examples"] = {str(size): size.node.hint for size in self.sizes.values()}
        return Program(
            graph=self.graph,
            weights=self.weights,
            interface=signature,
            states=tuple(self.states),
            stage=stage,
            details=details,
            **own,  # type: ignore[arg-type]
        )
