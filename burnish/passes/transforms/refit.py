"""Weights of one attention refit so that what it gives changes least, on what it reads of the calibration text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.errors import InvalidProgramError
from burnish.passes.transforms.stream import compute

_RATE = 3e-2
_RIDGE = 1e-4


def refit(
    nodes: Sequence[fx.Node],
    weights: dict[fx.Node, Tensor],
    constants: Mapping[fx.Node, Any],
    x: fx.Node,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
    steps: int,
) -> dict[fx.Node, Tensor]:
    """`weights` changed so that the last of `nodes` gives `targets` for `inputs` as the value of `x`, by least squares.

    `nodes` compute the last one from `x`, `weights` and `constants`. By gradient (Adam, Kingma and Ba, 2015), a batch
    a step, and at the end the last node, a linear, in closed form.
    """
    parameters = {node: weight.clone().requires_grad_() for node, weight in weights.items()}
    scale = sum(float(target.square().mean()) for target in targets) / len(targets)
    # Rates in proportion to each weight: heads, projections and biases have sizes of their own.
    groups = [
        {"params": [weight], "lr": _RATE * float(weight.detach().square().mean().sqrt().clamp_min(1e-4))}
        for weight in parameters.values()
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 10) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))
    )
    for step in range(steps):
        place = step % len(inputs)
        with torch.enable_grad():
            found = run_block(nodes, {**constants, **parameters, x: inputs[place]})[nodes[-1]]
            loss = (found - targets[place]).square().mean() / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    fitted = {node: weight.detach() for node, weight in parameters.items()}
    _fit_last(nodes, fitted, constants, x, inputs, targets)
    return fitted


def run_block(nodes: Sequence[fx.Node], values: dict[fx.Node, Any]) -> dict[fx.Node, Any]:
    """`values`, with those of `nodes` among them."""
    for node in nodes:
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        values[node] = compute(node, args, kwargs)
    return values


def nodes_between(x: fx.Node, output: fx.Node) -> list[fx.Node]:
    """The nodes on the ways from x to `output`, which is the last of them, in the order of the graph."""
    found: dict[fx.Node, bool] = {x: True}

    def leads(node: fx.Node) -> bool:
        if node not in found:
            found[node] = False
            found[node] = any(list(map(leads, node.all_input_nodes)))  # all of them: each is to be told
        return found[node]

    if not leads(output):
        raise InvalidProgramError(f"{output.name} does not read {x.name}")
    return [node for node in output.graph.nodes if found.get(node, False) and node is not x]


@torch.no_grad()
def _fit_last(
    nodes: Sequence[fx.Node],
    weights: dict[fx.Node, Tensor],
    constants: Mapping[fx.Node, Any],
    x: fx.Node,
    inputs: Sequence[Tensor],
    targets: Sequence[Tensor],
) -> None:
    """The last linear's weight and bias by ridge regression towards what they are, in place of these."""
    *before, last = nodes
    read, weight, bias = (*last.args, None)[:3]
    assert isinstance(read, fx.Node)
    assert isinstance(weight, fx.Node)
    size = weights[weight].shape[1]
    columns = size + (bias is not None)
    gram = torch.zeros(columns, columns, dtype=torch.float64)
    product = torch.zeros(columns, weights[weight].shape[0], dtype=torch.float64)
    start = weights[weight].T.double()
    if isinstance(bias, fx.Node):
        start = torch.cat([start, weights[bias].double().unsqueeze(0)])
    for given, target in zip(inputs, targets, strict=True):
        heads = run_block(before, {**constants, **weights, x: given})[read].flatten(0, 1)
        if bias is not None:
            heads = torch.cat([heads, heads.new_ones(len(heads), 1)], dim=1)
        wanted = target.flatten(0, 1) - (heads.double() @ start).to(heads.dtype)
        gram += (heads.T @ heads).double()
        product += (heads.T @ wanted).double()
    ridge = _RIDGE * gram.diagonal().mean() * torch.eye(columns, dtype=torch.float64)
    fitted = (start + torch.linalg.solve(gram + ridge, product)).float()
    weights[weight] = fitted[:size].T.contiguous()
    if isinstance(bias, fx.Node):
        weights[bias] = fitted[size]
