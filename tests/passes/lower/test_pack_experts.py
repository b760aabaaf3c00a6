"""Experts' weights in panels stand for what they were."""

from __future__ import annotations

import torch
from torch import fx

from burnish.ir.interpreter import run
from burnish.ir.ops import burnish_ops
from burnish.ir.panels import panel_ops
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.lower.pack_panels import PackPanels
from burnish.passes.pipeline import run_passes
from tests.codegen.programs import Maker, aten, ops


def mixture() -> Program:
    m = Maker()
    x = m.call(aten.view.default, m.embed(12), [-1, 1, 12])
    ids = m.weight("ids", torch.stack([torch.randperm(4, generator=m.generator)[:2] for _ in range(23)]))
    chosen = m.call(aten.view.default, m.call(aten.embedding.default, ids, m.tokens), [-1, 2])
    weight = m.weight("experts", m.random(4, 21, 12))
    mixed = m.call(aten.sum.dim_IntList, m.call(ops.moe_linear.default, x, weight, None, chosen), [1])
    return m.step(m.call(aten.view.default, mixed, [m.batch_node(), m.new_node(), 21]))


def logits(program: Program) -> torch.Tensor:
    given = {"tokens": torch.arange(8).view(2, 4), "position": torch.zeros(2, dtype=torch.int64)}
    given["logits_index"] = torch.tensor([3])
    found: torch.Tensor = run(program, [given[node.name] for node in program.placeholders])[0]
    return found


def weight_of(program: Program) -> fx.Node:
    (found,) = (node.args[1] for node in program.graph.nodes if node.target is burnish_ops.moe_linear.default)
    assert isinstance(found, fx.Node)
    return found


def test_experts_are_matrices_behind_each_other() -> None:
    before = mixture()
    expected = logits(before)
    after = run_passes(before, [PackPanels()], Trace())
    weight = weight_of(after)
    assert weight.target is panel_ops.from_panels.default
    assert list(weight.args[1:]) == ["f32", 4 * 21, 12, 21, False, 4]
    assert after.weights[after.weight_of(weight.args[0])].shape == (4 * 2, 12 * 64)  # type: ignore[arg-type]
    assert torch.equal(logits(after), expected)
