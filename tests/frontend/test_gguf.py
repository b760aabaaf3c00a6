"""GGUF files: written from small models as llama.cpp's converter does, and one real file."""

import importlib.util
import math
import struct
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from burnish.frontend.dequantize import half_split, weight_of
from burnish.frontend.gguf import model_of, read_gguf
from burnish.frontend.gguf_blocks import KINDS
from burnish.frontend.gguf_file import Tensor, open_gguf
from burnish.ir.errors import InvalidModelError, UsageError, WeightError
from burnish.ir.interpreter import run
from burnish.ir.panels import Panels, RowOrder, format_of, from_panels
from burnish.ir.quantization import as_quantized, kept, why_not_kept
from burnish.ir.weights import Concat, Permute, Stored
from tests.frontend.gguf_files import TOKENS, any_blocks, assert_same, logits, small_model, write

# ---------------------------------------------------------------- whole files


def test_the_program_equals_the_model(tmp_path: Path) -> None:
    model = write(tmp_path / "small.gguf", metadata={"tokenizer.ggml.eot_token_id": 3})
    source = read_gguf(tmp_path / "small.gguf")
    torch.testing.assert_close(run(source.program, [TOKENS])[0], logits(model), atol=1e-4, rtol=1e-4)
    assert source.name == "small"
    assert source.generation["eos_token_id"] == [2, 3]
    assert source.program.signature.max_length == 64
    assert source.tokenizer is None


def test_tied_embeddings_are_one_weight(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", "qwen2")
    _, weights = model_of(open_gguf(tmp_path / "model.gguf"))
    assert weights["lm_head.weight"] is weights["model.embed_tokens.weight"]


def test_factors_of_rotary_frequencies(tmp_path: Path) -> None:
    factors = np.array([1.0, 1.0, 4.0, 8.0], np.float32)
    write(tmp_path / "model.gguf", change=lambda tensors: tensors.update({"rope_freqs.weight": factors}))
    model, _ = model_of(open_gguf(tmp_path / "model.gguf"))
    expected = 5000.0 ** (-torch.arange(0, 8, 2) / 8) / torch.from_numpy(factors)
    torch.testing.assert_close(model.get_decoder().rotary_emb.inv_freq, expected)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_tensors_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path)
    file = open_gguf(path)
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [line[0].split("-") for line in maps if line[-1] == str(path)]
    for tensor in file.tensors.values():
        assert any(int(start, 16) <= tensor.data.ctypes.data < int(end, 16) for start, end in ranges)


# ---------------------------------------------------------------- tensors


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_dequantizing(tmp_path: Path, kind: str) -> None:
    quantized = gguf.GGMLQuantizationType[kind]
    write(tmp_path / "model.gguf", kinds={"blk.0.ffn_up.weight": quantized})
    tensor = open_gguf(tmp_path / "model.gguf").tensors["blk.0.ffn_up.weight"]
    assert tensor.kind is quantized
    values = weight_of(tensor).materialize()
    assert values.dtype is torch.float32
    original = small_model("llama").model.layers[0].mlp.up_proj.weight
    tolerance = {"F32": 0, "F16": 1e-3, "BF16": 1e-2, "Q8_0": 1e-2}.get(kind, 0.2)
    torch.testing.assert_close(values, original.detach(), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8), ("Q5_0", 5), ("Q5_1", 5), ("Q4_0", 4), ("Q4_1", 4)])
def test_integers_of_the_file_are_kept(tmp_path: Path, kind: str, bits: int) -> None:
    quantized = gguf.GGMLQuantizationType[kind]
    write(tmp_path / "model.gguf", kinds={"blk.0.attn_q.weight": quantized})
    _, weights = model_of(open_gguf(tmp_path / "model.gguf"))
    weight = weights["model.layers.0.self_attn.q_proj.weight"]  # its rows are in another order than in the file
    found = kept(weight)
    assert found is not None
    assert as_quantized(weight) is None, "floats to all who do not ask"
    assert (found.bits, found.group, found.shape) == (bits, 32, weight.shape)
    assert kept(Concat((weight, weight))) is not None
    assert kept(Concat((weight, weights["model.layers.0.self_attn.k_proj.weight"]))) is None
    for part in (found.values, found.scales, found.minima):
        values = None if part is None else part.materialize()
        assert part is None or values is None or (tuple(values.shape), values.dtype) == (part.shape, part.dtype)
    torch.testing.assert_close(found.materialize(), weight.materialize(), rtol=1e-6, atol=1e-6)


EXPERTS_OF = {part: f"blk.0.ffn_{part}_exps.weight" for part in ("gate", "up", "down")}


def test_integers_of_experts_are_rows_behind_each_other(tmp_path: Path) -> None:
    """Gates and what they are for are two tensors of the file, and one of the model, expert by expert."""
    write(tmp_path / "model.gguf", "qwen3moe", kinds=dict.fromkeys(EXPERTS_OF.values(), gguf.GGMLQuantizationType.Q5_1))
    _, weights = model_of(open_gguf(tmp_path / "model.gguf"))
    for name in ("gate_up", "down"):
        weight = weights[f"model.layers.0.mlp.experts.{name}_proj"]
        found = kept(weight)
        assert found is not None
        assert len(weight.shape) == 3
        assert found.shape == (weight.shape[0] * weight.shape[1], weight.shape[2])
        floats = found.materialize().reshape(weight.shape)
        torch.testing.assert_close(floats, weight.materialize(), rtol=1e-6, atol=1e-6)


def test_why_integers_are_not_kept(tmp_path: Path) -> None:
    kinds = {"gate": "Q4_0", "up": "Q8_0"}
    types = {EXPERTS_OF[part]: gguf.GGMLQuantizationType[kind] for part, kind in kinds.items()}
    write(tmp_path / "model.gguf", "qwen3moe", kinds=types)
    _, weights = model_of(open_gguf(tmp_path / "model.gguf"))
    joined, floats = (weights[f"model.layers.0.mlp.experts.{name}_proj"] for name in ("gate_up", "down"))
    assert kept(joined) is None
    assert why_not_kept(joined) == "it is joined of Q4_0 and Q8_0, and integers are of one kind"
    assert why_not_kept(floats) == ""
    strange = weight_of(Tensor("any", gguf.GGMLQuantizationType.IQ2_XXS, (2, 256), np.zeros((2, 66), np.uint8)))
    assert kept(strange) is None
    assert why_not_kept(strange) == "numbers of IQ2_XXS are no integers with scales that weights have"
    whole = weight_of(any_blocks(gguf.GGMLQuantizationType.Q8_0, 2, 1))
    assert why_not_kept(Permute(whole, (1, 0))) == "its rows of Q8_0 are taken apart"
    assert why_not_kept(Concat((whole, Stored(torch.zeros(1, 32))))) == (
        "it is joined of Q8_0 and floats, and integers are of one kind"
    )


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_integers_stand_for_what_ggml_says(kind: gguf.GGMLQuantizationType) -> None:
    """To the last bit, and in panels, too."""
    weight = weight_of(any_blocks(kind, 5, 3))
    found = kept(weight)
    assert found is not None
    floats = weight.materialize()
    assert floats.isfinite().all()
    assert torch.equal(found.materialize(), floats)
    for part in (found.values, found.scales, found.minima):
        values = None if part is None else part.materialize()
        assert part is None or values is None or (tuple(values.shape), values.dtype) == (part.shape, part.dtype)
    form, why = format_of(found, None)
    assert (form, why) == (PANELS[kind.name], "")
    assert torch.equal(from_panels(Panels(found, form, RowOrder()).materialize(), form, *floats.shape), floats)


PANELS = {
    "Q8_0": "q8",
    "Q4_0": "q4",
    "Q4_1": "q4m",
    "Q5_0": "q5",
    "Q5_1": "q5m",
    "IQ4_NL": "q8",
    "IQ4_XS": "q8f",
    "Q2_K": "q2k",
    "Q3_K": "q6k",
    "Q4_K": "q4k",
    "Q5_K": "q5k",
    "Q6_K": "q6k",
}


def test_a_block_of_equal_numbers_has_no_scale(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q4_1
    values = np.full((2, 32), 0.75, np.float32)
    blocks = gguf.quantize(values, kind)
    blocks[1, 4:] = 0x5A  # numbers that stand for nothing where the scale is 0
    weight = weight_of(Tensor("equal", kind, (2, 32), blocks))
    found = kept(weight)
    assert found is not None
    assert found.materialize().tolist() == weight.materialize().tolist() == values.tolist()


def test_half_split() -> None:
    rows = torch.tensor([[0], [1], [2], [3], [10], [11], [12], [13]])  # two heads of two pairs
    assert half_split(Stored(rows), 2).materialize().flatten().tolist() == [0, 2, 1, 3, 10, 12, 11, 13]


# ---------------------------------------------------------------- what can be wrong


def test_rows_that_are_no_heads() -> None:
    with pytest.raises(WeightError, match="6 rows is not one of 4 heads"):
        half_split(Stored(torch.zeros(6, 2)), 4)


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "gguf" else find(name, *a))
    with pytest.raises(UsageError, match=r"pip install 'burnish\[gguf\]'"):
        read_gguf(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes"),
        (b"PK\x03\x04" + bytes(40), "begins with"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1), "truncated in its head"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 2**60), "truncated in its head"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"a", 99), "unknown type 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "architecture is None"),
    ],
)
def test_no_gguf_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(content)
    with pytest.raises(InvalidModelError, match=message) as raised:
        read_gguf(path)
    assert "bad.gguf" in str(raised.value)


def test_truncated(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf")
    content = (tmp_path / "model.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(content[:-200])
    with pytest.raises(WeightError, match=r"cut\.gguf is truncated: the tensor '.*' .* ends at byte \d+, and the file"):
        read_gguf(cut)
    for length in range(24, 3000, 97):
        cut.write_bytes(content[:length])
        with pytest.raises((InvalidModelError, WeightError), match=r"cut\.gguf"):
            read_gguf(cut)


def test_unknown_architecture(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", name="rwkv6")
    with pytest.raises(InvalidModelError, match="'rwkv6'; those that are read: arcee, bloom"):
        read_gguf(tmp_path / "model.gguf")


def test_missing_tensor(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", change=lambda tensors: tensors.pop("blk.1.ffn_up.weight"))
    with pytest.raises(WeightError, match=r"no tensor 'blk\.1\.ffn_up\.weight'.*mlp\.up_proj\.weight' \[64, 32\]"):
        read_gguf(tmp_path / "model.gguf")


def test_no_embedding(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", change=lambda tensors: tensors.pop("token_embd.weight"))
    with pytest.raises(WeightError, match=r"token_embd\.weight"):
        read_gguf(tmp_path / "model.gguf")


def test_wrong_shape(tmp_path: Path) -> None:
    wrong = {"blk.0.ffn_down.weight": np.zeros((32, 96), np.float32)}
    write(tmp_path / "model.gguf", change=lambda tensors: tensors.update(wrong))
    with pytest.raises(WeightError, match=r"'blk\.0\.ffn_down\.weight' is \[32, 96\], and \[32, 64\] is expected"):
        read_gguf(tmp_path / "model.gguf")


def test_tensor_without_a_place(tmp_path: Path) -> None:
    extra = {"blk.0.attn_sinks.weight": np.zeros(4, np.float32)}
    write(tmp_path / "model.gguf", change=lambda tensors: tensors.update(extra))
    with pytest.raises(WeightError, match=r"no place for 1 tensors \(blk\.0\.attn_sinks\.weight\)"):
        read_gguf(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("entry", "value", "message"),
    [
        ("embedding_length", None, "embedding_length is missing"),
        ("attention.head_count", [4, 2], "head_count is list, not one number"),
        ("rope.scaling.type", "longrope", "'longrope'; 'none', 'linear' and 'yarn' are read"),
        ("rope.scaling.type", "yarn", "original_context_length is missing"),
        ("logit_scale", 2.0, "llama.logit_scale is 2.0, which is not read"),
        ("attention.causal", False, "attention.causal is False"),
        ("attention.scale", 0.5, "attention.scale is 0.5"),
        ("rope.dimension_sections", [1, 1, 2, 0], "dimension_sections is"),
        ("somebodys.own", "x", "llama.somebodys.own is 'x', which is not read"),
        ("rope.dimension_count", 4, "dimension_count is 4, but heads have 8"),
        ("expert_count", 8, "expert_used_count is missing"),
        ("block_count", 10**6, "num_hidden_layers=1000000, and there are 21 tensors"),
        ("attention.head_count", 0, "none of the architecture 'llama': .*zero"),
        ("rope.freq_base", "often", "none of the architecture 'llama': .*often"),
    ],
)
def test_settings_that_are_not_read(tmp_path: Path, entry: str, value: Any, message: str) -> None:
    write(tmp_path / "model.gguf", metadata={f"llama.{entry}": value})
    with pytest.raises(InvalidModelError, match=message):
        read_gguf(tmp_path / "model.gguf")


def test_settings_that_change_nothing_are_taken(tmp_path: Path) -> None:
    scale = float(np.float32(8**-0.5))
    same = {"logit_scale": 1.0, "attention.causal": True, "attention.scale": scale, "rope.dimension_sections": [0, 0]}
    layers = {"feed_forward_length": [64, 64], "attention.head_count_kv": [2, 2]}
    entries = {f"llama.{name}": value for name, value in (same | layers).items()}
    model = write(tmp_path / "model.gguf", metadata=entries)
    assert_same(tmp_path / "model.gguf", model)


@pytest.mark.parametrize("entry", ["rope.scale_linear", "rope.scaling.factor"])
def test_linear_scaling_as_files_of_2023_say_it(tmp_path: Path, entry: str) -> None:
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0}
    model = write(tmp_path / "model.gguf", metadata={f"llama.{entry}": 4.0}, sizes={"rope_parameters": rope})
    assert_same(tmp_path / "model.gguf", model)


def test_yarn(tmp_path: Path) -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5000.0, "original_max_position_embeddings": 16}
    entries = {"type": "yarn", "factor": 4.0, "original_context_length": 16}
    said = {f"llama.rope.scaling.{name}": value for name, value in entries.items()}
    model = write(tmp_path / "model.gguf", metadata=said, sizes={"rope_parameters": rope})
    assert_same(tmp_path / "model.gguf", model)


def test_longrope_has_both_sides(tmp_path: Path) -> None:
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope = {"rope_type": "longrope", "rope_theta": 5000.0, "original_max_position_embeddings": 8, **factors}
    tensors = {f"rope_factors_{name[:-7]}.weight": np.array(each, np.float32) for name, each in factors.items()}
    said = {"rope.scaling.original_context_length": 8, "rope.scaling.attn_factor": math.sqrt(1 + math.log(8, 8))}
    entries = {f"phi3.{name}": value for name, value in said.items()}
    path, sizes = tmp_path / "model.gguf", {"rope_parameters": rope, "original_max_position_embeddings": 8}
    model = write(path, "phi3", entries, lambda found: found.update(tensors), sizes=sizes)
    short, long = (read_gguf(path, context=side).program for side in ("short", "long"))
    assert (short.signature.max_length, long.signature.max_length) == (8, 64)
    assert long.signature.longer_than == 8
    torch.testing.assert_close(run(long, [TOKENS])[0], logits(model), atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        expected = model(TOKENS[:, :8], use_cache=False).logits
    torch.testing.assert_close(run(short, [TOKENS[:, :8]])[0], expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(run(long, [TOKENS[:, :8]])[0], expected, atol=1e-2)


def test_half_of_longrope(tmp_path: Path) -> None:
    half = {"rope_factors_long.weight": np.ones(4, np.float32)}
    entries = {"phi3.rope.scaling.original_context_length": 8}
    write(tmp_path / "model.gguf", "phi3", entries, change=lambda tensors: tensors.update(half))
    with pytest.raises(WeightError, match=r"no tensor 'rope_factors_short\.weight', which longrope needs"):
        read_gguf(tmp_path / "model.gguf")
    other = {"rope_factors_short.weight": np.ones(4, np.float32)}
    write(tmp_path / "model.gguf", "phi3", entries, change=lambda tensors: tensors.update(other))
    with pytest.raises(WeightError, match=r"no place for 1 tensors \(rope_factors_short\.weight\)"):
        read_gguf(tmp_path / "model.gguf")


def test_factors_of_a_model_without_rotary_embedding(tmp_path: Path) -> None:
    factors = {"rope_freqs.weight": np.ones(4, np.float32)}
    write(tmp_path / "model.gguf", "gpt2", change=lambda tensors: tensors.update(factors))
    with pytest.raises(WeightError, match=r"no place for 1 tensors \(rope_freqs\.weight\)"):
        read_gguf(tmp_path / "model.gguf")


@pytest.mark.parametrize("alignment", [float("nan"), float("inf"), "32", [32], 0])
def test_an_alignment_that_is_none(tmp_path: Path, alignment: Any) -> None:
    write(tmp_path / "model.gguf", metadata={"general.alignment": alignment})
    with pytest.raises(InvalidModelError, match="alignment is"):
        open_gguf(tmp_path / "model.gguf")


def head(*parts: bytes, tensors: int = 0, entries: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + b"".join(parts) + bytes(64)


def test_arrays_in_arrays_and_tensors_without_elements(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(head(struct.pack("<Q1sI", 1, b"x", 9), struct.pack("<IQ", 9, 1) * 2000, entries=1))
    with pytest.raises(InvalidModelError, match="'x' has arrays in arrays"):
        open_gguf(file)
    file.write_bytes(head(struct.pack("<Q1sIQQIQ", 1, b"x", 2, 1 << 63, 0, 0, 0), tensors=1))
    with pytest.raises(InvalidModelError, match=r"'x' is \[0, 9223372036854775808\], which has no elements"):
        open_gguf(file)


def test_a_type_whose_numbers_are_not_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> None:
        raise NotImplementedError("Dequantization for Q8_1 is not yet implemented")

    write(tmp_path / "model.gguf")
    tensor = open_gguf(tmp_path / "model.gguf").tensors["blk.0.attn_q.weight"]
    monkeypatch.setattr("burnish.frontend.dequantize.dequantize", unknown)
    with pytest.raises(WeightError, match=r"'blk\.0\.attn_q\.weight' is of Q8_1, whose numbers .*pip install -U gguf"):
        weight_of(replace(tensor, kind=gguf.GGMLQuantizationType.Q8_1))
