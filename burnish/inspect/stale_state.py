"""Which of the states that a pass inserted is wrong: what each remembers, against the whole sequence."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program
from burnish.ir.trace import PassRecord
from burnish.passes.analyses.axis_labels import AxisLabels
from burnish.passes.base import Effect
from burnish.passes.verify import TOLERANCES, logits_of, ragged, random_tokens, run_step

_LENGTH = 24


def first_wrong_state(whole: Program, step: Program, record: PassRecord) -> int | None:
    """The place in `record.rewrites` of the first rewrite that gives other values than `whole`; None if all agree.

    Both programs run on the same tokens, the step in pieces. In order, each node that both have is compared token by
    token, and each cache with the values that it should have remembered.
    """
    tokens = random_tokens(whole, 2, min(_LENGTH, whole.signature.max_length))
    length = tokens.shape[1]
    labels = AxisLabels(whole)
    along = {
        node.name: label.axis
        for node in whole.graph.nodes
        if (label := labels.of(node)) is not None and label.inner == 1
    }
    expected: dict[str, Tensor] = {}

    def keep(node: fx.Node, value: Any) -> None:
        if node.name in along and isinstance(value, Tensor):
            expected[node.name] = value

    logits_of(whole, tokens, keep)
    pieces: dict[str, list[Tensor]] = {}
    caches: dict[fx.Node, Tensor] = {}

    def collect(node: fx.Node, value: Any) -> None:
        if node.target is burnish_ops.cache_write.default:
            caches[node] = value
        elif node.name in expected and isinstance(value, Tensor):
            pieces.setdefault(node.name, []).append(value)

    run_step(step, tokens, ragged(length), length, collect)
    for node in step.graph.nodes:
        if node in caches:
            _, source, _, axis = node.args
            right = expected.get(source.name)
            wrong = right is not None and _differ(caches[node].narrow(int(axis), 0, length), right)
        elif node.name in pieces:
            wrong = _differ(torch.cat(pieces[node.name], along[node.name]), expected[node.name])
        else:
            continue
        if wrong:
            return _to_blame(node, record)
    return None


def _differ(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return True
    if not found.is_floating_point():
        return not torch.equal(found, expected)
    bound = TOLERANCES[Effect.REASSOCIATES] * max(1.0, float(expected.abs().max()))
    return not bool(torch.isclose(found, expected, rtol=0, atol=bound, equal_nan=True).all())


def _to_blame(node: fx.Node, record: PassRecord) -> int | None:
    """The first rewrite of the pass among those that made `node` or what it reads."""
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        found = stack.pop(0)
        places: list[int] = [
            place for number, place in found.meta.get("history", ()) if number == record.number and place >= 0
        ]
        if places:
            return places[-1]
        if found not in seen:
            seen.add(found)
            stack.extend(found.all_input_nodes)
    return None
