"""AWQ (Lin et al., 2023): channels that matter are larger when they are rounded, and their inputs that much smaller.

linear(norm(x) * g, w) = linear(norm(x) * (g / s), w * s): the scales s[K] go into the weight of the norm in front.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.edit import Editor
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program, operands
from burnish.ir.weights import Stored
from burnish.passes.transforms.quantize_rounding import Grid, nearest
from burnish.passes.transforms.stream import Stream, compute

aten = torch.ops.aten

_POWERS = tuple(step / 20 for step in range(21))
_WEIGHT_AT: dict[Any, tuple[int, ...]] = {
    burnish_ops.rms_norm.default: (1,),
    aten.layer_norm.default: (2, 3),
}  # and that of a bias


def obstacle(x: fx.Node, readers: Sequence[fx.Node]) -> str:
    """Why no scales can go into what `readers`, linears that are rounded, read; nothing if they can."""
    if x.target not in _WEIGHT_AT:
        return f"it reads {x.name} ({x.target}), not a norm, whose weight could take scales in: rounded without them"
    weight, *bias = operands(x)[_WEIGHT_AT[x.target][0] :][: len(_WEIGHT_AT[x.target])] or (None,)
    if x.kwargs or weight is None or any(each.op != "get_attr" for each in [weight, *bias] if each is not None):
        return f"the norm {x.name} has no weight of its own, which could take scales in: rounded without them"
    rest = [user.name for user in x.users if user not in readers]
    if rest:
        return f"{', '.join(rest)} would read the scaled values of {x.name}, too: rounded without scales"
    return ""


def gram_of_norm(program: Program, stream: Stream, norm: fx.Node) -> Tensor:
    """X^T X of what a norm gives on the calibration text, float64[K, K]; the norm itself may be replaced after it."""
    size = int(norm.meta["val"].shape[-1])
    gram = torch.zeros(size, size, dtype=torch.float64)
    source, *rest = operands(norm)
    values = [
        program.weights[program.weight_of(each)].materialize() if isinstance(each, fx.Node) else each for each in rest
    ]
    for batch in stream.each(source):
        rows = compute(norm, (batch, *values), {}).reshape(-1, size).float()
        gram += (rows.T @ rows).double()
    return gram


def best_scales(weights: Sequence[Tensor], grids: Sequence[Grid], gram: Tensor) -> Tensor:
    """The s[K], a power of the root mean square of each input, by which the outputs of weights[N, K] lose least."""
    size = gram.diagonal().float().sqrt()
    size = size.clamp_min(1e-4 * float(size.max().clamp_min(1e-30)))
    gram = gram.float()
    best, least = torch.ones_like(size), torch.inf
    for power in _POWERS:
        scales = size**power
        scales = scales / (scales.max() * scales.min()).sqrt()
        loss = 0.0
        for weight, grid in zip(weights, grids, strict=True):
            change = nearest(weight * scales, grid).materialize() / scales - weight
            loss += float(((change @ gram) * change).sum())
        if loss < least:
            best, least = scales, loss
    return best


def absorb(program: Program, editor: Editor, norm: fx.Node, scales: Tensor) -> None:
    """Let all that reads `norm` read one whose weight and bias are divided by scales[K]."""
    values = list(operands(norm))
    for place in _WEIGHT_AT[norm.target]:
        if place < len(values) and values[place] is not None:
            name = program.weight_of(values[place])
            divided = Stored(program.weights[name].materialize() / scales)
            values[place] = editor.weight(f"{name}.scaled", divided)
    with editor.before(norm):
        new = editor.call(norm.target, *values, like=norm)
    editor.replace(norm, new)
