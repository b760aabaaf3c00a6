"""Recurrent networks of one layer: torch's own where that says the same, else step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.frontend.onnx import numbers as n
from burnish.frontend.onnx.call import Call, Result, Table

_Activation = Callable[[Tensor, float, float], Tensor]
_ACTIVATIONS: dict[str, tuple[_Activation, float, float]] = {  # with the defaults of alpha and beta
    "relu": (lambda x, a, b: torch.relu(x), 0, 0),
    "tanh": (lambda x, a, b: torch.tanh(x), 0, 0),
    "sigmoid": (lambda x, a, b: torch.sigmoid(x), 0, 0),
    "affine": (lambda x, a, b: x * a + b, 1, 0),
    "leakyrelu": (lambda x, a, b: F.leaky_relu(x, a), 0.01, 0),
    "thresholdedrelu": (lambda x, a, b: torch.where(x > a, x, 0), 1, 0),
    "scaledtanh": (lambda x, a, b: a * torch.tanh(b * x), 1, 1),
    "hardsigmoid": (lambda x, a, b: torch.clamp(a * x + b, 0, 1), 0.2, 0.5),
    "elu": (lambda x, a, b: F.elu(x, a), 1, 0),
    "softsign": (lambda x, a, b: F.softsign(x), 0, 0),
    "softplus": (lambda x, a, b: F.softplus(x), 0, 0),
}
_DEFAULTS = {"RNN": ["tanh"], "GRU": ["sigmoid", "tanh"], "LSTM": ["sigmoid", "tanh", "tanh"]}
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
# In which places of ONNX's order torch has its gates: input, output, forget, cell; and update, reset, hidden.
_ORDER = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}


@dataclass(frozen=True)
class _Layer:
    """The operands of a call, with time first; what is one for each direction is a list."""

    kind: str
    x: Tensor  # [T, B, I]
    w: Tensor  # [directions, gates * H, I]
    r: Tensor
    b: Tensor | None
    lengths: Tensor | None
    h: Tensor  # [directions, B, H]
    c: Tensor | None
    peepholes: Tensor | None
    directions: tuple[bool, ...]  # whether backwards
    activations: list[Callable[[Tensor], Tensor]]
    is_plain: bool
    reset_late: bool
    couples: bool
    clip: float

    @property
    def size(self) -> int:
        return int(self.r.shape[-1])


def _layer(c: Call) -> tuple[_Layer, bool]:
    kind = c.step.operator
    x = c.tensor(0)
    batch_first = c.flag("layout")
    direction = c.text("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise c.invalid(f"there is no direction {direction!r}")
    directions = (False, True) if direction == "bidirectional" else (direction == "reverse",)
    w, r = c.tensor(1), c.tensor(2)
    gates, size = _GATES[kind], int(r.shape[-1])
    if w.dim() != 3 or w.shape[0] != len(directions) or w.shape[1] != gates * size or r.shape[:2] != w.shape[:2]:
        raise c.invalid(f"its weights are of the shapes {list(w.shape)} and {list(r.shape)}")
    if batch_first:
        x = x.transpose(0, 1)
    start = [c.optional(index) for index in (5, 6)]
    if batch_first:
        start = [None if each is None else each.transpose(0, 1) for each in start]
    zeros = torch.zeros(len(directions), x.shape[1], size, dtype=x.dtype)
    h = zeros if start[0] is None else start[0]
    cell = (zeros if start[1] is None else start[1]) if kind == "LSTM" else None
    names = [each.lower() for each in c.texts("activations") or _DEFAULTS[kind] * len(directions)]
    per = len(_DEFAULTS[kind])
    if len(names) != per * len(directions) or any(each not in _ACTIVATIONS for each in names):
        raise c.invalid(f"its activations are {names}")
    is_plain = names == _DEFAULTS[kind] * len(directions) and "clip" not in c.step.attributes
    layer = _Layer(
        kind,
        x,
        w,
        r,
        c.optional(3),
        _lengths(c, x),
        h,
        cell,
        c.optional(7) if kind == "LSTM" else None,
        directions,
        _activations(c, names),
        is_plain,
        c.flag("linear_before_reset"),
        c.flag("input_forget"),
        c.real("clip", 0.0),
    )
    return layer, batch_first


def _lengths(c: Call, x: Tensor) -> Tensor | None:
    """The lengths of the rows, unless all are known to be whole."""
    known = c.numbers(4)
    if known is not None and all(n.equal(each, x.shape[0]) is True for each in known.list):
        return None
    return c.optional(4)


def _activations(c: Call, names: Sequence[str]) -> list[Callable[[Tensor], Tensor]]:
    alphas, betas = list(c.reals("activation_alpha") or []), list(c.reals("activation_beta") or [])
    found: list[Callable[[Tensor], Tensor]] = []
    for name in names:
        function, alpha, beta = _ACTIVATIONS[name]
        # Each function that has parameters takes the next ones of the lists.
        if alpha and alphas:
            alpha = alphas.pop(0)
        if (beta or name == "affine") and betas:
            beta = betas.pop(0)
        found.append(lambda x, f=function, a=alpha, b=beta: f(x, a, b))  # type: ignore[misc]
    return found


def _run(c: Call) -> Result:
    layer, batch_first = _layer(c)
    if isinstance(layer.x.shape[0], torch.SymInt):  # torch, too, traces it step by step
        raise c.unsupported("its steps are written out one by one, and there is no fixed number of them: fix that axis")
    plain = layer.is_plain and layer.lengths is None and layer.peepholes is None and not layer.couples
    if plain and (layer.kind != "GRU" or layer.reset_late):
        y, h, cell = _by_torch(layer)
    else:
        y, h, cell = _by_steps(layer)
    if batch_first:
        y, h = y.permute(2, 0, 1, 3), h.transpose(0, 1)
        cell = None if cell is None else cell.transpose(0, 1)
    return (y, h, cell) if layer.kind == "LSTM" else (y, h)


def _ordered(x: Tensor, kind: str) -> Tensor:
    """Rows of gates in torch's order."""
    parts = x.chunk(_GATES[kind], dim=0)
    return x if len(parts) == 1 else torch.cat([parts[place] for place in _ORDER[kind]], dim=0)


def _by_torch(layer: _Layer) -> tuple[Tensor, Tensor, Tensor | None]:
    weights: list[Tensor] = []
    for index in range(len(layer.directions)):
        weights += [_ordered(layer.w[index], layer.kind), _ordered(layer.r[index], layer.kind)]
        if layer.b is not None:
            weights += [_ordered(part, layer.kind) for part in layer.b[index].chunk(2)]
    backwards = layer.directions == (True,)
    both = len(layer.directions) == 2
    x = torch.flip(layer.x, [0]) if backwards else layer.x
    options: tuple[Any, ...] = (weights, layer.b is not None, 1, 0.0, False, both, False)
    cell: Tensor | None = None
    if layer.kind == "LSTM":
        assert layer.c is not None
        y, h, cell = torch.lstm(x, (layer.h.contiguous(), layer.c.contiguous()), *options)
    else:
        y, h = (torch.gru if layer.kind == "GRU" else torch.rnn_tanh)(x, layer.h.contiguous(), *options)
    y = torch.flip(y, [0]) if backwards else y
    y = y.reshape(y.shape[0], y.shape[1], len(layer.directions), layer.size).transpose(1, 2)
    return y, h, cell


def _by_steps(layer: _Layer) -> tuple[Tensor, Tensor, Tensor | None]:
    ys, hs, cells = [], [], []
    for index, backwards in enumerate(layer.directions):
        y, h, cell = _direction(layer, index, backwards)
        ys.append(y)
        hs.append(h)
        cells.append(cell)
    cell = torch.stack([each for each in cells if each is not None]) if layer.kind == "LSTM" else None
    return torch.stack(ys, dim=1), torch.stack(hs), cell


def _direction(layer: _Layer, index: int, backwards: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    steps = layer.x.shape[0]
    h, cell = layer.h[index], None if layer.c is None else layer.c[index]
    found: list[Tensor] = []
    order = reversed(range(steps)) if backwards else range(steps)
    for step in order:
        new_h, new_cell = _step(layer, index, layer.x[step], h, cell)
        if layer.lengths is None:
            h, cell = new_h, new_cell
            found.append(h)
            continue
        # Beyond its length a row keeps its state and gives zeros; backwards that is before its first step.
        inside = (step < layer.lengths)[:, None]
        h = torch.where(inside, new_h, h)
        if cell is not None and new_cell is not None:
            cell = torch.where(inside, new_cell, cell)
        found.append(torch.where(inside, new_h, 0))
    return torch.stack(found[::-1] if backwards else found), h, cell


def _step(layer: _Layer, index: int, x: Tensor, h: Tensor, cell: Tensor | None) -> tuple[Tensor, Tensor | None]:
    per = len(_DEFAULTS[layer.kind])
    activations = layer.activations[index * per : (index + 1) * per]
    w, r = layer.w[index], layer.r[index]
    zeros = torch.zeros(w.shape[0], dtype=x.dtype)
    w_bias, r_bias = (zeros, zeros) if layer.b is None else layer.b[index].chunk(2)

    def clipped(value: Tensor) -> Tensor:
        return torch.clamp(value, -layer.clip, layer.clip) if layer.clip else value

    if layer.kind == "RNN":
        return activations[0](clipped(F.linear(x, w, w_bias) + F.linear(h, r, r_bias))), None
    if layer.kind == "GRU":
        f, g = activations
        of_x, of_h = F.linear(x, w, w_bias).chunk(3, -1), r.chunk(3)
        biases = r_bias.chunk(3)
        z = f(clipped(of_x[0] + F.linear(h, of_h[0], biases[0])))
        reset = f(clipped(of_x[1] + F.linear(h, of_h[1], biases[1])))
        if layer.reset_late:
            hidden = g(clipped(of_x[2] + reset * F.linear(h, of_h[2], biases[2])))
        else:
            hidden = g(clipped(of_x[2] + F.linear(reset * h, of_h[2], biases[2])))
        return (1 - z) * hidden + z * h, None
    assert cell is not None
    f, g, last = activations
    i, o, forget, new = (F.linear(x, w, w_bias) + F.linear(h, r, r_bias)).chunk(4, -1)
    seen = None if layer.peepholes is None else layer.peepholes[index].chunk(3)
    i = f(clipped(i if seen is None else i + seen[0] * cell))
    forget = 1 - i if layer.couples else f(clipped(forget if seen is None else forget + seen[2] * cell))
    after = forget * cell + i * g(clipped(new))
    o = f(clipped(o if seen is None else o + seen[1] * after))
    return o * last(after), after


TABLE: Table = {"RNN": _run, "GRU": _run, "LSTM": _run}
