"""Weights of products in panels."""

from __future__ import annotations

import pytest
import torch
from inline_snapshot import snapshot

from burnish.frontend import read
from burnish.ir.cost import CostCounter
from burnish.ir.interpreter import run
from burnish.ir.panels import Panels
from burnish.ir.program import Program
from burnish.ir.text import call_text
from burnish.ir.trace import PassRecord, Trace
from burnish.ir.weights import Cast, Stored
from burnish.passes.lower.pack_panels import PackPanels
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes, known_passes
from burnish.passes.spelling import read_pass, spelled
from tests.codegen.programs import VOCABULARY, Maker, aten, ops
from tests.passes.lower.test_narrow_floats import logits
from tests.passes.lower.test_read_integers import quantized, tied
from tests.zoo.configs import build


def packed(program: Program, dtype: torch.dtype | None = None) -> tuple[Program, PassRecord]:
    trace = Trace()
    return run_passes(program, [PackPanels(dtype)], trace), trace.passes[-1]


def calls(program: Program) -> list[str]:
    return [call_text(node) for node in program.graph.nodes if node.op == "call_function"]


def products() -> Program:
    """A gated product and a plain one, of one weight each; the table is the head, too."""
    m = Maker()
    table = m.weight("table", torch.randn(VOCABULARY, 32))
    x = m.call(aten.embedding.default, table, m.tokens)
    y = m.call(ops.fused_linear.default, x, m.weight("up", torch.randn(64, 32)), activation="silu", gated=True)
    z = m.call(ops.fused_linear.default, y, table, norm="rms", eps=1e-6)
    return m.step(z)


INPUTS = [torch.tensor([[1, 5, 2]]), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)]


def test_products_and_lookups_read_panels() -> None:
    program = products()
    after, record = packed(program)
    assert calls(program) == snapshot(
        [
            "aten.embedding(@table, %tokens)",
            "burnish.fused_linear(%embedding_default, @up, activation='silu', gated=True)",
            "burnish.fused_linear(%fused_linear_default, @table, norm='rms', eps=1e-06)",
        ]
    )
    assert calls(after) == snapshot(
        [
            "burnish.from_panels(@table.f32, 'f32', 23, 32, 0, False)",
            "aten.embedding(%from_panels_default, %tokens)",
            "burnish.from_panels(@up.f32, 'f32', 64, 32, 0, True)",
            "burnish.fused_linear(%embedding_default_1, %from_panels_default_1, activation='silu', gated=True)",
            "burnish.fused_linear(%fused_linear_default_3, %from_panels_default, norm='rms', eps=1e-06)",
        ]
    )
    assert [entry.text for entry in record.rewrites] == [
        "reads table in panels of f32",
        "reads table in panels of f32",
        "reads up in panels of f32",
    ]
    assert torch.equal(run(after, INPUTS)[0], run(program, INPUTS)[0])


def test_integers_stay_integers_and_floats_as_the_file_has_them() -> None:
    after, _ = packed(tied(quantized(VOCABULARY, 2, 4, 32, "whole")))
    assert [weight.form for weight in after.weights.values() if isinstance(weight, Panels)] == ["q4f"]
    after, _ = packed(tied(Cast(Stored(torch.randn(VOCABULARY, 64).bfloat16()), torch.float32)))
    assert [weight.form for weight in after.weights.values() if isinstance(weight, Panels)] == ["bf16"]


def test_floats_are_rounded_where_that_is_asked_for() -> None:
    program = products()
    after, _ = packed(program, torch.bfloat16)
    assert {weight.form for weight in after.weights.values() if isinstance(weight, Panels)} == {"bf16"}
    found, expected = run(after, INPUTS)[0], run(program, INPUTS)[0]
    assert 0 < float((found - expected).abs().max()) < 3e-2 * float(expected.abs().max())
    assert read_pass("pack-panels{dtype=bfloat16}", known_passes()) == PackPanels(torch.bfloat16)
    assert spelled(PackPanels()) == "pack-panels"


def test_what_no_product_reads_is_left_alone() -> None:
    m = Maker()
    x = m.call(aten.mul.Tensor, m.embed(32), m.weight("scale", torch.randn(1, 32)))
    after, record = packed(m.step(m.call(aten.linear.default, x, m.weight("head", torch.randn(VOCABULARY, 32)))))
    assert [entry.text for entry in record.rewrites] == ["reads embedding in panels of f32"]
    assert {"scale", "head"} <= set(after.weights)


def test_a_weight_that_is_read_in_two_places_of_a_product_is_left_alone() -> None:
    m = Maker()
    table = m.weight("w", torch.randn(32, 32))
    after, record = packed(m.step(m.call(ops.fused_linear.default, table, table)))
    assert not record.rewrites
    assert "w" in after.weights


def test_groups_that_panels_do_not_have_are_floats_and_the_log_says_why() -> None:
    program = tied(quantized(VOCABULARY, 4, 4, 16))
    after, record = packed(program)
    assert [weight.form for weight in after.weights.values() if isinstance(weight, Panels)] == ["f32"]
    assert (
        record.refusals[0].text
        == "16 of them share a scale, and panels have one for each 32: the weight stays in floats"
    )


@pytest.mark.parametrize("kind", ["llama", "gemma2", "qwen2_moe"])
def test_a_whole_model_keeps_its_numbers(kind: str) -> None:
    program = read(build(kind), max_length=32).program
    *before, last = default_passes("native")
    assert last == PackPanels()
    step = run_passes(program, before, Trace())
    after, record = packed(step)
    assert record.rewrites
    torch.testing.assert_close(logits(after), logits(step), rtol=1e-5, atol=1e-5)


def test_what_a_token_costs_is_counted_by_what_is_stored() -> None:
    def moved(program: Program) -> tuple[int, int, int]:
        counter = CostCounter(program)
        costs = [counter.cost(node) for node in program.graph.nodes]
        return sum(cost.launches for cost in costs), sum(cost.bytes_moved for cost in costs), counter.floor()

    step = run_passes(read(build("llama"), max_length=32).program, default_passes("native")[:-1], Trace())
    wide, narrow = packed(step, torch.float32)[0], packed(step, torch.bfloat16)[0]
    assert moved(wide)[0] == moved(step)[0] == moved(narrow)[0]
    padding = 1.1  # to whole panels
    assert moved(step)[1] <= moved(wide)[1] < padding * moved(step)[1]
    assert moved(step)[2] <= moved(wide)[2] < padding * moved(step)[2]
    assert moved(narrow)[1] < 0.8 * moved(wide)[1]


def test_a_weight_whose_readers_came_in_another_order_is_unpacked_in_front_of_the_first() -> None:
    m = Maker()
    weight = m.weight("twice", torch.randn(32, 32))
    x = m.call(aten.embedding.default, m.weight("table", torch.randn(VOCABULARY, 32)), m.tokens)
    first = m.call(ops.fused_linear.default, x, x)
    second = m.call(ops.fused_linear.default, first, weight)
    first.replace_input_with(x, weight)  # now the reader that came last stands first
    first.args = (x, weight)
    program = m.step(m.call(ops.fused_linear.default, second, m.weight("head", torch.randn(VOCABULARY, 32))))
    assert list(weight.users) == [second, first]
    after, _ = packed(program)
    torch.testing.assert_close(run(after, INPUTS)[0], run(program, INPUTS)[0])
