"""ONNX decoders, with caches and without, are language models; what only looks like one is a graph, for a reason."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import burnish
from burnish.frontend.onnx.decoder import NoDecoder, decoder_of
from burnish.frontend.onnx.language_model import open_onnx, read_decoder
from burnish.frontend.onnx.module import OnnxModule
from burnish.ir.errors import UsageError
from burnish.runtime.compiled_module import CompiledModule
from burnish.runtime.model import CompiledModel
from tests.frontend.onnx.models import FLOAT, INT64, model, module, node, tensor, value
from tests.onnx.exporters import EXAMPLES, write

VOCABULARY, WIDTH = 12, 8


def weights(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cached(
    *,
    mixes: str = "causal",
    past: Sequence[Any] = ("batch", "past", WIDTH),
    names: tuple[str, str] = ("past_key_values.0.key", "present.0.key"),
) -> onnx.ModelProto:
    """A layer that sums up what was embedded so far, by way of a cache of all of it: CumSum over past and new."""
    cached_in, cached_out = names
    nodes = [
        node("Gather", ["table", "input_ids"], ["embedded"]),
        node("Concat", [cached_in, "embedded"], ["all"], axis=1),
        node("Neg" if mixes == "forgets" else "Identity", ["all"], [cached_out]),
        node("CumSum", ["all", "one"], ["sums"], **({"reverse": 1} if mixes == "later" else {})),
        node("Shape", ["input_ids"], ["count"], start=1, end=2),
        node("Neg", ["count"], ["from"]),
        node("Slice", ["sums", "from", "end", "axes"], ["new"]),
        node("MatMul", ["new", "head"], ["logits"]),
    ]
    inputs = [value("input_ids", ["batch", "sequence"], INT64), value(cached_in, past)]
    outputs = [value("logits", ["batch", "sequence", VOCABULARY]), value(cached_out, ["batch", "total", WIDTH])]
    tensors = [
        tensor("table", weights(VOCABULARY, WIDTH)), tensor("head", weights(WIDTH, VOCABULARY, seed=1)),
        tensor("one", np.int64(1)), tensor("end", np.array([2**60])), tensor("axes", np.array([1])),
    ]  # fmt: skip
    return model(nodes, inputs, outputs, tensors)


def logits_of(ids: Tensor) -> Tensor:
    table, head = torch.from_numpy(weights(VOCABULARY, WIDTH)), torch.from_numpy(weights(WIDTH, VOCABULARY, seed=1))
    return nn.functional.embedding(ids, table).cumsum(1) @ head


@pytest.mark.parametrize(
    "names",
    [("past_key_values.0.key", "present.0.key"), ("past_0", "present_0"), ("cache_in", "cache_out"), ("a", "b")],
)
def test_a_cache_begins_empty_and_becomes_a_state(names: tuple[str, str], tmp_path: Path) -> None:
    onnx.save(cached(names=names), tmp_path / "sums.onnx")
    with burnish.compile(tmp_path / "sums.onnx", max_length=32) as compiled:
        assert isinstance(compiled, CompiledModel)
        ids = torch.randint(VOCABULARY, (2, 9))
        torch.testing.assert_close(compiled(ids), logits_of(ids), rtol=1e-4, atol=1e-4)
        assert [state.name for state in compiled.artifact.program().states] != []
        prompt = [1, 2, 3]
        for _ in range(8):
            prompt.append(int(logits_of(torch.tensor([prompt]))[0, -1].argmax()))
        assert list(compiled.generate([[1, 2, 3]], max_new_tokens=8).tokens[0]) == prompt[3:]


def test_the_width_of_a_cache_that_the_file_leaves_open_is_found() -> None:
    found = decoder_of(module(cached(past=("batch", "past_sequence_length", "width"))))
    assert [(each.rows, each.grows, each.width) for each in found.past] == [(0, 1, WIDTH)]


@pytest.mark.parametrize(
    ("proto", "reason"),
    [
        (cached(mixes="later"), "its logits change with later tokens"),
        (cached(past=("batch", "past", "width", 3)), "no size was found for the open axes of"),
        (cached(past=("batch", 4, WIDTH)), "cannot be given back to it as"),
        (cached(mixes="forgets"), "has other logits than the text at once"),
    ],
)
def test_what_only_looks_like_a_decoder(proto: onnx.ModelProto, reason: str | None) -> None:
    with pytest.raises(NoDecoder, match=reason):
        decoder_of(module(proto))


def test_a_cache_that_nothing_gives_back_is_no_decoder() -> None:
    proto = cached()
    del proto.graph.output[1]
    with pytest.raises(
        NoDecoder, match=r"past_key_values.0.key: float\[batch, past, 8\], which a text does not settle"
    ):
        decoder_of(module(proto))


def test_an_encoder_is_a_graph_and_says_why_it_takes_no_options_of_language_models(tmp_path: Path) -> None:
    write("encoder", tmp_path / "encoder.onnx", newer=True)
    with burnish.compile(tmp_path / "encoder.onnx") as compiled:
        assert isinstance(compiled, CompiledModule)
    with pytest.raises(
        UsageError, match=r"max_length= is for language models: encoder\.onnx is compiled as a graph, as "
    ):
        burnish.compile(tmp_path / "encoder.onnx", max_length=16)


@pytest.mark.parametrize("newer", [False, True])
def test_a_decoder_of_torchs_exporters_is_raised_and_incremental(newer: bool, tmp_path: Path) -> None:
    write("llama", tmp_path / "llama.onnx", newer)
    torch.manual_seed(0)
    eager = EXAMPLES["llama"].make().eval()
    with burnish.compile(tmp_path / "llama.onnx", max_length=32) as compiled:
        ids = torch.randint(50, (2, 9))
        with torch.no_grad():
            torch.testing.assert_close(compiled(ids), eager(ids), rtol=1e-4, atol=1e-4)
        fired = {record.name for record in compiled.trace.passes if record.rewrites}
        assert {"raise-attention", "raise-norms", "raise-rotary", "raise-activations", "insert-states"} <= fired


def test_what_lies_beside_a_file_is_read(tmp_path: Path) -> None:
    onnx.save(cached(), tmp_path / "model.onnx")
    config = {"model": {"context_length": 48, "eos_token_id": [3, 4]}, "search": {}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.5, "do_sample": False}))
    source = read_decoder(open_onnx(tmp_path / "model.onnx"), None, None)
    assert source.program.signature.max_length == 48
    assert source.generation == {"eos_token_id": [3, 4], "temperature": 0.5, "do_sample": False}
    assert source.name == tmp_path.name


def packed(bits: int, block: int, zeros: str) -> tuple[onnx.ModelProto, OnnxModule]:
    """A product by a weight of MatMulNBits behind an embedding."""
    rows, columns = VOCABULARY, 2 * block
    random = np.random.default_rng(bits * block)
    blob = block * bits // 8
    nodes = [
        node("Gather", ["table", "input_ids"], ["embedded"]),
        node(
            "MatMulNBits", ["embedded", "packed", "scales", *([] if zeros == "none" else ["zeros"])], ["logits"],
            domain="com.microsoft", N=rows, K=columns, bits=bits, block_size=block,
        ),
    ]  # fmt: skip
    tensors = [
        tensor("table", weights(VOCABULARY, columns)),
        tensor("packed", random.integers(0, 256, (rows, 2, blob), dtype=np.uint8)),
        tensor("scales", random.random((rows, 2), dtype=np.float32) + 0.5),
    ]
    if zeros == "integers":
        tensors.append(tensor("zeros", random.integers(0, 256, (rows, -(-2 * bits // 8)), dtype=np.uint8)))
    elif zeros == "floats":
        tensors.append(tensor("zeros", random.random((rows, 2), dtype=np.float32)))
    proto = model(
        nodes, [value("input_ids", ["batch", "sequence"], INT64)],
        [value("logits", ["batch", "sequence", VOCABULARY], FLOAT)], tensors, domains=["com.microsoft"],
    )  # fmt: skip
    return proto, module(proto)


@pytest.mark.parametrize("zeros", ["none", "integers"])
@pytest.mark.parametrize("block", [16, 32, 128])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_weights_stay_integers_and_are_what_the_operator_computes(bits: int, block: int, zeros: str) -> None:
    _, built = packed(bits, block, zeros)
    ids = torch.arange(VOCABULARY).unsqueeze(0)
    (expected,) = built(ids)
    ((path, weight),) = built.widen_packed().items()
    assert path == "packed_floats"
    assert weight.source is not None or (bits == 8 and zeros != "none")  # type: ignore[attr-defined]
    table = torch.from_numpy(weights(VOCABULARY, 2 * block))
    torch.testing.assert_close(table[ids] @ weight.materialize().T, expected)
    (again,) = built(ids)  # which is not changed but in traces
    torch.testing.assert_close(again, expected)


def test_packed_weights_of_other_forms_are_computed() -> None:
    _, built = packed(4, 32, "floats")
    assert built.widen_packed() == {}


def test_a_decoder_of_packed_weights(tmp_path: Path) -> None:
    proto, built = packed(4, 32, "integers")
    onnx.save(proto, tmp_path / "packed.onnx")
    ids = torch.randint(VOCABULARY, (2, 5))
    with burnish.compile(tmp_path / "packed.onnx", max_length=16) as compiled:
        torch.testing.assert_close(compiled(ids), built(ids)[0], rtol=1e-4, atol=1e-4)
        assert any(record.name == "keep-integers" and record.rewrites for record in compiled.trace.passes)


def grouped(softcap: float, window: int) -> onnx.ModelProto:
    """One attention over shared heads, as onnxruntime-genai's builder writes it; its table is tied, on its side."""
    heads, shared, size = 4, 2, 8
    width = heads * size
    scale = np.float32(width**-0.5)  # scores of usual size, whose softmax has no more rounding than they
    nodes = [
        node("Transpose", ["head"], ["table"], perm=[1, 0]),
        node("Gather", ["table", "input_ids"], ["embedded"]),
        *(node("MatMul", ["embedded", f"w{each}"], [each]) for each in "qkv"),
        node("ReduceSum", ["attention_mask", "one"], ["counts"], keepdims=1),
        node("Sub", ["counts", "one"], ["last"]),
        node("Cast", ["last"], ["lengths"], to=onnx.TensorProto.INT32),
        node("Shape", ["attention_mask"], ["all"], start=1, end=2),
        node("Cast", ["all"], ["total"], to=onnx.TensorProto.INT32),
        node(
            "GroupQueryAttention",
            ["q", "k", "v", "past_key_values.0.key", "past_key_values.0.value", "lengths", "total"],
            ["mixed", "present.0.key", "present.0.value"],
            domain="com.microsoft", num_heads=heads, kv_num_heads=shared, softcap=softcap, local_window_size=window,
        ),
        node("MatMul", ["mixed", "head"], ["logits"]),
    ]  # fmt: skip
    caches = [("past_key_values", "past"), ("present", "total_length")]
    past, present = (
        [value(f"{name}.0.{kind}", ["batch", shared, axis, "width"]) for kind in ("key", "value")]
        for name, axis in caches
    )
    tensors = [
        tensor("head", scale * weights(width, VOCABULARY)), tensor("wq", scale * weights(width, width, seed=1)),
        tensor("wk", scale * weights(width, shared * size, seed=2)),
        tensor("wv", scale * weights(width, shared * size, seed=3)),
        tensor("one", np.array([1])),
    ]  # fmt: skip
    ids = [value("input_ids", ["batch", "sequence"], INT64), value("attention_mask", ["batch", "total_length"], INT64)]
    return model(
        nodes, [*ids, *past], [value("logits", ["batch", "sequence", VOCABULARY]), *present], tensors,
        domains=["com.microsoft"],
    )  # fmt: skip


@pytest.mark.parametrize("window", [-1, 4])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_a_grouped_attention_is_raised(softcap: float, window: int, tmp_path: Path) -> None:
    proto = grouped(softcap, window)
    onnx.save(proto, tmp_path / "grouped.onnx")
    ids = torch.randint(VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    built = module(proto)
    expected = decoder_of(built)(built, ids)
    with burnish.compile(tmp_path / "grouped.onnx", max_length=32) as compiled:
        torch.testing.assert_close(compiled(ids), expected, rtol=1e-4, atol=1e-4)
        (raised,) = [record for record in compiled.trace.passes if record.name == "raise-attention"]
    (told,) = [entry.text for entry in raised.rewrites]
    assert told.startswith("attention, 4 query heads, 2 KV heads, mask ")
    assert ("causal" if window < 0 else "window of 4") in told
