"""Training the weights that a transform changed against the original's logits, for some hundred steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor, fx

from burnish.ir.interpreter import last_uses
from burnish.ir.program import Program
from burnish.ir.weights import Stored
from burnish.passes.transforms.quality import logits_node
from burnish.passes.transforms.stream import compute

_RATE = 1e-3
_ROWS = 2  # windows a step


def heal(program: Program, original: Program, names: Sequence[str], tokens: Tensor, steps: int) -> None:
    """Train the weights `names` of `program`, in place of them, on tokens[windows, length].

    The loss is the Kullback-Leibler divergence of its next-token distributions from the original's (Hinton et al.,
    2015), the optimizer Adam (Kingma and Ba, 2015). Windows are taken in order, over and over.
    """
    frozen = {name: weight.materialize() for name, weight in program.weights.items() if name not in names}
    trained = {name: program.weights[name].materialize().clone().requires_grad_() for name in names}
    teacher = {name: weight.materialize() for name, weight in original.weights.items()}
    groups = [
        {"params": [weight], "lr": _RATE * float(weight.detach().square().mean().sqrt().clamp_min(1e-4))}
        for weight in trained.values()
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    batches = torch.split(tokens, _ROWS)
    for step in track(range(steps), description="healing", transient=True):
        batch = batches[step % len(batches)]
        with torch.no_grad():
            wanted = F.log_softmax(_logits(original, batch, teacher), dim=-1)
        with torch.enable_grad():
            found = F.log_softmax(_logits(program, batch, {**frozen, **trained}), dim=-1)
            loss = F.kl_div(found, wanted, reduction="none", log_target=True).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    for name, weight in trained.items():
        program.weights = program.weights.replaced(name, Stored(weight.detach()))


def _logits(program: Program, tokens: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """Logits of a whole program, in operations that autograd sees."""
    values: dict[fx.Node, Any] = {program.tokens: tokens}
    dying = last_uses(program.graph.nodes)
    for node in program.graph.nodes:
        if node.op == "get_attr":
            values[node] = weights[program.weight_of(node)]
        elif node.op == "call_function":
            args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
            values[node] = compute(node, args, kwargs)
        elif node.op == "output":
            found: Tensor = values[logits_node(program)]
            return found
        for dead in dying.get(node, ()):
            del values[dead]
    raise AssertionError("a graph ends with its output")
