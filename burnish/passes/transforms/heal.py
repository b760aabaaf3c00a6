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
from burnish.ir.program import Program, operands
from burnish.ir.weights import Stored
from burnish.passes.transforms.quality import at_the_end, logits_node
from burnish.passes.transforms.quantize_readers import head_of
from burnish.passes.transforms.refit import nodes_between, run_block
from burnish.passes.transforms.stream import compute

_RATE = 1e-3
_LENGTH = 256  # tokens a step: half a window, so that a step costs half, and some hundred steps see much of the text


def heal(program: Program, original: Program, names: Sequence[str], tokens: Tensor, steps: int) -> None:
    """Train the weights `names` of `program`, in place of them, on tokens[windows, length], 256 of them a step.

    The loss is the Kullback-Leibler divergence of its next-token distributions from the original's (Hinton et al.,
    2015), the optimizer Adam (Kingma and Ba, 2015). The text is gone through in order, over and over.
    """
    length = min(_LENGTH, tokens.shape[1])
    tokens = tokens[:, : tokens.shape[1] // length * length].reshape(-1, length)
    teacher = _Teacher(original, tokens)
    frozen = {name: weight.materialize() for name, weight in program.weights.items() if name not in names}
    trained = {name: program.weights[name].materialize().clone().requires_grad_() for name in names}
    groups = [
        {"params": [weight], "lr": _RATE * float(weight.detach().square().mean().sqrt().clamp_min(1e-4))}
        for weight in trained.values()
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    for step in track(range(steps), description="healing", transient=True):
        window = step % len(tokens)
        wanted = teacher.distributions(window)
        with torch.enable_grad():
            logits = _logits(program, tokens[window : window + 1], {**frozen, **trained})
            # But for the teacher's entropy, which is what it is, the divergence.
            loss = F.cross_entropy(logits.flatten(0, 1), wanted)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    for name, weight in trained.items():
        program.weights = program.weights.replaced(name, Stored(weight.detach()))


class _Teacher:
    """What the original predicts. Windows are taken many times: what its head reads of each is kept, and run once."""

    @torch.no_grad()
    def __init__(self, original: Program, tokens: Tensor) -> None:
        head, logits = head_of(original), logits_node(original)
        self.read = logits if head is None else operands(head)[0]
        self.nodes = [] if head is None else nodes_between(self.read, logits)
        stream = at_the_end(original, tokens)
        self.values = torch.cat(stream.collect(self.read))  # [windows, length, ...]
        reads = {read for node in self.nodes for read in node.all_input_nodes} - {self.read, *self.nodes}
        self.constants = {node: stream.shared(node) for node in reads}
        self.logits = logits

    @torch.no_grad()
    def distributions(self, window: int) -> Tensor:
        """Its next-token distributions in one window: [length, vocabulary]."""
        values = {**self.constants, self.read: self.values[window : window + 1]}
        logits: Tensor = run_block(self.nodes, values)[self.logits]
        return logits.flatten(0, 1).softmax(-1)


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
