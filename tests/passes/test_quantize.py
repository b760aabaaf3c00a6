"""Weights of linears in 8 and 4 bits: rounded to the nearest, or so that errors make up for one another."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import burnish
from burnish.frontend import read
from burnish.ir.errors import InvalidInputError, UsageError
from burnish.ir.program import Program
from burnish.ir.quantization import Widened, as_quantized
from burnish.ir.quantized_ops import stored_bytes
from burnish.ir.text import call_text
from burnish.ir.trace import PassRecord, Trace
from burnish.ir.weights import Stored, Weights, nbytes
from burnish.passes.lower.read_integers import ReadIntegers
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import raise_operations
from burnish.passes.transforms.calibration import Calibration, calibration_of
from burnish.passes.transforms.quality import measure
from burnish.passes.transforms.quantize import Quantize
from burnish.passes.transforms.quantize_awq import best_scales
from burnish.passes.transforms.quantize_rounding import (
    Grid,
    gptq,
    grid_of_8_bits,
    inverse_factor,
    nearest,
    output_error,
    searched,
)
from burnish.passes.transforms.quantize_size import bytes_of
from burnish.passes.verify import logits_of
from tests.zoo.configs import build

VOCABULARY = 97


def llama(tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=128,
        tie_word_embeddings=tied,
        initializer_range=0.15,
    )
    return LlamaForCausalLM(config).eval()


def raised(model: nn.Module) -> Program:
    return run_passes(read(model).program, raise_operations(), Trace())


@cache
def small(tied: bool = False) -> Program:
    """A llama that all tests share: passes work on copies."""
    return raised(llama(tied=tied))


def ids(count: int = 1200) -> list[int]:
    """Tokens each of which follows from the one before it, mostly."""
    generator = torch.Generator().manual_seed(1)
    found = [0]
    for jump in torch.randint(0, 4, (count,), generator=generator).tolist():
        found.append((5 * found[-1] + jump) % VOCABULARY)
    return found


def text() -> Calibration:
    return calibration_of(ids(), 128)


def quantized(program: Program, **options: object) -> tuple[Program, PassRecord]:
    trace = Trace()
    return run_passes(program, [Quantize(**options)], trace), trace.passes[-1]  # type: ignore[arg-type]


def linears(program: Program) -> list[str]:
    return [call_text(node) for node in program.graph.nodes if "linear" in str(node.target)]


def of_layers(size: int, rows: int = 24, tokens: int = 200) -> tuple[Tensor, Tensor]:
    """A weight[rows, size] and the gram of inputs whose channels go together, and differ in size."""
    generator = torch.Generator().manual_seed(size)
    mixed = torch.randn(tokens, size // 4, generator=generator) @ torch.randn(size // 4, size, generator=generator)
    inputs = (mixed + torch.randn(tokens, size, generator=generator)) * torch.rand(size, generator=generator)
    return torch.randn(rows, size, generator=generator), (inputs.T @ inputs).double()


# ---------------------------------------------------------------- rounding


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    groups=st.integers(1, 4),
    group=st.sampled_from([32, 64]),
    grid=st.sampled_from([(8, True), (4, True), (4, False)]),
    magnitude=st.sampled_from([0.0, 1e-6, 1.0, 1e3]),
    offset=st.sampled_from([0.0, 3.0, -3.0]),
)
def test_the_nearest_is_half_a_step_away(
    rows: int, groups: int, group: int, grid: tuple[int, bool], magnitude: float, offset: float
) -> None:
    generator = torch.Generator().manual_seed(rows)
    weight = (torch.randn(rows, groups * group, generator=generator) + offset) * magnitude
    found = nearest(weight, Grid(grid[0], group, grid[1]))
    assert (found.shape, found.scales.shape) == (weight.shape, (rows, groups))
    if found.zeros is not None:
        zeros = found.zeros.materialize()
        assert torch.equal(zeros, zeros.round().clamp(0, 15))
    step = found.scales.materialize().float().repeat_interleave(group, dim=1)
    # Scales are float16: the extremes can be a thousandth of them off for each integer, and end a little lower.
    # The zero point is rounded, too, and shifts the extremes by half a step at most.
    slack = step * (1.05 if found.zeros is not None else 0.6) + 2.0**-24 * 127
    assert bool(((found.materialize() - weight).abs() <= slack).all())


@pytest.mark.parametrize("grid", [Grid(8, 64), Grid(4, 32), Grid(4, 32, symmetric=False), Grid(4, 192)])
def test_errors_that_are_made_up_for_matter_less(grid: Grid) -> None:
    weight, gram = of_layers(192)
    plain = output_error(weight, nearest(weight, grid).materialize(), gram)
    better = output_error(weight, searched(weight, grid, gram.diagonal().float()).materialize(), gram)
    best = output_error(weight, gptq(weight, gram, grid).materialize(), gram)
    assert best < 0.7 * plain
    assert best < better <= plain * 1.01


def test_the_factor_is_of_the_inverse() -> None:
    _, gram = of_layers(64)
    factor = inverse_factor(gram)
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(64)
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(64, dtype=torch.float64))
    assert torch.equal(factor, factor.triu())


def test_inputs_of_zeros_leave_the_nearest() -> None:
    weight, gram = of_layers(64)
    found = gptq(weight, torch.zeros_like(gram), Grid(8, 64)).materialize()
    expected = searched(weight, Grid(8, 64), torch.ones(64)).materialize()
    torch.testing.assert_close(found, expected)


def test_inputs_that_are_not_finite_are_refused() -> None:
    weight, gram = of_layers(64)
    with pytest.raises(InvalidInputError, match="values that are not finite"):
        gptq(weight, gram * torch.inf, Grid(8, 64))


# ---------------------------------------------------------------- the pass


def test_linears_read_weights_that_stand_for_integers() -> None:
    before = small()
    after, record = quantized(before, numbers="int4")
    assert linears(before)[6:7] + linears(after)[6:7] == [
        "aten.linear(%gated_activation_default, @model.layers.0.mlp.down_proj.weight)",
        "aten.linear(%gated_activation_default, @model.layers.0.mlp.down_proj.weight.int4)",
    ]
    assert [entry.text for entry in record.rewrites] == ["int4, a scale and a zero point for each 32, nearest"] * 16
    weight = as_quantized(after.weights["model.layers.0.mlp.down_proj.weight.int4"])
    assert weight is not None
    assert (weight.bits, weight.group, weight.shape) == (4, 32, (64, 96))
    assert "model.layers.0.mlp.down_proj.weight" not in after.weights


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"numbers": "int8"}, "int8, a scale for each 64, nearest"),
        ({"numbers": "int8", "group": 32}, "int8, a scale for each 32, nearest"),
        ({"head": "int8", "symmetric": True}, "int4, a scale for each 32, nearest"),
        ({"symmetric": True, "group": 64}, "int4, a scale for each 64, nearest"),
        ({"calibration": text()}, "int4, a scale and a zero point for each 32, gptq"),
        ({"calibration": text(), "method": "nearest"}, "int4, a scale and a zero point for each 32, nearest"),
    ],
)
def test_each_has_its_scales(options: dict[str, object], expected: str) -> None:
    _, record = quantized(small(), **options)
    assert record.rewrites[1].text == expected


@pytest.mark.parametrize(("size", "group"), [(64, 64), (96, 32), (576, 64), (1536, 256), (4096, 256), (100, 100)])
def test_int8_has_a_scale_for_each_block_that_is_stored(size: int, group: int) -> None:
    weight = torch.zeros(2, size)
    by_block, by_row = (nearest(weight, grid) for grid in (grid_of_8_bits(size), Grid(8, size)))
    assert by_block.group == group
    assert stored_bytes(by_block) == stored_bytes(by_row)


def test_groups_of_each_size_that_is_asked_for() -> None:
    for group, expected in ((None, {32, 64}), ("row", {64, 96}), (32, {32})):
        after, _ = quantized(small(), numbers="int8", group=group)
        found = [each for weight in after.weights.values() if (each := as_quantized(weight)) is not None]
        assert {each.group for each in found} == expected


def test_rows_that_are_no_whole_groups_stay_in_floats() -> None:
    after, record = quantized(small(), group=64)
    assert {entry.text for entry in record.refusals} == {"its rows of 96 are no whole groups of 64"}
    assert len(record.refusals) == 2
    assert linears(after)[6].endswith("down_proj.weight)")


def test_nothing_to_do_is_an_error() -> None:
    with pytest.raises(UsageError, match="found nothing to do: its rows of 64 are no whole groups of 128"):
        burnish.compile(llama(), transforms=[Quantize("int4", group=128)])


def test_integers_are_not_rounded_again() -> None:
    once, _ = quantized(small())
    twice, record = quantized(once, numbers="int8")
    assert list(twice.weights) == list(once.weights)
    assert not record.rewrites
    assert {entry.text for entry in record.refusals} == {"its weight is of integers already"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"numbers": "int3"},
            r"there are no weights of 'int3' \(did you mean int8 or int4\?\): there are int8, int4, fp8 and keep",
        ),
        ({"head": "int2"}, "there is no head of 'int2': there are int8, int4 and float"),
        ({"numbers": "keep", "group": 32}, "rounds nothing: leave group and method out"),
        ({"group": 48}, "there are no groups of 48: there are 32, 64, 128"),
        ({"group": "row"}, "a scale for a whole row is too few for int4"),
        ({"numbers": "int8", "head": "int4", "group": "row"}, "a scale for a whole row is too few for int4"),
        ({"method": "best"}, "there is no method 'best': there are nearest"),
        ({"size": "1MB"}, "needs calibration text, to see which"),
        ({"numbers": "keep", "size": "1MB", "calibration": text()}, "leave size out"),
        ({"method": "gptq"}, "needs calibration text"),
        ({"numbers": "fp8", "group": 32}, "fp8 has a scale for each row, and rounds to the nearest: leave group"),
        ({"numbers": "fp8", "method": "awq", "calibration": text()}, "rounds to the nearest: leave group and method"),
        ({"numbers": "fp8", "symmetric": True}, "leave symmetric and size out"),
        ({"numbers": "fp8", "size": "1MB", "calibration": text()}, "leave symmetric and size out"),
    ],
)
def test_options_that_there_are_not(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        quantized(small(), **options)


def test_the_same_again_is_the_same_to_the_byte() -> None:
    program = small()
    first, second = (quantized(program, calibration=text())[0] for _ in range(2))
    for name, weight in first.weights.items():
        assert torch.equal(weight.materialize(), second.weights[name].materialize())


# ---------------------------------------------------------------- the head and the table


def kinds(program: Program) -> dict[str, int]:
    """Bits by the last words of each weight of two axes; 32 for floats."""
    found = {}
    for name, weight in program.weights.items():
        if len(weight.shape) == 2:
            integers = as_quantized(weight)
            found[name.removesuffix(".int4").removesuffix(".int8")] = 32 if integers is None else integers.bits
    return found


@pytest.mark.parametrize(("head", "bits"), [(None, 4), ("int8", 8), ("float", 32)])
@pytest.mark.parametrize("tied", [True, False])
def test_the_head_and_the_table_are_apart(head: str | None, bits: int, tied: bool) -> None:
    after, _ = quantized(small(tied), head=head, calibration=text())
    found = kinds(after)
    ends = {"lm_head.weight"} if tied else {"lm_head.weight", "model.embed_tokens.weight"}
    assert {found.pop(end) for end in ends} == {bits}
    assert set(found.values()) == {4}
    assert len(found) == 14


def test_tables_of_positions_stay_in_floats() -> None:
    after, _ = quantized(raised(build("gpt2")))
    found = kinds(after)
    assert found["transformer.wpe.weight"] == 32
    assert found["lm_head.weight"] == 4


# ---------------------------------------------------------------- floats of 8 bits


def test_floats_of_8_bits_have_a_scale_for_each_row() -> None:
    after, record = quantized(small(tied=True), numbers="fp8")
    assert {entry.text for entry in record.rewrites} == {f"fp8, a scale for each {size}, nearest" for size in (64, 96)}
    for name, before in small(tied=True).weights.items():
        if len(before.shape) != 2:
            continue
        found = after.weights[f"{name}.fp8"]
        weight = before.materialize()
        scales = weight.abs().amax(1, keepdim=True) / 448
        error = (found.materialize() - weight).abs()
        # half a step of the 8 between two powers of two; below 2^-6, steps of 2^-9
        assert bool((error <= (weight.abs() / 16).clamp(min=2.0**-10 * scales) * 1.0001).all())
        torch.testing.assert_close(found.materialize().abs().amax(1), weight.abs().amax(1), rtol=1e-6, atol=0)
        integers = as_quantized(found)
        assert integers is not None
        assert stored_bytes(integers) == weight.numel() + 4 * len(weight)


def test_a_head_of_integers_beside_floats_of_8_bits() -> None:
    after, record = quantized(small(), numbers="fp8", head="int8", group=32)
    assert sorted({entry.text for entry in record.rewrites}) == [
        "fp8, a scale for each 64, nearest",
        "fp8, a scale for each 96, nearest",
        "int8, a scale for each 32, nearest",
    ]
    assert {"lm_head.weight.int8", "model.embed_tokens.weight.int8"} <= set(after.weights)


@pytest.mark.parametrize("packing", ["blocks", "plain"])
def test_other_kernels_than_native_ones_read_no_floats_of_8_bits(packing: str) -> None:
    after, _ = quantized(small(), numbers="fp8")
    trace = Trace()
    lowered = run_passes(after, [ReadIntegers(packing)], trace)
    assert not trace.passes[-1].rewrites
    assert {entry.text for entry in trace.passes[-1].refusals} == {
        "only native kernels read floats of 8 bits: the weight stays in floats"
    }
    tokens = torch.tensor([[1, 5, 2, 9]])
    assert torch.equal(logits_of(lowered, tokens), logits_of(after, tokens))


@pytest.mark.parametrize("model_type", ["mixtral", "deepseek_v3"])
def test_what_chooses_experts_stays_in_floats(model_type: str) -> None:
    """Whatever its scores go through: softmax, sigmoid, biases, groups."""
    after, record = quantized(raised(build(model_type)))
    told = [entry for entry in record.refusals if "its outputs choose experts (topk" in entry.text]
    assert told
    assert {entry.text for entry in told} == {entry.text for entry in told if "rounded, they would" in entry.text}
    routers = [name for name in after.weights if name.endswith(".gate.weight")]
    assert len(routers) == len(told)
    assert all(as_quantized(after.weights[name]) is None for name in routers)


# ---------------------------------------------------------------- integers of a file


def of_file(program: Program) -> Program:
    """The program with all that its linears multiply by as a file of Q4_1 would have it, but for one."""
    names = {node.args[1].target for node in program.graph.nodes if node.target is torch.ops.aten.linear.default}
    weights = dict(program.weights)
    for name in sorted(names - {"model.layers.0.mlp.up_proj.weight"}):
        integers = nearest(weights[name].materialize(), Grid(4, 32, symmetric=False))
        weights[name] = Widened(Stored(integers.materialize()), integers, "Q8_0")
    return replace(program, weights=Weights(weights))


def test_integers_of_a_file_stay_what_they_are() -> None:
    before = of_file(small(tied=True))
    after, record = quantized(before, numbers="keep", head="float")
    assert {entry.text for entry in record.rewrites} == {"int4, a scale and a zero point for each 32, as they came"}
    assert [entry.text for entry in record.refusals] == ["the file has no integers of one kind for it"]
    found = kinds(after)
    assert (found.pop("lm_head.weight"), found.pop("model.layers.0.mlp.up_proj.weight")) == (32, 32)
    assert set(found.values()) == {4}
    tokens = torch.tensor([[1, 5, 2, 9]])
    assert torch.equal(logits_of(after, tokens), logits_of(before, tokens))


@pytest.mark.parametrize("method", ["nearest", "gptq"])
def test_integers_of_a_file_are_what_was_asked_for(method: str) -> None:
    """Of so many bits in such groups: others are rounded."""
    before = of_file(small(tied=True))
    _, record = quantized(before, head="float", method=method, calibration=text())
    others = [entry.text for entry in record.rewrites if not entry.text.endswith("as they came")]
    assert len(others) == 1
    assert len(record.rewrites) > 10
    for options in ({"symmetric": True}, {"group": 64}, {"numbers": "int8"}):
        _, record = quantized(before, head="float", **options)
        assert not [entry.text for entry in record.rewrites if entry.text.endswith("as they came")]


def test_there_have_to_be_integers_to_keep() -> None:
    with pytest.raises(UsageError, match="there are no integers to keep: they come from GGUF files"):
        quantized(small(), numbers="keep")


# ---------------------------------------------------------------- scales of channels


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_scales_go_into_the_norm_in_front(model_type: str) -> None:
    before = small() if model_type == "llama" else raised(build("gpt2"))
    after, record = quantized(before, method="awq", numbers="int8", calibration=text())
    plain, _ = quantized(before, method="nearest", numbers="int8")
    # In 8 bits rounding costs little, with scales or without: one in the wrong place would be seen.
    tokens = torch.tensor([ids(40)])
    wanted = logits_of(before, tokens)
    assert (logits_of(after, tokens) - wanted).norm() < 1.5 * (logits_of(plain, tokens) - wanted).norm()
    scaled = [entry.text for entry in record.rewrites if entry.text.endswith("awq")]
    assert scaled
    assert sum(name.endswith("weight.scaled") for name in after.weights) >= 4
    assert any("not a norm, whose weight could take scales in" in entry.text for entry in record.refusals)


def test_scales_of_channels_make_a_layer_lose_less() -> None:
    weight, gram = of_layers(192)
    grid = Grid(4, 64, symmetric=False)
    scales = best_scales([weight], [grid], gram)
    better = output_error(weight, nearest(weight * scales, grid).materialize() / scales, gram)
    assert better < 0.9 * output_error(weight, nearest(weight, grid).materialize(), gram)


# ---------------------------------------------------------------- a size


def artifact_bytes(program: Program) -> int:
    """Bytes of all weights after they are lowered."""
    lowered = run_passes(program, [ReadIntegers()], Trace())
    return sum(nbytes(weight) for weight in lowered.weights.values())


def test_the_smallest_and_the_largest_size() -> None:
    before, options = small(), {"calibration": text()}
    least = artifact_bytes(quantized(before, **options)[0])
    same, _ = quantized(before, size=least, **options)
    assert set(kinds(same).values()) == {4}
    with pytest.raises(UsageError, match="MB at the least, and"):
        quantized(before, size=least - 1, **options)
    most = sum(nbytes(weight) for weight in before.weights.values())
    _, record = quantized(before, size=most, **options)
    assert len(record.refusals) == 15
    assert record.refusals[0].text.startswith("there is room for its floats: ")


def test_what_loses_most_gets_more_bits() -> None:
    before, calibration = small(), text()
    least = artifact_bytes(quantized(before, calibration=calibration)[0])
    size = least + 12000
    after, record = quantized(before, size=size, calibration=calibration)
    assert size - 7000 < artifact_bytes(after) <= size
    assert set(kinds(after).values()) == {4, 8}
    assert record.notes[0].startswith(f"weights of {artifact_bytes(after) / 1e6:.2f} MB, of ")
    _, fewer, more = measure([before, quantized(before, calibration=calibration)[0], after], calibration.held_out)
    assert more.divergence < fewer.divergence


def test_a_head_that_is_given_stays_so() -> None:
    before, calibration = small(), text()
    most = sum(nbytes(weight) for weight in before.weights.values())
    after, _ = quantized(before, size=most, head="int8", calibration=calibration)
    assert kinds(after)["lm_head.weight"] == 8


@pytest.mark.parametrize(
    ("given", "expected"), [(5, 5), ("80MB", 80_000_000), ("1.5 GB", 1_500_000_000), ("64MiB", 2**26), ("7k", 7000)]
)
def test_sizes(given: int | str, expected: int) -> None:
    assert bytes_of(given) == expected


@pytest.mark.parametrize("given", ["", "big", "-5MB", 0, "5TB"])
def test_no_sizes(given: int | str) -> None:
    with pytest.raises(UsageError, match="is no size: give bytes, or a text like '80MB'"):
        bytes_of(given)


# ---------------------------------------------------------------- whole models


@pytest.mark.parametrize("options", [{"numbers": "int4"}, {"numbers": "int4", "symmetric": True}])
def test_text_makes_a_model_lose_less(options: dict[str, object]) -> None:
    program, calibration = small(), text()
    # The table of embeddings is rounded to the nearest either way.
    plain, _ = quantized(program, **options, head="float")
    better, _ = quantized(program, **options, head="float", calibration=calibration)
    _, far, near = measure([program, plain, better], calibration.held_out)
    assert near.divergence < 0.7 * far.divergence


@pytest.mark.parametrize("options", [{"numbers": "int8"}, {"head": "int8"}])
def test_artifacts_compute_what_the_integers_say(options: dict[str, object]) -> None:
    expected, _ = quantized(small(), **options)
    compiled = burnish.compile(llama(), transforms=[Quantize(**options)], verify=False)  # type: ignore[arg-type]
    tokens = torch.tensor([ids(40)])
    wanted = logits_of(expected, tokens)
    # Products of integers round activations to 8 bits, in each of 15 linears.
    assert float((compiled(tokens) - wanted).norm() / wanted.norm()) < 0.03


def test_artifacts_by_text() -> None:
    compiled = burnish.compile(llama(), transforms=[Quantize()], calibration=ids())
    before, after = compiled.trace.quality
    assert before.weight_bytes > 3 * after.weight_bytes
    assert after.divergence < 0.1
