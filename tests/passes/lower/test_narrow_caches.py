"""Caches in 16 bits, and attention that reads codes as they are remembered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from inline_snapshot import snapshot
from torch import fx

import burnish
from burnish.ir.code_ops import code_ops
from burnish.ir.program import Program
from burnish.ir.states import StateKind
from burnish.ir.text import call_text
from burnish.ir.trace import PassRecord, Trace
from burnish.passes.base import Pass
from burnish.passes.lower.narrow_caches import NarrowCaches
from burnish.passes.lower.read_codes import ReadCodes
from burnish.passes.pipeline import run_passes
from tests.codegen.programs import Maker, aten, ops
from tests.own_modules.causal import NanoGPT
from tests.zoo.configs import build

TOKENS = [[3, 7, 1, 9, 2, 5, 11, 4, 8, 6, 1, 2, 13]]
CACHE = ("batch", 2, "capacity", 8)


def passed(program: Program, each: Pass) -> tuple[list[str], PassRecord]:
    trace = Trace()
    after = run_passes(program, [each], trace)
    return [call_text(node) for node in after.graph.nodes if node.op == "call_function"], trace.passes[-1]


def attend(m: Maker, key: fx.Node, value: fx.Node, **options: Any) -> fx.Node:
    """Logits of an attention, whose queries are new."""
    attended = m.call(ops.attention.default, m.heads(2, 8), key, value, m.position, scale=0.3, **options)
    return m.call(aten.linear.default, m.call(aten.sum.dim_IntList, attended, [1]), m.weight("head", m.random(23, 8)))


def cached(dtype: torch.dtype = torch.float32) -> Program:
    m = Maker()
    key, value = (m.remembered(name, StateKind.CACHE, CACHE, 2, dtype) for name in ("key", "value"))
    new = m.heads(2, 8)
    written = [m.call(ops.cache_write.default, each, new, m.position, 2) for each in (key, value)]
    return m.step(attend(m, *written), *written)


def test_keys_and_values_are_written_and_read_in_16_bits() -> None:
    calls, record = passed(cached(), NarrowCaches(torch.bfloat16))
    assert [each for each in calls if "_to_copy" in each or "cache_write" in each or "attention" in each] == snapshot(
        [
            "aten._to_copy(%transpose_int, dtype=bf16)",
            "burnish.cache_write(%key, %_to_copy_default, %position, 2)",
            "burnish.cache_write(%value, %_to_copy_default, %position, 2)",
            "burnish.attention(%transpose_int_1, %cache_write_default, %cache_write_default_1, %position, scale=0.3)",
            "aten.sum.dim_IntList(%attention_default, [1])",
        ]
    )
    assert not record.refusals


def test_a_ring_is_joined_with_what_is_new_in_16_bits() -> None:
    m = Maker()
    ring = [m.remembered(name, StateKind.RING, ("batch", 2, 6, 8), 2) for name in ("key", "value")]
    new = m.heads(2, 8)
    written = [m.call(ops.ring_write.default, each, new, m.position, 2) for each in ring]
    whole = [m.call(aten.cat.default, [each, new], 2) for each in ring]
    held = m.call(ops.ring_positions.default, m.tokens, m.position, 6)
    program = m.step(attend(m, *whole, mask="window", extent=6, key_positions=held), *written)
    calls, _ = passed(program, NarrowCaches(torch.float16))
    assert [each for each in calls if "_to_copy" in each or "ring_write" in each or "cat" in each] == snapshot(
        [
            "aten._to_copy(%transpose_int, dtype=f16)",
            "burnish.ring_write(%key, %_to_copy_default, %position, 2)",
            "burnish.ring_write(%value, %_to_copy_default, %position, 2)",
            "aten.cat([%key, %_to_copy_default], 2)",
            "aten.cat([%value, %_to_copy_default], 2)",
            "burnish.attention(%transpose_int_1, %cat_default, %cat_default_1, %position, scale=0.3, mask='window', "
            "extent=6, key_positions=%ring_positions_default)",
        ]
    )


def test_what_others_read_stays_as_it_is_and_says_why() -> None:
    m = Maker()
    key, value = (m.remembered(name, StateKind.CACHE, CACHE, 2) for name in ("key", "value"))
    written = [m.call(ops.cache_write.default, each, m.heads(2, 8), m.position, 2) for each in (key, value)]
    projected = m.call(aten.mul.Tensor, written[0], 2.0)
    before = m.step(attend(m, projected, written[1]), *written)
    calls, record = passed(before.copy(), NarrowCaches(torch.bfloat16))
    assert calls == [call_text(node) for node in before.graph.nodes if node.op == "call_function"]
    assert "would be widened whole for each token" in str(record.refusals)
    _, record = passed(cached(torch.bfloat16), NarrowCaches(torch.bfloat16))
    assert "is of torch.bfloat16" in str(record.refusals)


def coded(scale: Sequence[int | str] = ("batch", 2, "capacity", 1), both: bool = True) -> Program:
    m = Maker()
    found, states = [], []
    for name in ("key", "value"):
        codes = m.remembered(name, StateKind.CACHE, CACHE, 2, torch.int8)
        scales = m.remembered(f"{name}_scale", StateKind.CACHE, scale, 2)
        new = m.heads(2, 8)
        new_scales = m.call(code_ops.code_scales.default, new, "int8")
        new_codes = m.call(code_ops.to_codes.default, new, new_scales, "int8")
        codes = m.call(ops.cache_write.default, codes, new_codes, m.position, 2)
        scales = m.call(ops.cache_write.default, scales, new_scales, m.position, 2)
        found.append(m.call(code_ops.from_codes.default, codes, scales))
        states += [codes, scales]
    if not both:
        found[1] = m.call(aten.mul.Tensor, found[1], 2.0)
    return m.step(attend(m, *found), *states)


def test_attention_reads_codes() -> None:
    calls, record = passed(coded(), ReadCodes())
    assert [each for each in calls if "attention" in each or "from_codes" in each] == snapshot(
        [
            "burnish.coded_attention(%transpose_int_2, %cache_write_default, %cache_write_default_1, "
            "%cache_write_default_2, %cache_write_default_3, %position, scale=0.3)",
            "aten.sum.dim_IntList(%coded_attention_default, [1])",
        ]
    )
    assert not record.refusals


def test_keys_of_codes_and_values_of_floats_are_read_as_floats() -> None:
    before = coded(both=False)
    calls, record = passed(before.copy(), ReadCodes())
    assert calls == [call_text(node) for node in before.graph.nodes if node.op == "call_function"]
    assert "what is read with it is of floats" in str(record.refusals)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_whole_model_remembers_in_16_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = NanoGPT().eval()
    with burnish.compile(model, backend="native", dtype=dtype, max_length=64) as compiled:
        assert {state.dtype for state in compiled.artifact.states} == {dtype}
        with torch.no_grad():
            expected = model(torch.tensor(TOKENS))
        found = compiled.session(1).append(TOKENS, every=True)
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.05


@pytest.mark.parametrize("numbers", ["int8", "fp8"])
def test_windows_of_a_whole_model_are_read_in_8_bits(numbers: Any) -> None:
    model = build("gemma3_text")
    eight = burnish.QuantizeCache(numbers)
    with burnish.compile(model, backend="native", transforms=[eight], max_length=40) as native:
        assert "coded_attention" in native.trace.passes[-1].text
        assert "burnish.attention" not in native.trace.passes[-1].text
        found = native.session(1).append(TOKENS, every=True).clone()
        with burnish.load(native.artifact.path, backend="reference") as reference:
            expected = reference.session(1).append(TOKENS, every=True)
    assert float((found - expected).abs().max() / expected.abs().max()) < 0.02
