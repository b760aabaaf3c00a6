"""Weights that stand for integers, on their way to products of the integers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from burnish.frontend import read
from burnish.ir.errors import UsageError
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.ir.quantization import Quantized, as_quantized, pack, regrouped
from burnish.ir.quantized_ops import block_of, dequantized_blocks, in_blocks, stored_bits
from burnish.ir.text import call_text
from burnish.ir.trace import PassRecord, Trace
from burnish.ir.weights import Concat, Rows, Stored, Weight, Weights
from burnish.passes.fuse.pack_linears import PackLinears
from burnish.passes.lower.read_integers import ReadIntegers
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import known_passes, lower_for_gpu, lower_for_onnxruntime, make_incremental
from burnish.passes.spelling import read_pass
from burnish.passes.transforms.quantize_rounding import Grid, nearest
from tests.codegen.programs import VOCABULARY, Maker, aten, ops
from tests.passes.lower.test_narrow_floats import logits
from tests.zoo.configs import build

ZEROS = ("none", "whole", "minima")


def quantized(rows: int, groups: int, bits: int, group: int, zeros: str = "none", seed: int = 0) -> Quantized:
    """A random weight[rows, groups * group]."""
    generator = torch.Generator().manual_seed(seed)
    low = -127 if bits == 8 else 0 if zeros == "minima" or bits == 4 else -(2 ** (bits - 1))
    high = 128 if bits == 8 else low + 2**bits
    integers = torch.randint(low, high, (rows, groups * group), generator=generator)
    found = torch.rand(rows, groups, generator=generator) * 15
    return Quantized(
        Stored(pack(integers, bits, group)),
        Stored((torch.rand(rows, groups, generator=generator) + 0.1).half()),
        Stored(found.round()) if zeros == "whole" else None,
        bits,
        group,
        Stored(-found) if zeros == "minima" else None,
    )


def floats_of_blocks(weight: Quantized) -> Tensor:
    """The floats that its blocks stand for."""
    blocks = in_blocks(weight)
    assert blocks is not None
    values = {name: _values(part) for name, part in blocks.parts.items()}
    parts = (values["values"], values["scales"], values.get("zeros"), values.get("offsets"))
    return dequantized_blocks(*parts, stored_bits(weight), weight.shape[1])


def _values(part: Weight) -> Tensor:
    values = part.materialize()
    assert (tuple(values.shape), values.dtype) == (part.shape, part.dtype)
    return values


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 5),
    bits_and_zeros=st.sampled_from(
        [(8, "none"), (6, "none"), (5, "none"), (5, "minima"), *((4, zeros) for zeros in ZEROS)]
    ),
    group=st.sampled_from([16, 32, 48, 64, 96, 512]),
)
def test_blocks_stand_for_the_same_floats(rows: int, groups: int, bits_and_zeros: tuple[int, str], group: int) -> None:
    weight = quantized(rows, groups, bits_and_zeros[0], group, bits_and_zeros[1])
    torch.testing.assert_close(floats_of_blocks(weight), weight.materialize(), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("size", [8, 20, 72])
def test_rows_of_one_scale_may_end_within_a_block(size: int) -> None:
    weight = quantized(3, 1, 8, size)
    torch.testing.assert_close(floats_of_blocks(weight), weight.materialize())


def test_blocks_are_as_long_as_groups_let_them_be() -> None:
    found = {group: block_of(4, group, 1152) for group in (16, 32, 24, 128, 576, 1152)}
    assert found == {16: 16, 32: 32, 24: None, 128: 128, 576: 64, 1152: 128}


def test_smaller_groups_of_8_bits_are_the_same_weight() -> None:
    weight = quantized(3, 2, 8, 192)
    assert torch.equal(regrouped(weight, 64).materialize(), weight.materialize())


# ---------------------------------------------------------------- the pass


def lowered(program: Program, packing: str = "blocks") -> tuple[Program, PassRecord]:
    trace = Trace()
    return run_passes(program, [ReadIntegers(packing)], trace), trace.passes[-1]


def tied(weight: Weight, m: Maker | None = None) -> Program:
    """A table of embeddings that is the head, too."""
    m = m or Maker()
    table = m.weight("table", torch.zeros(weight.shape))
    m.weights._entries["table"] = weight
    return m.step(m.call(aten.linear.default, m.call(aten.embedding.default, table, m.tokens), table))


def calls(program: Program) -> list[str]:
    return [call_text(node) for node in program.graph.nodes if node.op == "call_function"]


def test_a_table_and_a_head_read_the_same_integers() -> None:
    program = tied(quantized(VOCABULARY, 2, 4, 32, "whole"))
    after, record = lowered(program)
    table = "@table.int4, @table.scales, @table.zeros, None"
    assert calls(after) == [
        f"burnish.quantized_embedding({table}, %tokens, bits=4, size=64)",
        f"burnish.quantized_linear(%quantized_embedding_default, {table}, None, bits=4)",
    ]
    assert list(after.weights) == ["table.int4", "table.scales", "table.zeros"]
    assert [entry.text for entry in record.rewrites] == ["4 bits, a scale for each 32"] * 2
    inputs = [torch.tensor([[1, 5, 2]]), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)]
    torch.testing.assert_close(run(after, inputs), run(program, inputs), rtol=1e-5, atol=1e-4)


def test_a_weight_that_is_read_in_another_way_stays_in_floats() -> None:
    m = Maker()
    program = tied(quantized(VOCABULARY, 2, 4, 32), m)
    table = next(node for node in program.graph.nodes if node.op == "get_attr")
    with program.graph.inserting_before(program.output):
        other = m.call(aten.add.Tensor, m.call(aten.sum.default, table), program.output.args[0][0])  # type: ignore[index]
    program.output.args = ((other,),)
    after, record = lowered(program)
    assert list(after.weights) == ["table"]
    assert [entry.text for entry in record.refusals] == [
        "sum_default (aten.sum.default) has no kernel that reads integers: the weight stays in floats"
    ]


def test_groups_without_blocks_stay_in_floats() -> None:
    after, record = lowered(tied(quantized(VOCABULARY, 2, 4, 24)))
    assert list(after.weights) == ["table"]
    (refusal,) = record.refusals
    assert refusal.text == "there are no blocks of 16 or more in groups of 24: the weight stays in floats"


def test_floats_are_left_alone() -> None:
    after, record = lowered(tied(Stored(torch.randn(VOCABULARY, 64))))
    assert list(after.weights) == ["table"]
    assert not record.rewrites
    assert not record.refusals


def test_a_weight_that_is_multiplied_stays_in_floats() -> None:
    m = Maker()
    table = m.weight("table", torch.zeros(64, 64))
    m.weights._entries["table"] = quantized(64, 2, 4, 32)
    x = m.call(aten.linear.default, m.embed(64), table)
    squared = m.call(aten.linear.default, table, table)
    program = m.step(m.call(aten.linear.default, x, squared))
    after, record = lowered(program)
    assert "table" in after.weights
    (refusal,) = record.refusals
    assert refusal.text == (
        "linear_default_1 (aten.linear.default) reads it as something else than its weight: the weight stays in floats"
    )


def products(weight: Weight) -> Program:
    """Two products of one weight[N, 64], as Triton's kernels compute them."""
    m = Maker()
    x, node = m.embed(64), m.weight("w", torch.zeros(weight.shape))
    m.weights._entries["w"] = weight
    first = m.call(ops.fused_linear.default, x, node, norm="rms", eps=1e-6)
    second = m.call(ops.fused_linear.default, x, node, activation="silu")
    return m.step(m.call(aten.add.Tensor, first, second))


def test_products_for_gpus_share_the_integers_of_one_weight() -> None:
    program = products(quantized(5, 1, 8, 64))
    after, record = lowered(program, "plain")
    assert calls(after)[1:3] == [
        "burnish.fused_linear(%embedding_default, @w.int8, norm='rms', eps=1e-06, scales=@w.scales)",
        "burnish.fused_linear(%embedding_default, @w.int8, activation='silu', scales=@w.scales)",
    ]
    assert [entry.text for entry in record.rewrites] == ["8 bits, a scale for each 64"] * 2
    inputs = [torch.tensor([[1, 5, 2]]), torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)]
    torch.testing.assert_close(run(after, inputs), run(program, inputs), rtol=1e-5, atol=1e-4)


def test_groups_that_kernels_for_gpus_do_not_know_stay_in_floats() -> None:
    after, record = lowered(products(quantized(5, 4, 4, 16)), "plain")
    assert "w" in after.weights
    (refusal,) = record.refusals
    assert refusal.text == "the kernels know groups of 32, 64 and 128, and these are of 16: the weight stays in floats"


def test_a_packing_is_spelled_and_another_is_refused() -> None:
    assert read_pass("read-integers{packing=plain}", known_passes()) == ReadIntegers("plain")
    assert read_pass("read-integers", known_passes()) == ReadIntegers("blocks")
    with pytest.raises(UsageError, match=r"no packing 'plane' \(did you mean plain\?\): there are blocks and plain"):
        read_pass("read-integers{packing=plane}", known_passes())


# ---------------------------------------------------------------- what moves weights about


def test_rows_and_joins_of_integers_are_integers() -> None:
    first, second = quantized(6, 2, 4, 32, "whole"), quantized(4, 2, 4, 32, "whole", seed=1)
    order = torch.tensor([9, 0, 3, 7])
    moved = Rows(Concat((first, second)), order)
    found = as_quantized(moved)
    assert found is not None
    assert torch.equal(found.materialize(), torch.cat((first.materialize(), second.materialize()))[order])


def test_products_of_different_precision_are_not_packed() -> None:
    m = Maker()
    x = m.embed(64)
    integers: list[Weight] = [quantized(5, 2, bits, 32) for bits in (4, 4, 8)]
    products = []
    for index, weight in enumerate([*integers, Stored(torch.randn(5, 64))]):
        node = m.weight(f"w{index}", torch.zeros(5, 64))
        m.weights._entries[f"w{index}"] = weight
        products.append(m.call(aten.linear.default, x, node))
    program = run_passes(m.step(m.call(aten.cat.default, products, -1)), [PackLinears()], Trace())
    assert list(program.weights) == ["embedding", "w2", "w3", "w0+w1"]
    assert as_quantized(program.weights["w0+w1"]) is not None


# ---------------------------------------------------------------- whole models


def with_integers(program: Program, bits: int, group: int) -> Program:
    """The program with the weights of its linears rounded, as a transform would."""
    chosen = {str(node.args[1].target) for node in program.graph.nodes if node.target is aten.linear.default}
    weights = {
        name: nearest(weight.materialize(), Grid(bits, weight.shape[1] if group == 0 else group))
        if name in chosen and (group == 0 or weight.shape[1] % group == 0)
        else weight
        for name, weight in program.weights.items()
    }
    return replace(program, weights=Weights(weights))


@pytest.mark.parametrize(("bits", "group"), [(4, 32), (8, 0)])
@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2"])
def test_whole_models_compute_what_their_floats_say(model_type: str, bits: int, group: int) -> None:
    whole = with_integers(read(build(model_type)).program, bits, group)
    step = run_passes(whole, make_incremental(), Trace())
    trace = Trace()
    after = run_passes(step, lower_for_onnxruntime(), trace)
    assert any("quantized_linear" in call for call in calls(after))
    torch.testing.assert_close(logits(after), logits(step), rtol=1e-4, atol=1e-4)


def test_kernels_for_gpus_read_the_integers_that_there_are() -> None:
    whole = with_integers(read(build("llama")).program, 8, 0)
    step = run_passes(whole, make_incremental(), Trace())
    trace = Trace()
    after = run_passes(step, lower_for_gpu(torch.float32), trace)
    record = next(record for record in trace.passes if record.name == "read-integers")
    found = [call for call in calls(after) if "scales=" in call]
    assert len(found) == len(record.rewrites) > 0
    assert {weight.dtype for name, weight in after.weights.items() if name.endswith(".int8")} == {torch.int8}
    torch.testing.assert_close(logits(after), logits(step), rtol=1e-4, atol=1e-4)


def test_kernels_for_gpus_refuse_zero_points() -> None:
    program = run_passes(read(build("llama")).program, make_incremental(), Trace())
    name = next(name for name in program.weights if name.endswith("o_proj.weight"))
    rows, size = program.weights[name].shape
    program.weights._entries[name] = quantized(rows, size // 32, 4, 32, "whole")
    trace = Trace()
    after = run_passes(program, lower_for_gpu(torch.float32), trace)
    record = next(record for record in trace.passes if record.name == "read-integers")
    assert [entry.text for entry in record.refusals] == ["the kernels know no zero points: the weight stays in floats"]
    assert not any("scales=" in call for call in calls(after))
