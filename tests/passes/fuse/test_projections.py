"""What leads to an attention in one operation: on whole models, with the launches that are left."""

from __future__ import annotations

import pytest

from burnish.frontend import read
from burnish.ir.fused_ops import fused_ops
from burnish.ir.text import call_text
from burnish.ir.trace import PassRecord, Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import fuse_for_gpu, make_incremental
from burnish.passes.verify import Verifier
from tests.zoo.configs import build


def fused(model_type: str) -> tuple[Trace, list[str]]:
    """The trace of the fusion passes but the last, numbers verified, and the projections that are left."""
    step = run_passes(read(build(model_type)).program, make_incremental(), Trace())
    trace = Trace()
    after = run_passes(step, fuse_for_gpu()[:-1], trace, verifier=Verifier(step))
    calls = [node for node in after.graph.nodes if node.target is fused_ops.attention_projection.default]
    return trace, [call_text(node) for node in calls]


def launches_a_layer(record: PassRecord) -> list[int]:
    """For each decoder layer, the launches of one more token; tables that all layers share belong to none."""
    counts: dict[str, int] = {}
    for node in record.nodes:
        parts = node.module.split(".")
        if node.target in ("burnish.lookup", "aten.index_select") or not any(part.isdigit() for part in parts):
            continue
        layer = next(part for part in parts if part.isdigit())
        counts[layer] = counts.get(layer, 0) + node.launches
    return list(counts.values())


@pytest.mark.parametrize(
    ("model_type", "told"),
    [
        ("llama", "norm, projections, rotary embedding and cache writes in one"),
        ("qwen3", "norm, projections, rotary embedding and cache writes in one"),  # with norms of heads
        ("gpt2", "norm, projections and cache writes in one"),  # one packed linear, stored the other way round
        ("phi3", "norm, projections, rotary embedding and cache writes in one"),  # one packed linear, sliced
        ("cohere", "norm, projections, rotary embedding and cache writes in one"),  # a norm for attention and MLP
        ("bloom", "norm, projections and cache writes in one"),  # queries, keys and values of a head by turns
        ("opt", "norm, projections and cache writes in one"),  # queries times a number
        ("starcoder2", "norm, projections, rotary embedding and cache writes in one"),  # layer norm and biases
    ],
)
def test_a_layer_is_five_launches(model_type: str, told: str) -> None:
    trace, calls = fused(model_type)
    records = {each.name: each for each in trace.passes}
    assert [entry.text for entry in records["fuse-projections"].rewrites] == [told] * 2
    assert len(calls) == 2
    assert launches_a_layer(records["fuse-linears"]) == [5, 5]


@pytest.mark.parametrize("model_type", ["gpt_neox", "gptj", "falcon"])
def test_numbers_hold_in_other_layouts(model_type: str) -> None:
    """Rotary embedding of a part of a head, before heads are in front; rows picked by a list of numbers."""
    trace, calls = fused(model_type)
    assert len(calls) == 2
    assert all(record.verification is not None for record in trace.passes[1:])


def test_what_it_is_given() -> None:
    _, calls = fused("qwen3")
    weights = "model.layers.0.self_attn.q_proj+k_proj+v_proj.weight"
    assert calls[0] == (
        f'burnish.attention_projection(%embedding, @"{weights}", %key_0, %value_0, %position, None, '
        "@model.layers.0.input_layernorm.weight, None, @model.layers.0.self_attn.q_norm.weight, "
        "@model.layers.0.self_attn.k_norm.weight, %squeeze_dim, %squeeze_dim_1, heads=4, head_eps=1e-06, "
        "norm='rms', eps=1e-06)"
    )


def test_bytes_are_near_the_floor() -> None:
    """Weights, caches read and written, and what goes in and out, each once."""
    trace, _ = fused("llama")
    step = run_passes(read(build("llama")).program, make_incremental(), Trace())
    cache = sum(state.bytes_a_token for state in step.states)
    frequencies, embedding = 2 * 8 * 4, 131 * 64 * 4  # of formulas of tables; of which one row is read
    rows, small = 2 * 16 * 4 + 64 * 4, 8 * 3 + 131 * 4  # of tables and embedding; tokens, position, index, logits
    weights = trace.passes[-1].weight_bytes - embedding - frequencies + rows
    assert trace.passes[-1].floor_bytes == weights + cache * (trace.context + 1) + cache + small
    assert trace.passes[-1].floor_bytes < trace.passes[-1].bytes_moved < 1.1 * trace.passes[-1].floor_bytes


@pytest.mark.parametrize(
    ("model_type", "reason"),
    [
        ("gemma2", "keys or values are not read from a cache of its own"),  # in the layers that have a window
        ("olmo2", "it works on other elements than those of a head"),  # a norm over all heads at once
        ("deepseek_v3", "keys and values have heads of different sizes"),
        ("persimmon", "it is no view of a linear"),  # a layer norm of each head
    ],
)
def test_it_stays_away_and_says_why(model_type: str, reason: str) -> None:
    trace, _ = fused(model_type)
    refusals = trace.passes[1].refusals
    assert refusals
    assert all(reason in entry.text for entry in refusals)
    assert f"modeling_{model_type}.py:" in refusals[0].text
