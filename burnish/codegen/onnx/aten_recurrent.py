"""Recurrent layers as ONNX has them: its order of gates, one direction behind the other."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
from torch import fx

from burnish.codegen.onnx.context import Arguments, Context, Result, Translate, shape_of
from burnish.ir.errors import UnsupportedError
from burnish.ir.program import describe

aten = torch.ops.aten

_GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""ONNX's gates by their places among PyTorch's: i, o, f, c of i, f, g, o; z, r, h of r, z, n."""


def _layer(operator: str, activation: str | None = None) -> Translate:
    def translate(c: Context, node: fx.Node, a: Arguments) -> Result:
        if a["train"] and a["dropout"]:
            raise UnsupportedError(f"{describe(node)} drops at random: call model.eval()")
        states: list[fx.Node] = list(a["hx"]) if isinstance(a["hx"], list | tuple) else [a["hx"]]
        directions = 2 if a["bidirectional"] else 1
        x = c.value(a["input"])
        if a["batch_first"]:
            x = c.builder.op("Transpose", x, perm=[1, 0, 2])
        weights: list[fx.Node] = list(a["params"])
        each = 4 if a["has_biases"] else 2
        if len(weights) != each * a["num_layers"] * directions:
            raise UnsupportedError(f"{describe(node)} has projections, which ONNX does not")
        hidden = int(shape_of(weights[1])[1])
        last: list[list[ir.Value]] = [[] for _ in states]
        for layer in range(a["num_layers"]):
            first = layer * directions
            own = [weights[(first + way) * each :][:each] for way in range(directions)]
            given = [_rows(c, c.value(state), first, directions) for state in states]
            y, *ends = c.builder.ops(
                operator,
                x,
                *(_stacked(c, operator, [parts[place] for parts in own], hidden) for place in range(2)),
                _biases(c, operator, own, hidden) if a["has_biases"] else None,
                None,
                *given,
                count=1 + len(states),
                hidden_size=hidden,
                direction="bidirectional" if directions == 2 else "forward",
                linear_before_reset=1 if operator == "GRU" else None,
                activations=None if activation is None else [activation] * directions,
            )
            # [S, directions, B, H] -> [S, B, directions * H]
            y = c.builder.op("Transpose", y, perm=[0, 2, 1, 3])
            x = c.builder.op("Reshape", y, c.builder.constant([0, 0, directions * hidden]))
            for place, end in enumerate(ends):
                last[place].append(end)
        if a["batch_first"]:
            x = c.builder.op("Transpose", x, perm=[1, 0, 2])
        return [x, *(ends[0] if len(ends) == 1 else c.builder.op("Concat", *ends, axis=0) for ends in last)]

    return translate


def _rows(c: Context, value: ir.Value, first: int, count: int) -> ir.Value:
    """A layer's part of the states of all."""
    constant = c.builder.constant
    return c.builder.op("Slice", value, constant([first]), constant([first + count]), constant([0]))


def _stacked(c: Context, operator: str, weights: list[fx.Node], hidden: int) -> ir.Value:
    """[gates * H, I] of each direction in ONNX's order of gates, as [directions, gates * H, I]."""
    return _joined(c, [c.unsqueeze(_ordered(c, operator, c.value(each), hidden), 0) for each in weights])


def _biases(c: Context, operator: str, own: list[list[fx.Node]], hidden: int) -> ir.Value:
    """[directions, 2 * gates * H]: those of the input, then those of the state."""
    rows = []
    for parts in own:
        both = [_ordered(c, operator, c.value(each), hidden) for each in parts[2:4]]
        rows.append(c.unsqueeze(c.builder.op("Concat", *both, axis=0), 0))
    return _joined(c, rows)


def _ordered(c: Context, operator: str, value: ir.Value, hidden: int) -> ir.Value:
    order = _GATES[operator]
    if len(order) == 1:
        return value
    constant = c.builder.constant
    gates = [
        c.builder.op("Slice", value, constant([gate * hidden]), constant([(gate + 1) * hidden]), constant([0]))
        for gate in order
    ]
    return c.builder.op("Concat", *gates, axis=0)


def _joined(c: Context, values: list[ir.Value]) -> ir.Value:
    return values[0] if len(values) == 1 else c.builder.op("Concat", *values, axis=0)


RECURRENT: dict[Any, Translate] = {
    aten.lstm.input: _layer("LSTM"),
    aten.gru.input: _layer("GRU"),
    aten.rnn_tanh.input: _layer("RNN", "Tanh"),
    aten.rnn_relu.input: _layer("RNN", "Relu"),
}
