"""`Program`: what every pass takes and gives.

The graph is a `torch.fx.Graph` over ATen's export dialect and the `burnish::` ops. Nodes are placeholders (the inputs
and, once there are states, the states), `get_attr` nodes that name weights, `call_function` nodes and one output. Each
node has `meta["val"]`, the FakeTensor (or SymInt) that says its shape and dtype, and `meta["origin"]`.

A *whole* program maps `tokens[batch, sequence]` to `logits[batch, sequence, vocabulary]`.
A *step* program maps `tokens[batch, new], position[batch], logits_index[kept], *states` to
`logits[batch, kept, vocabulary], *states`: `position` is how many tokens of each row came before, `logits_index` which
of the new tokens logits are wanted for. Ahead of the logits it may give what is chosen by them:
`burnish.ir.signature.OUTPUTS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

import torch
from torch import fx

from burnish.ir.errors import InvalidProgramError
from burnish.ir.origin import Origin
from burnish.ir.signature import Interface, Signature
from burnish.ir.states import State
from burnish.ir.weights import Weights


class Stage(Enum):
    """How far a program has come; each stage has a specification (`burnish.ir.spec`)."""

    CAPTURED = "captured"  # tokens in, logits out: ATen as exported, more and more of it raised to burnish ops
    RAISED = "raised"  # what the raising passes take away is gone, or was refused with a reason
    INCREMENTAL = "incremental"  # step form: states in, states out
    LOWERED = "lowered"  # step form, and a target has looked at it: it runs all of it
    GRAPH = "graph"  # no language model: whatever is taken and given, from the first pass to the last

    @property
    def is_step(self) -> bool:
        """Whether a program at it is a step program."""
        return self in (Stage.INCREMENTAL, Stage.LOWERED)


@dataclass
class Program:
    """A graph with its weights, states and interface. Passes return a new one and leave theirs as it was."""

    graph: fx.Graph
    weights: Weights
    interface: Signature | Interface
    states: tuple[State, ...] = ()
    stage: Stage = Stage.CAPTURED
    raised_by: frozenset[str] = frozenset()  # the raising passes whose clauses hold (`burnish.ir.spec`)
    batch: str = "batch"  # the symbols that stand for the sizes, as they print in shapes
    sequence: str = "sequence"
    details: dict[str, Any] = field(default_factory=dict)
    made: list[fx.Node] = field(default_factory=list, repr=False)  # by an Editor, and not yet told as a rewrite

    def copy(self) -> Program:
        """A program with a graph of its own and the same nodes by name; weights are shared, not copied."""
        graph = fx.Graph()
        output = graph.graph_copy(self.graph, {})
        old_output = self.output
        copied = graph.output(output)
        copied.meta = dict(old_output.meta)
        copied.name = old_output.name
        return replace(self, graph=graph, weights=self.weights.copy(), details=dict(self.details), made=[])

    @property
    def signature(self) -> Signature:
        """The interface of a language model. Raises InvalidProgramError where the program is none."""
        if not isinstance(self.interface, Signature):
            raise InvalidProgramError("it is no language model's program: it has neither tokens nor logits")
        return self.interface

    @property
    def output(self) -> fx.Node:
        last: fx.Node = next(iter(reversed(self.graph.nodes)))
        return last

    @property
    def outputs(self) -> dict[str, fx.Node]:
        """What it gives, by name: the outputs of its interface, then each state as it is afterwards."""
        names = (*self.interface.outputs, *(state.name for state in self.states))
        return dict(zip(names, operands(self.output)[0], strict=True))

    @property
    def results(self) -> dict[str, fx.Node]:
        """The outputs but for the states."""
        outputs = self.outputs
        return {name: outputs[name] for name in self.interface.outputs}

    @property
    def new_states(self) -> list[fx.Node]:
        """What gives the states as they are afterwards, in their order."""
        return list(self.outputs.values())[len(self.interface.outputs) :]

    def give(self, results: Mapping[str, fx.Node], states: Iterable[fx.Node]) -> None:
        """Have it give these, the states in their order, in place."""
        self.interface = replace(self.interface, outputs=tuple(results))
        self.output.args = ((*results.values(), *states),)

    @property
    def placeholders(self) -> list[fx.Node]:
        return [node for node in self.graph.nodes if node.op == "placeholder"]

    @property
    def inputs(self) -> dict[str, fx.Node]:
        """The placeholders by name: the inputs of the interface, then each state."""
        return {node.name: node for node in self.placeholders}

    @property
    def state_inputs(self) -> list[fx.Node]:
        """The placeholders that read the states, in their order."""
        inputs = self.inputs
        return [inputs[state.name] for state in self.states]

    @property
    def tokens(self) -> fx.Node:
        """The placeholder of the token ids."""
        first: fx.Node = next(node for node in self.graph.nodes if node.op == "placeholder")
        return first

    def first_states(self, batch: int, capacity: int) -> dict[str, torch.Tensor]:
        """The states before the first token, by name, of `batch` rows."""
        return {
            state.name: torch.zeros(state.concrete_shape(batch, capacity), dtype=state.dtype) for state in self.states
        }

    def weight_of(self, node: fx.Node) -> str:
        """The name of the weight that a `get_attr` node reads."""
        assert node.op == "get_attr"
        return str(node.target)


def operands(node: fx.Node) -> tuple[Any, ...]:
    """The node's positional arguments, for reading: nodes, numbers, lists of these."""
    return node.args


def origin(node: fx.Node) -> Origin:
    """The node's origin; an empty one if it has none."""
    found = node.meta.get("origin")
    return found if isinstance(found, Origin) else Origin()


def value(node: fx.Node) -> torch.Tensor:
    """The FakeTensor that says the node's shape and dtype."""
    found = node.meta.get("val")
    if not isinstance(found, torch.Tensor):
        raise TypeError(f"node {node.name} gives {type(found).__name__}, not a tensor")
    return found


def describe(node: fx.Node) -> str:
    """The node, its op and its place in the user's source, for messages."""
    target = node.target if isinstance(node.target, str) else str(node.target)
    place = origin(node)
    text = f"{node.name} ({target})"
    if place.module or place.file:
        text += f" in {place.module or 'the model'}"
        if place.module_type:
            text += f" ({place.module_type})"
        if place.file:
            text += f", {place.file}:{place.line}"
            if place.code:
                text += f": `{place.code}`"
    return text


def on_tensors(node: fx.Node) -> bool:
    """Whether a node makes tensors of tensors: what it does with sizes is worked out as kernels are planned."""
    reads = any(isinstance(each.meta["val"], torch.Tensor) for each in node.all_input_nodes)
    return reads and not isinstance(node.meta["val"], torch.SymInt | torch.SymFloat | torch.SymBool | int)
