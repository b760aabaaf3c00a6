"""Folders: what is read equals what transformers loads, and each thing that can be wrong is named."""

import json
import logging
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

from burnish.frontend import hugging_face
from burnish.frontend.folder import read_folder
from burnish.frontend.source import Source
from burnish.ir.errors import InvalidModelError, UsageError, WeightError
from burnish.ir.interpreter import run
from burnish.ir.weights import Cast, Stored
from burnish.runtime.tokenization import Tokenizer

SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
TOKENS = torch.tensor([[1, 5, 9, 33, 59, 2, 7], [3, 3, 0, 41, 8, 22, 10]])


def small_llama(tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=tied))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "small"
    small_llama().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def source(saved: Path) -> Source:
    return read_folder(saved)


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(saved, tmp_path / "small"))


def assert_as_loaded(folder: Path, source: Source, **options: object) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **options)
    with torch.no_grad():
        expected = loaded(TOKENS, use_cache=False).logits
    torch.testing.assert_close(run(source.program, [TOKENS])[0], expected, atol=1e-4, rtol=1e-4)


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_equals_what_transformers_loads(saved: Path, source: Source) -> None:
    assert_as_loaded(saved, source)
    assert source.name == "small"
    assert source.generation["eos_token_id"] == 2
    assert source.tokenizer is None
    assert source.program.signature.max_length == 64


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_weights_are_views_of_the_file(saved: Path, source: Source) -> None:
    maps = [line.split(maxsplit=5) for line in Path("/proc/self/maps").read_text().splitlines()]
    ranges = [line[0].split("-") for line in maps if line[-1] == str(saved / "model.safetensors")]
    places = [(int(start, 16), int(end, 16)) for start, end in ranges]
    parameters = [weight for name, weight in source.program.weights.items() if name.endswith("proj.weight")]
    assert len(parameters) == 7
    for weight in parameters:
        assert isinstance(weight, Stored)
        assert any(start <= weight.tensor.data_ptr() < end for start, end in places)


def test_tied_embeddings_are_one_weight(tmp_path: Path) -> None:
    small_llama(tied=True).save_pretrained(tmp_path)
    source = read_folder(tmp_path)
    assert len({"lm_head.weight", "model.embed_tokens.weight"} & set(source.program.weights)) == 1
    assert_as_loaded(tmp_path, source)


def test_tied_embeddings_that_differ(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    with caplog.at_level(logging.INFO, "burnish"):
        source = read_folder(folder)
    assert "which differ" in caplog.text
    assert_as_loaded(folder, source)


def test_shards(tmp_path: Path) -> None:
    small_llama().save_pretrained(tmp_path, max_shard_size="20KB")
    assert not (tmp_path / "model.safetensors").exists()
    assert_as_loaded(tmp_path, read_folder(tmp_path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(
    tmp_path: Path, dtype: torch.dtype, caplog: pytest.LogCaptureFixture
) -> None:
    small_llama().to(dtype).save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, "burnish"):
        source = read_folder(tmp_path)
    assert str(dtype).removeprefix("torch.") in caplog.text
    weight = source.program.weights["model.layers.0.mlp.up_proj.weight"]
    assert isinstance(weight, Cast)
    assert weight.source.dtype is dtype
    assert source.program.signature.logits_dtype is torch.float32
    assert_as_loaded(tmp_path, source)


def test_converted_experts_are_loaded_by_transformers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)).save_pretrained(tmp_path)
    with caplog.at_level(logging.INFO, "burnish"):
        source = read_folder(tmp_path)
    assert "loaded into memory by transformers" in caplog.text
    assert_as_loaded(tmp_path, source)


def test_names_without_the_prefix_of_the_base_model(folder: Path) -> None:
    def shorten(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.startswith("model.")]:
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    edit(folder, shorten)
    assert_as_loaded(folder, read_folder(folder))


def test_tokenizer_and_chat_template(folder: Path) -> None:
    vocabulary = {"<s>": 0, "</s>": 1, "hello": 2, "world": 3, "<unk>": 4}
    backend = Backend(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(folder)
    data = read_folder(folder).tokenizer
    assert data is not None
    read = Tokenizer(data)
    assert read.encode("hello world") == [2, 3]
    assert read.chat_text([{"role": "user", "content": "hello"}]) == "<s>hello"


def test_a_tokenizer_of_sentencepiece_alone(folder: Path, tmp_path: Path) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    (tmp_path / "text").write_text("the quick brown fox jumps over the lazy dog, and again\n" * 9)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=320,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    data = read_folder(folder).tokenizer
    assert data is not None
    expected = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model"))
    for text in ("the lazy fox", "again, über"):
        assert Tokenizer(data).encode(text)[-5:] == expected.encode(text)[-5:]


def test_packages_that_a_tokenizer_needs_are_named_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "tokenizer.model").write_bytes(b"")
    monkeypatch.setattr(hugging_face, "_is_there", lambda package: package == "protobuf")
    monkeypatch.setattr("burnish.frontend.folder.capture_model", None)  # which takes long
    says = (
        r"has its tokenizer as tokenizer\.model alone, .* takes sentencepiece: pip install 'burnish\[sentencepiece\]'"
    )
    for read in (lambda: read_folder(folder), lambda: hugging_face.tokenizer_data(folder)):
        with pytest.raises(UsageError, match=says):
            read()
    monkeypatch.setattr(hugging_face, "_is_there", lambda package: True)
    hugging_face.check_packages(folder)


def test_generation_config(folder: Path) -> None:
    (folder / "generation_config.json").write_text(
        json.dumps({"eos_token_id": [2, 7], "temperature": 0.6, "do_sample": True})
    )
    generation = read_folder(folder).generation
    assert generation["eos_token_id"] == [2, 7]
    assert generation["temperature"] == 0.6


# ---------------------------------------------------------------- what can be wrong


def test_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(InvalidModelError, match=r"no config\.json"):
        read_folder(folder)


@pytest.mark.parametrize("text", ['{"model_type": "no_such_model"}', "{", '{"model_type": "t5"}', "{}"])
def test_unknown_configuration(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(InvalidModelError, match="small"):
        read_folder(folder)


def test_code_in_the_folder_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")
    with pytest.raises(InvalidModelError):
        read_folder(folder)
    assert not (folder / "ran").exists()


def test_floats_that_are_said_to_be_quantized(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = json.loads((folder / "config.json").read_text())
    settings = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (folder / "config.json").write_text(json.dumps(config | settings))
    with caplog.at_level(logging.INFO, "burnish"):
        source = read_folder(folder)
    assert "says that it is quantized by gptq, and none of its weights is" in caplog.text
    (folder / "config.json").write_text(json.dumps(config))
    assert_as_loaded(folder, source)


def test_pickled_weights_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InvalidModelError, match=r"pytorch_model\.bin.*pickled"):
        read_folder(folder)


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(InvalidModelError, match=r"neither model\.safetensors nor"):
        read_folder(folder)


def test_missing_shard(tmp_path: Path) -> None:
    small_llama().save_pretrained(tmp_path, max_shard_size="20KB")
    lost = sorted(tmp_path.glob("model-*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(WeightError, match=rf"{lost.name} is missing"):
        read_folder(tmp_path)


def test_shard_outside_the_folder(tmp_path: Path) -> None:
    small_llama().save_pretrained(tmp_path / "model", max_shard_size="20KB")
    path = tmp_path / "model" / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["lm_head.weight"] = "../other.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(WeightError, match="not in the folder"):
        read_folder(tmp_path / "model")


def test_tensor_that_the_shard_does_not_have(tmp_path: Path) -> None:
    small_llama().save_pretrained(tmp_path, max_shard_size="20KB")
    path = tmp_path / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.extra"] = index["weight_map"]["lm_head.weight"]
    path.write_text(json.dumps(index))
    with pytest.raises(WeightError, match=r"no tensor 'model\.extra'"):
        read_folder(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 200, -1])
def test_truncated_file(folder: Path, kept: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(WeightError, match=r"model\.safetensors") as raised:
        read_folder(folder)
    assert f"{path.stat().st_size} bytes" in str(raised.value)
    if kept == -1:
        assert "model.norm.weight" in str(raised.value)  # the last one


def test_missing_tensor(folder: Path) -> None:
    edit(folder, lambda tensors: tensors.pop("model.layers.0.mlp.up_proj.weight"))
    with pytest.raises(WeightError, match=r"no tensor 'model\.layers\.0\.mlp\.up_proj\.weight'.*\[48, 32\]"):
        read_folder(folder)


def test_missing_tensor_among_others_of_other_names(folder: Path) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["something"] = tensors.pop("model.norm.weight")

    edit(folder, change)
    with pytest.raises(WeightError, match=r"no tensor 'model\.norm\.weight'.*\[32\]"):
        read_folder(folder)


def test_wrong_shape(folder: Path) -> None:
    name = "model.layers.0.self_attn.k_proj.weight"
    edit(folder, lambda tensors: tensors.update({name: torch.zeros(24, 32)}))
    with pytest.raises(WeightError, match=r"k_proj\.weight' is \[24, 32\], and \[16, 32\] is expected"):
        read_folder(folder)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8])
def test_numbers_that_have_scales(folder: Path, dtype: torch.dtype) -> None:
    """They would be taken for what they stand for, where config.json does not say that there are any."""
    name = "model.layers.0.self_attn.k_proj.weight"
    scales = {name + "_scale": torch.ones(1)}
    edit(folder, lambda tensors: tensors.update({name: tensors[name].to(dtype), **scales}))
    with pytest.raises(WeightError, match=rf"k_proj\.weight' is of {str(dtype)[6:]}, .* scales that are not read"):
        read_folder(folder)


def test_wrong_shape_in_a_converted_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)).save_pretrained(tmp_path)
    edit(tmp_path, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(61, 32)}))
    with pytest.raises(WeightError, match=r"lm_head\.weight"):
        read_folder(tmp_path)


def test_more_tokens_than_the_model_takes(saved: Path) -> None:
    with pytest.raises(UsageError, match="65"):
        read_folder(saved, max_length=65)
