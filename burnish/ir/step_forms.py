"""State descriptors: what an op that mixes tokens remembers from step to step, and its form in a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import fx

from burnish.ir.arguments import argument
from burnish.ir.edit import Editor
from burnish.ir.program import value
from burnish.ir.states import StateKind

aten = torch.ops.aten
END = 2**63 - 1


class Stepper(Protocol):
    """What a step form is written with. It puts new nodes in front of the node that it is for."""

    @property
    def editor(self) -> Editor: ...

    def window(self, source: fx.Node, axis: int, size: int) -> fx.Node:
        """The last `size` values of `source` along `axis`, and then the new ones; zeros before the first."""
        ...

    def total(self, source: fx.Node, axis: int) -> fx.Node:
        """`source`, a running sum of the new tokens along `axis`, with the sum of all earlier ones added."""
        ...


StepForm = Callable[[Stepper, fx.Node], tuple[fx.Node, str]]
"""Gives what stands for the node in a step, and what to say of it."""


@dataclass(frozen=True)
class StateDescriptor:
    """What an op remembers. To go back is for its kind of state: see `StateKind`.

    kind: of the state.
    step: its form in a step; None for an op whose operands are remembered.
    all_tokens: operands that it wants for all tokens. Which values to remember for these is a minimum cut.
    """

    kind: StateKind
    step: StepForm | None = None
    all_tokens: tuple[str, ...] = ()


def convolution_step(stepper: Stepper, node: fx.Node) -> tuple[fx.Node, str]:
    """`causal_conv1d`: a convolution of the last tokens and the new ones."""
    x, weight, bias, dilation, groups = node.args
    assert isinstance(x, fx.Node)
    assert isinstance(weight, fx.Node)
    assert isinstance(dilation, int)
    size = (int(value(weight).shape[-1]) - 1) * dilation
    joined = stepper.window(x, 2, size) if size else x
    out = stepper.editor.call(aten.conv1d.default, joined, weight, bias, [1], [0], [dilation], groups, like=node)
    return out, f"convolution over a window of {size} remembered tokens"


def shift_step(stepper: Stepper, node: fx.Node) -> tuple[fx.Node, str]:
    """`shift`: the last tokens and the new ones, without the newest."""
    x, axis, amount = node.args
    assert isinstance(x, fx.Node)
    assert isinstance(axis, int)
    assert isinstance(amount, int)
    joined = stepper.window(x, axis, amount)
    return stepper.editor.call(aten.slice.Tensor, joined, axis, 0, -amount, like=node), f"shift by {amount}"


def running_sum_step(stepper: Stepper, node: fx.Node) -> tuple[fx.Node, str]:
    """`cumsum` over the tokens: that of the new ones, and the total of all before."""
    axis = int(argument(node, "dim")) % value(node).dim()
    return stepper.total(node, axis), "running sum with its total remembered"
