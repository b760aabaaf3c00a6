"""A linear takes in what stands around it: the norm before it; bias, activation, gate, scale, soft cap, residual after.

For targets whose matrix products have such prologues and epilogues. One `burnish::fused_linear` is one kernel: what
stood between the operations no longer goes through memory.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.fused_ops import fused_ops
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, operands, value
from burnish.ir.quantization import kind_of
from burnish.ir.shapes import same_shape
from burnish.ir.weights import Concat, Rows
from burnish.passes.base import Effect, Log
from burnish.passes.fuse.pack_linears import packed_name

aten = torch.ops.aten

_LINEARS = {aten.linear.default, fused_ops.fused_linear.default}
_ACTIVATIONS: dict[Any, str] = {
    aten.silu.default: "silu",
    aten.relu.default: "relu",
    aten.sigmoid.default: "sigmoid",
}


@dataclass(frozen=True)
class _Linear:
    """The arguments of `burnish::fused_linear`, with nodes."""

    x: fx.Node
    weight: fx.Node
    bias: fx.Node | None = None
    norm_weight: fx.Node | None = None
    norm_bias: fx.Node | None = None
    residual: fx.Node | None = None
    options: dict[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(node: Any) -> _Linear | None:
        """What a linear, fused already or not, computes; None for any other node."""
        if not isinstance(node, fx.Node) or node.target not in _LINEARS:
            return None
        names = ("x", "weight", "bias", "norm_weight", "norm_bias", "residual")
        given: dict[str, Any] = dict(zip(names, node.args, strict=False))
        options = dict(node.kwargs)
        given.update({name: options.pop(name) for name in names if name in options})
        return _Linear(**given, options=options)

    def with_options(self, **options: Any) -> _Linear:
        return replace(self, options={**self.options, **options})

    @property
    def is_open(self) -> bool:
        """Whether nothing comes after the product and its bias yet."""
        return self.residual is None and not self.options.keys() & {"activation", "gated", "scale", "softcap"}

    def call(self, editor: Editor, like: fx.Node) -> fx.Node:
        arguments = [self.x, self.weight, self.bias, self.norm_weight, self.norm_bias, self.residual]
        return editor.call(fused_ops.fused_linear.default, *arguments, like=like, **self.options)


@dataclass(frozen=True)
class FuseLinears:
    """norm, linear, bias, activation, gate, scale, soft cap, residual -> burnish::fused_linear."""

    name: ClassVar[str] = "fuse-linears"
    effect: ClassVar[Effect] = Effect.REASSOCIATES
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Fuse around each linear of `program`, in place."""
        _Fuser(program, log).run()
        remove_dead(program)
        return program


class _Fuser:
    def __init__(self, program: Program, log: Log) -> None:
        self.program = program
        self.log = log
        self.editor = Editor(program)

    def run(self) -> None:
        """In the graph's order, so that each operation finds what it follows fused already."""
        handlers: dict[Any, Callable[[fx.Node], tuple[_Linear, str] | None]] = {
            aten.linear.default: self._linear,
            burnish_ops.gated_activation.default: self._gate,
            aten.add.Tensor: self._residual,
            aten.mul.Tensor: self._scale,
            aten.mul.Scalar: self._scale,
            aten.gelu.default: self._activation,
            **dict.fromkeys(_ACTIVATIONS, self._activation),
        }
        for node in list(self.program.graph.nodes):
            handler = handlers.get(node.target)
            found = handler(node) if handler is not None and node.users else None
            if found is None:
                continue
            fused, told = found
            with self.editor.before(node):
                new = fused.call(self.editor, node)
            self.editor.replace(node, new)
            self.log.rewrite(node, told)

    # ------------------------------------------------------------ before the product

    def _linear(self, node: fx.Node) -> tuple[_Linear, str] | None:
        found = _Linear.of(node)
        assert found is not None
        if found.weight.op != "get_attr":
            self.log.refuse(node, "its weight is computed in the graph")
            return None
        norm = found.x
        if norm.target is burnish_ops.rms_norm.default:
            x, weight, eps = operands(norm)
            options = {"norm": "rms", "eps": eps}
            bias = None
        elif norm.target is aten.layer_norm.default:
            x, shape, weight, bias, eps = (*operands(norm), *(None, None, 1e-5)[len(norm.args) - 2 :])[:5]
            if len(shape) != 1:
                return found, "linear"
            options = {"norm": "layer", "eps": eps}
        else:
            return found, "linear"
        others = [user for user in norm.users if user.target not in _LINEARS or user.args[0] is not norm]
        if others:
            self.log.refuse(norm, f"a norm that is read by {others[0].name} too is computed once, by itself")
            return found, "linear"
        fused = replace(found, x=x, norm_weight=weight, norm_bias=bias, options=options)
        return fused, f"linear behind a norm ({options['norm']})"

    # ------------------------------------------------------------ behind it

    def _open(self, node: Any, user: fx.Node) -> _Linear | None:
        """The linear that `node` is, if `user` alone reads it and it ends with its product."""
        found = _Linear.of(node)
        if found is None or not found.is_open or set(node.users) != {user} or node.target is aten.linear.default:
            return None
        return found

    def _gate(self, node: fx.Node) -> tuple[_Linear, str] | None:
        gate, up, activation = node.args
        first, second = self._open(gate, node), self._open(up, node)
        if first is None or second is None:
            return self._gate_of_halves(node)
        same = (first.x, first.norm_weight, first.norm_bias) == (second.x, second.norm_weight, second.norm_bias)
        if not same or first.options != second.options or (first.bias is None) != (second.bias is None):
            self.log.refuse(node, "gate and up are not projections of one value")
            return None
        first_kind, second_kind = (kind_of(self.program.weights[str(each.weight.target)]) for each in (first, second))
        if first_kind != second_kind:
            self.log.refuse(node, "gate and up have weights of different precision")
            return None
        weight = self._interleave([first.weight, second.weight])
        bias = None
        if first.bias is not None and second.bias is not None:
            bias = self._interleave([first.bias, second.bias])
        fused = replace(first, weight=weight, bias=bias).with_options(activation=activation, gated=True)
        return fused, f"gate, up and {activation} in one linear"

    def _gate_of_halves(self, node: fx.Node) -> tuple[_Linear, str] | None:
        """activation(first half) * second half of one linear."""
        gate, up, activation = operands(node)
        first, second = _half(gate), _half(up)
        if first is None or second is None or first[0] is not second[0] or (first[1], second[1]) != (0, 1):
            return None
        source = first[0]
        found = _Linear.of(source)
        readers = {gate, up, gate.args[0], up.args[0]}  # halves, or what they are taken from
        if found is None or not found.is_open or not set(source.users) <= readers:
            return None
        if any(set(half.users) != {node} for half in (gate, up)):
            return None
        bias = None if found.bias is None else self._interleave([found.bias])
        fused = replace(found, weight=self._interleave([found.weight]), bias=bias)
        return fused.with_options(activation=activation, gated=True), f"gate, up and {activation} in one linear"

    def _interleave(self, parts: list[fx.Node]) -> fx.Node:
        """A weight whose rows are one of gate, one of up, and so on; given as two, or as one with the two in order."""
        names = [str(part.target) for part in parts]
        weights = [self.program.weights[name] for name in names]
        joined = weights[0] if len(weights) == 1 else Concat(tuple(weights))
        by_turns = torch.arange(joined.shape[0]).reshape(2, -1).t().flatten()
        name = packed_name(names, "|") if len(names) > 1 else f"{names[0]}.interleaved"
        return self.editor.weight(name, Rows(joined, by_turns))

    def _activation(self, node: fx.Node) -> tuple[_Linear, str] | None:
        found = self._open(node.args[0], node)
        if found is None:
            return None
        if node.target is aten.gelu.default:
            by_tanh = node.kwargs.get("approximate", "none") == "tanh"
            activation = "gelu_tanh" if by_tanh else "gelu"
        else:
            activation = _ACTIVATIONS[node.target]
        return found.with_options(activation=activation), f"{activation} of a linear"

    def _residual(self, node: fx.Node) -> tuple[_Linear, str] | None:
        if node.kwargs.get("alpha", 1) != 1 or not all(isinstance(argument, fx.Node) for argument in node.args):
            return None
        first, second = operands(node)
        for product, residual in ((second, first), (first, second)):
            found = _Linear.of(product)
            if found is None or found.residual is not None or set(product.users) != {node}:
                continue
            if not isinstance(residual, fx.Node):
                continue
            shape = value(node).shape
            if same_shape(value(residual).shape, shape) and same_shape(value(product).shape, shape):
                return replace(found, residual=residual), "residual added to a linear"
        return None

    def _scale(self, node: fx.Node) -> tuple[_Linear, str] | None:
        source, number = node.args
        if not isinstance(number, int | float) or not isinstance(source, fx.Node):
            return None
        if source.target is aten.tanh.default and set(source.users) == {node}:
            return self._softcap(node, source, float(number))
        found = _Linear.of(source)
        if found is None or found.residual is not None or set(source.users) != {node}:
            return None
        if found.options.keys() & {"scale", "softcap"}:
            return None
        return found.with_options(scale=float(number)), f"a linear times {number}"

    def _softcap(self, node: fx.Node, tanh: fx.Node, cap: float) -> tuple[_Linear, str] | None:
        """cap * tanh(linear / cap)."""
        quotient = tanh.args[0]
        if not isinstance(quotient, fx.Node) or set(quotient.users) != {tanh} or len(quotient.args) < 2:
            return None
        product, number = operands(quotient)
        divides = quotient.target in (aten.div.Tensor, aten.div.Scalar) and number == cap
        found = _Linear.of(product)
        if not divides or found is None or found.residual is not None or "softcap" in found.options:
            return None
        if set(product.users) != {quotient}:
            return None
        return found.with_options(softcap=cap), f"soft cap of {cap} on a linear"


def _half(node: Any) -> tuple[fx.Node, int] | None:
    """The linear whose first or second half a node is, and which."""
    if not isinstance(node, fx.Node):
        return None
    width = int(node.meta["val"].shape[-1])
    if node.target is operator.getitem:
        pieces, index = operands(node)
        along = pieces.args[2] if len(pieces.args) > 2 else pieces.kwargs.get("dim", 0)
        source = pieces.args[0]
        start = sum(int(piece.shape[-1]) for piece in pieces.meta["val"][:index])
    elif node.target is aten.slice.Tensor and len(node.args) < 5:
        source, along, start = operands(node)[:3]
    else:
        return None
    last = source.meta["val"].dim() - 1
    if along not in (-1, last) or int(source.meta["val"].shape[-1]) != 2 * width or start not in (0, width, None):
        return None
    return source, int(start == width)
