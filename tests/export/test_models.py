"""`compiled.export`: language models that plain ONNX Runtime generates from, as the compiled model does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import burnish
from burnish.ir.errors import UsageError, VerificationError
from burnish.passes.transforms.quantize_cache import QuantizeCache
from burnish.runtime.model import CompiledModel, load
from burnish.runtime.states import StateKind
from tests import captures
from tests.export.running import Exported, checked
from tests.runtime.tiny import save_tiny
from tests.zoo.configs import build

FLAVORS = ("standard", "ort")
TYPES = ("llama", "mistral", "gemma3_text", "qwen3", "gpt2", "phi3", "olmo2", "gpt_neox")
PROMPT = [5, 17, 33, 8]


@pytest.fixture(scope="module")
def compiled() -> Callable[..., CompiledModel]:
    """Models of the zoo, each compiled once."""
    known: dict[Any, CompiledModel] = {}

    def made(model_type: str, **options: Any) -> CompiledModel:
        key = (model_type, *map(str, options.items()))
        if key not in known:
            known[key] = burnish.compile(build(model_type), max_length=96, verify=False, **options)
        return known[key]

    return made


def _tokens(model: CompiledModel, count: int) -> list[int]:
    return list(model.generate(PROMPT, max_new_tokens=count, do_sample=False, eos_token_id=[]).tokens[0])


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("model_type", TYPES)
def test_greedy_tokens_are_ours(compiled: Any, model_type: str, flavor: str, tmp_path: Path) -> None:
    model = compiled(model_type)
    file = model.export(tmp_path / "out.onnx", flavor)
    proto = checked(file)
    assert Exported(file).greedy(PROMPT, 64) == _tokens(model, 64)
    domains = {node.domain for node in proto.graph.node}
    assert domains == ({""} if flavor == "standard" else {"", "com.microsoft"})
    attention = "Attention" if flavor == "standard" else "GroupQueryAttention"
    assert sum(node.op_type == attention for node in proto.graph.node) == len(model.artifact.states) // 2


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize(
    ("model_type", "options"),
    [
        ("bloom", {}),  # slopes
        ("falcon", {}),  # one head of keys
        ("gemma2", {}),  # soft caps
        ("gpt_oss", {}),  # sinks, experts
        ("lfm2", {}),  # windows of convolutions
        ("roberta", {}),  # an accumulator
        ("llama", {"quantize": "int4"}),
        ("llama", {"quantize": "int8", "backend": "onnxruntime"}),
        ("llama", {"quantize": "fp8"}),
        ("llama", {"dtype": torch.bfloat16}),
        ("llama", {"backend": "reference"}),
        ("llama", {"transforms": (QuantizeCache("int8"),)}),
        ("llama", {"transforms": (QuantizeCache("fp8"),), "backend": "onnxruntime"}),
    ],
    ids=str,
)
def test_what_is_exported_was_compared(
    compiled: Any, model_type: str, options: dict[str, Any], flavor: str, tmp_path: Path
) -> None:
    """In pieces and with padding: VerificationError else."""
    checked(compiled(model_type, **options).export(tmp_path / "out.onnx", flavor))


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_compiled_again_it_gives_the_same(compiled: Any, model_type: str, flavor: str, tmp_path: Path) -> None:
    """Its pasts become states of ours again, those with a window rings."""
    model = compiled(model_type)
    file = model.export(tmp_path / "out.onnx", flavor)
    with captures.anew():  # modules made of ONNX files have parts that lead back to themselves
        again = burnish.compile(str(file), max_length=96)
    ids = torch.randint(0, 131, (2, 40), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(again(ids), model(ids), rtol=1e-3, atol=1e-3)
    kinds = [[state.kind for state in each.artifact.states] for each in (again, model)]
    assert kinds[0] == kinds[1]
    assert _tokens(again, 16) == _tokens(model, 16)


def test_names_of_inputs_outputs_and_metadata(compiled: Any, tmp_path: Path) -> None:
    model = compiled("llama")
    file = model.export(tmp_path / "out.onnx")
    proto = checked(file)
    pasts = [f"past_key_values.{number}.{role}" for number in range(2) for role in ("key", "value")]
    presents = [f"present.{number}.{role}" for number in range(2) for role in ("key", "value")]
    assert [each.name for each in proto.graph.input] == ["input_ids", "attention_mask", *pasts]
    assert [each.name for each in proto.graph.output] == ["logits", *presents]
    shapes = {
        each.name: [size.dim_param or size.dim_value for size in each.type.tensor_type.shape.dim]
        for each in (*proto.graph.input, *proto.graph.output)
    }
    total = "past_sequence_length + sequence_length"
    assert shapes["input_ids"] == ["batch_size", "sequence_length"]
    assert shapes["attention_mask"] == ["batch_size", total]
    assert shapes[pasts[0]] == ["batch_size", 2, "past_sequence_length", 16]
    assert shapes[presents[0]] == ["batch_size", 2, total, 16]
    assert shapes["logits"] == ["batch_size", "sequence_length", 131]
    told = {each.key: each.value for each in proto.metadata_props}
    assert json.loads(told["burnish.limits"]) == {
        "max_length": 96,
        "vocabulary": 131,
        "token_limit": 131,
        "longer_than": 0,
    }
    assert told["burnish.flavor"] == "standard"
    assert json.loads(told["burnish.states"])[0] == {
        "past": "past_key_values.0.key",
        "present": "present.0.key",
        "kind": "cache",
        "axis": 2,
        "shape": ["batch_size", 2, "past_sequence_length", 16],
        "dtype": "float32",
        "module": "model.layers.0.self_attn",
    }
    names = {node.name for node in proto.graph.node}
    assert len(names) == len(proto.graph.node)
    assert {
        "/model/layers.0/input_layernorm/RMSNormalization",
        "/model/layers.1/self_attn/Attention",
        "/model/layers.1/self_attn/q_proj+k_proj+v_proj/MatMul",
        "/model/layers.1/mlp/down_proj/MatMul",
        "/lm_head/MatMul",
    } <= names
    by_name = {node.name: node for node in proto.graph.node}
    spaces = {each.key: each.value for each in by_name["/model/layers.1/self_attn/Attention"].metadata_props}
    assert spaces["namespace"] == "model/layers.1/self_attn"


def test_other_states_have_readable_names(tmp_path: Path) -> None:
    """A ring that becomes a past that grows, and an accumulator, which keeps rows from being padded."""
    path, made = save_tiny(tmp_path, StateKind.RING)
    file = load(path).export(tmp_path / "out.onnx")
    exported = Exported(file)
    assert exported.takes == ["input_ids", "past.memory", "past.total"]
    assert [(each["kind"], each["shape"]) for each in exported.states] == [
        ("ring", ["batch_size", 1, "past_sequence_length", 8]),
        ("accumulator", ["batch_size", 1, 8]),
    ]
    ids = torch.randint(0, 300, (1, 12), generator=torch.Generator().manual_seed(0))
    found = np.concatenate([exported(part) for part in np.split(ids.numpy(), [5, 6], axis=1)], axis=1)
    np.testing.assert_allclose(found, made.whole(ids).numpy(), rtol=1e-4, atol=1e-4)
    assert exported.pasts["past.memory"].shape == (1, 1, 12, 8)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_tokens_in_between_may_be_masked(compiled: Any, flavor: str, tmp_path: Path) -> None:
    model = compiled("llama")
    ids = np.random.default_rng(0).integers(0, 131, (1, 10))
    mask = np.array([[1, 1, 0, 1, 1, 0, 0, 1, 1, 1]])
    kept = mask.astype(bool)
    found = Exported(model.export(tmp_path / "out.onnx", flavor))(ids, mask)[kept]
    wanted = model(torch.from_numpy(ids[kept][None])).numpy()[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("model_type", ["mistral", "bloom"])
def test_what_asks_how_far_apart_tokens_are_refuses_masks_in_between(
    compiled: Any, model_type: str, tmp_path: Path
) -> None:
    exported = Exported(compiled(model_type).export(tmp_path / "out.onnx"))
    with pytest.raises(Exception, match="out of data bounds"):  # ONNX Runtime's exceptions have no common base
        exported(np.ones((1, 4), np.int64), np.array([[1, 0, 1, 1]]))


@pytest.mark.parametrize("flavor", FLAVORS)
def test_large_weights_lie_beside_it(
    compiled: Any, flavor: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compiled("llama")
    monkeypatch.setattr("burnish.export.files._LARGEST_ALONE", 1000)
    file = model.export(tmp_path / "out.onnx", flavor)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    places = {entry.value for each in checked(file).graph.initializer for entry in each.external_data[:1]}
    assert places == {"out.onnx.data"}
    assert Exported(file).greedy(PROMPT, 8) == _tokens(model, 8)
    monkeypatch.undo()
    model.export(file, flavor)
    assert [each.name for each in tmp_path.iterdir()] == ["out.onnx"]


@pytest.mark.parametrize("flavor", FLAVORS)
@pytest.mark.parametrize(
    ("compiled_for", "loaded", "level"),
    [
        ("native", {"accuracy": "fast"}, 1),  # an exported model has no such choice: as "exact"
        ("onnxruntime", {}, 4),
        ("onnxruntime", {"backend": "reference"}, 1),
    ],
    ids=str,
)
def test_with_integers_it_multiplies_as_the_compiled_model_does(
    compiled: Any, compiled_for: str, loaded: dict[str, Any], level: int, flavor: str, tmp_path: Path
) -> None:
    compiled("llama", quantize="int4", backend=compiled_for).save(tmp_path / "model.burnish")
    with burnish.load(tmp_path / "model.burnish", **loaded) as model:
        proto = checked(model.export(tmp_path / "out.onnx", flavor))
    levels = {each.i for node in proto.graph.node for each in node.attribute if each.name == "accuracy_level"}
    assert levels == ({level} if flavor == "ort" else set())


def test_a_wrong_file_is_not_written(compiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = compiled("llama")
    (tmp_path / "out.onnx").write_text("what was there")
    monkeypatch.setattr("burnish.codegen.onnx.standard._INT8_ZERO", 120)
    quantized = compiled("llama", quantize="int8")
    with pytest.raises(VerificationError, match="differs in pieces"):
        quantized.export(tmp_path / "out.onnx")
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("out.onnx", "what was there")]
    assert model.export(tmp_path / "new" / "out.onnx", verify=False).exists()


def test_refusals(compiled: Any, tmp_path: Path) -> None:
    model = compiled("llama")
    with pytest.raises(UsageError, match="there is no flavor 'cuda': there are standard and ort"):
        model.export(tmp_path / "out.onnx", "cuda")
    with pytest.raises(UsageError, match=r"out should end with \.onnx"):
        model.export(tmp_path / "out")
    manifest = model.artifact.manifest
    target, manifest.target = manifest.target, "triton"
    try:
        with pytest.raises(UsageError, match=r"compiled for GPUs.*burnish compile MODEL --target cpu"):
            model.export(tmp_path / "out.onnx")
    finally:
        manifest.target = target


def test_what_the_guide_shows(compiled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide.md").read_text(encoding="utf-8")
    code = guide.partition("## For others, as ONNX")[2].partition("```python\n")[2].partition("```")[0]
    model = compiled("llama")
    model.export(tmp_path / "out.onnx")
    monkeypatch.chdir(tmp_path)
    shown: dict[str, Any] = {}
    exec(code, shown)
    assert shown["tokens"] == PROMPT + _tokens(model, 16)
