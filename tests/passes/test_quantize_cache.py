"""Caches in 8 bits: what is rounded, that states are made of the codes, and what it does to models."""

from __future__ import annotations

import re

import pytest
import torch
from torch import Tensor, nn

import burnish
from burnish.frontend import read
from burnish.ir.code_ops import LARGEST, code_ops
from burnish.ir.errors import UsageError, VerificationError
from burnish.ir.program import Program
from burnish.ir.text import program_text
from burnish.ir.trace import Trace
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import insert_states, raise_operations
from burnish.passes.transforms.calibration import Calibration
from burnish.passes.transforms.quantize_cache import QuantizeCache
from burnish.passes.transforms.stream import Stream
from burnish.passes.transforms.transform import cache_bytes_a_token
from burnish.passes.verify_run import verify_by_reference
from burnish.runtime.model import CompiledModel
from tests.own_modules import causal
from tests.tolerances import assert_near

ATTENTIONS = [style for style in causal.STYLES if style is not causal.RunningSum]
NUMBERS = ("int8", "fp8")


def raised(style: type[nn.Module]) -> Program:
    torch.manual_seed(0)
    return run_passes(read(style().eval(), max_length=causal.LENGTH - 1).program, raise_operations(), Trace())


def lines(program: Program, word: str) -> list[str]:
    """The operations that say `word`, without where they come from."""
    found = [line.split("  # ")[0].strip() for line in program_text(program).splitlines()]
    return [line for line in found if word in line and " = " in line]


def test_keys_and_values_are_rounded_where_they_would_be_remembered() -> None:
    before = raised(causal.SharedKey)
    assert lines(before, "codes") == []
    trace = Trace()
    after = run_passes(before, [QuantizeCache("int8")], trace)
    assert [entry.text for entry in trace.passes[-1].rewrites] == ["int8, and a scale for each token and head"] * 3
    # One KV head of 8 elements, for four query heads: rounded before it is repeated.
    assert lines(after, "burnish.to_codes") == [
        f"%to_codes{number}: i8[batch, 1, sequence, 8] = burnish.to_codes(%{read}, %code_scales{number}, 'int8')"
        for number, read in (("", "unsqueeze"), ("_1", "unsqueeze_1"), ("_2", "unsqueeze_2"))
    ]
    assert len(lines(after, "burnish.attention(")) == len(lines(before, "burnish.attention(")) == 2
    assert (cache_bytes_a_token(before), cache_bytes_a_token(after)) == (3 * 8 * 4, 3 * (8 + 4))


def states(program: Program) -> list[tuple[str, str, str, tuple[int | str, ...]]]:
    step = run_passes(program, insert_states(), Trace())
    return [(each.name, each.kind.value, str(each.dtype).split(".")[1], each.shape) for each in step.states]


@pytest.mark.parametrize("numbers", NUMBERS)
def test_the_cut_remembers_codes_and_scales(numbers: str) -> None:
    """In caches, in rings, and of keys of another size than values: nothing but its bytes tells state insertion to."""
    codes = {"int8": "int8", "fp8": "uint8"}[numbers]
    rounded = [run_passes(raised(style), [QuantizeCache(numbers)], Trace()) for style in (  # type: ignore[arg-type]
        causal.NanoGPT, causal.SlidingWindow, causal.MultiHeadLatent
    )]  # fmt: skip
    caches, rings, latents = map(states, rounded)
    assert caches[:4] == [
        ("key_scale_0", "cache", "float32", ("batch", 4, "capacity", 1)),
        ("key_0", "cache", codes, ("batch", 4, "capacity", 8)),
        ("value_scale_0", "cache", "float32", ("batch", 4, "capacity", 1)),
        ("value_0", "cache", codes, ("batch", 4, "capacity", 8)),
    ]
    assert {(name, kind, dtype) for name, kind, dtype, _ in rings} == {
        ("key_scale_0", "ring", "float32"),
        ("key_0", "ring", codes),
        ("value_scale_0", "ring", "float32"),
        ("value_0", "ring", codes),
    }
    plain = states(raised(causal.MultiHeadLatent))
    assert [name for name, *_ in latents if "scale" not in name] == [name for name, *_ in plain]
    assert [shape for name, _, _, shape in latents if "scale" not in name] == [shape for *_, shape in plain]
    assert cache_bytes_a_token(rounded[2]) == sum(shape[1] * (shape[-1] + 4) for *_, shape in plain)  # type: ignore[operator]


def test_a_value_that_queries_are_made_of_is_rounded_for_keys_alone() -> None:
    class Tied(causal.Base):
        def mix(self, x: Tensor) -> Tensor:
            heads = x.unflatten(-1, (causal.HEADS, -1)).transpose(1, 2)
            mixed = nn.functional.scaled_dot_product_attention(heads, heads, heads, is_causal=True)
            return mixed.transpose(1, 2).flatten(2)

    program = run_passes(raised(Tied), [QuantizeCache()], Trace())
    (attention,) = [node for node in program.graph.nodes if str(node.target) == "burnish.attention.default"]
    query, key, value = attention.args
    assert key is value
    assert key.target is code_ops.from_codes.default
    assert query is key.args[0].args[0]


def test_what_cannot_be_done_is_said() -> None:
    def refused(transforms: list[QuantizeCache], style: type[nn.Module] = causal.NanoGPT) -> str:
        with pytest.raises(UsageError) as error:
            burnish.compile(style(), max_length=16, transforms=transforms)
        return str(error.value)

    assert "no caches of 'int2': there are int8 and fp8" in refused([QuantizeCache("int2")])  # type: ignore[arg-type]
    assert "no attention that remembers keys and values" in refused([QuantizeCache()], causal.RunningSum)
    assert "given twice" in refused([QuantizeCache(), QuantizeCache()])
    twice = refused([QuantizeCache("int8"), QuantizeCache("fp8")])
    assert re.search("found nothing to do: it is in 8 bits already$", twice)
    step = run_passes(raised(causal.NanoGPT), insert_states(), Trace())
    with pytest.raises(UsageError, match="before they are inserted"):
        run_passes(step, [QuantizeCache()], Trace())


def calibrated(numbers: str, length: int = 24) -> QuantizeCache:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(causal.VOCABULARY, (6, length), generator=generator)
    return QuantizeCache(numbers, calibration=Calibration(tokens[:4], tokens[4:]))  # type: ignore[arg-type]


def test_with_text_each_channel_has_a_fixed_scale() -> None:
    before = raised(causal.SharedKey)
    trace = Trace()
    after = run_passes(before, [calibrated("int8")], trace)
    assert [entry.text for entry in trace.passes[-1].rewrites] == ["int8, and a scale for each channel"] * 3
    assert lines(after, "code_scales") == []
    assert lines(after, "burnish.to_codes") == [
        f"%to_codes{number}: i8[batch, 1, sequence, 8] = burnish.to_codes(%{read}, @{read}.scales, 'int8')"
        for number, read in (("", "unsqueeze"), ("_1", "unsqueeze_1"), ("_2", "unsqueeze_2"))
    ]
    # Scales are no part of what a token adds.
    assert cache_bytes_a_token(after) == 3 * 8
    assert {shape for *_, shape in states(after)} == {("batch", 1, "capacity", 8)}


def test_floats_in_8_bits_have_scales_of_tokens_with_text_too() -> None:
    program = run_passes(raised(causal.NanoGPT), [calibrated("fp8")], Trace())
    assert len(lines(program, "burnish.code_scales")) == len(lines(program, "burnish.to_codes")) > 0


def test_scales_are_those_of_the_text() -> None:
    """The greatest element of each channel has the greatest code, and nothing of that text is cut off."""
    transform = calibrated("int8")
    program = run_passes(raised(causal.NanoGPT), [transform], Trace())
    assert transform.calibration is not None
    for node in [node for node in program.graph.nodes if node.target is code_ops.to_codes.default]:
        scales = program.weights[program.weight_of(node.args[1])].materialize()
        values = torch.cat(list(Stream(program, transform.calibration.tokens).each(node.args[0])))
        assert scales.shape == (1, causal.HEADS, 1, 8)
        torch.testing.assert_close(values.abs().amax((0, 2), keepdim=True) / LARGEST["int8"], scales)


def in_pieces(compiled: CompiledModel, ids: Tensor, pieces: list[int]) -> Tensor:
    session = compiled.session(batch=ids.shape[0])
    return torch.cat([session.append(part, every=True) for part in ids.split(pieces, dim=1)], dim=1)


@torch.no_grad()
def test_onnx_runtime_keeps_codes_of_channels_itself() -> None:
    """Its attention writes and reads them: whole, token by token and in chunks as the reference does."""
    torch.manual_seed(0)
    model = causal.NanoGPT().eval()
    ids = torch.randint(causal.VOCABULARY, (2, 40))
    found = {}
    for backend in ("reference", "onnxruntime"):
        with burnish.compile(
            model,
            max_length=causal.LENGTH - 1,
            backend=backend,
            transforms=[calibrated("int8")],  # type: ignore[arg-type]
        ) as compiled:
            found[backend] = in_pieces(compiled, ids, [7, 13, 1, 19])
            torch.testing.assert_close(in_pieces(compiled, ids, [1] * 40), found[backend], rtol=0, atol=1e-3)
    torch.testing.assert_close(found["onnxruntime"], found["reference"], rtol=0, atol=1e-3)
    assert (found["reference"] - model(ids)).abs().max() < 0.02 * model(ids).abs().max()


@pytest.mark.parametrize("backend", ["onnxruntime", "reference"])
@pytest.mark.parametrize("style", ATTENTIONS, ids=lambda style: style.__name__)
@torch.no_grad()
def test_any_way_of_feeding_gives_the_whole_sequences_logits(style: type[nn.Module], backend: str) -> None:
    """Whole, token by token, in ragged chunks and after a rewind; and near the model, as 8 bits are."""
    torch.manual_seed(0)
    model = style().eval()
    ids = torch.randint(causal.VOCABULARY, (2, 40))
    expected = model(ids)
    for numbers, far in (("int8", 0.01), ("fp8", 0.05)):
        transforms = [QuantizeCache(numbers)]  # type: ignore[arg-type]
        with burnish.compile(model, max_length=causal.LENGTH - 1, backend=backend, transforms=transforms) as compiled:  # type: ignore[arg-type]
            whole = compiled(ids)
            assert 0 < (whole - expected).abs().max() < far * expected.abs().max()
            for pieces in ([1] * 40, [7, 13, 1, 19]):
                assert_near(in_pieces(compiled, ids, pieces), whole)
            session = compiled.session(batch=2)
            session.append(ids[:, :30])
            session.rewind(11)
            assert_near(session.append(ids[:, 11:], every=True), whole[:, 11:])


def test_verification_compares_what_is_not_rounded() -> None:
    """At an edge between two codes the last bit decides; that is no difference between programs, and others are."""
    torch.manual_seed(0)
    whole = run_passes(raised(causal.NanoGPT), [QuantizeCache()], Trace())
    step = run_passes(whole, insert_states(), Trace())
    assert 0 < verify_by_reference(whole, step) < 1e-5
    write = next(node for node in step.graph.nodes if node.args[:1] == (step.state_inputs[0],))
    late = step.copy()
    (same,) = (node for node in late.graph.nodes if node.name == write.name)
    same.update_arg(1, late.graph.call_function(torch.ops.aten.mul.Tensor, (same.args[1], 1.01)))
    same.prepend(same.args[1])
    with pytest.raises(VerificationError):
        verify_by_reference(whole, late)
