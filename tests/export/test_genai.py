"""`export(genai=True)`: a folder that onnxruntime-genai generates from."""

from __future__ import annotations

import importlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import burnish
from burnish.ir.errors import UsageError
from burnish.runtime.model import CompiledModel
from tests.export.running import checked
from tests.export.test_models import FLAVORS
from tests.zoo.configs import build
from tests.zoo.weights import randomise

needs_genai = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is None, reason="needs pip install --no-deps onnxruntime-genai"
)
PROMPTS = ["the cat", "a longer sentence"]


def genai_tokens(folder: Path, prompts: list[str], count: int) -> list[tuple[list[int], str]]:
    """The new tokens for each prompt, and their text, greedily: all prompts in one batch."""
    genai: Any = importlib.import_module("onnxruntime_genai")
    model = genai.Model(str(folder))
    tokenizer = genai.Tokenizer(model)
    ids = tokenizer.encode_batch(prompts)
    length = max(len(tokenizer.encode(each)) for each in prompts)
    settings = genai.GeneratorParams(model)
    settings.set_search_options(
        batch_size=len(prompts), max_length=length + count, do_sample=False, repetition_penalty=1.0
    )
    generator = genai.Generator(model, settings)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()
    found = [[int(token) for token in generator.get_sequence(row)[length:]] for row in range(len(prompts))]
    return [(tokens, tokenizer.decode(tokens)) for tokens in found]


def _tokenizer() -> PreTrainedTokenizerFast:
    """Bytes, two joins of them, and a token that ends a text."""
    letters = {letter: number for number, letter in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    joins = [("t", "h"), ("th", "e")]
    vocabulary = letters | {one + other: len(letters) + number for number, (one, other) in enumerate(joins)}
    made = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, joins))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(["<|end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", chat_template="{{ messages }}")


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    config = LlamaConfig(
        vocab_size=259,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        eos_token_id=[258, 257],
    )
    llama = LlamaForCausalLM(config).float().eval()
    randomise(llama, 259, 0)
    compiled: CompiledModel = burnish.compile(llama, tokenizer=_tokenizer(), verify=False)
    return compiled


def test_the_folder_has_what_genai_reads(model: CompiledModel, tmp_path: Path) -> None:
    file = model.export(tmp_path / "folder", genai=True)
    assert file == tmp_path / "folder" / "model.onnx"
    proto = checked(file)
    assert {each.key: each.value for each in proto.metadata_props}["burnish.end_tokens"] == "[258, 257]"
    names = {value.name for value in (*proto.graph.input, *proto.graph.output)}
    config = json.loads((file.parent / "genai_config.json").read_text())
    decoder = config["model"]["decoder"]
    assert decoder["filename"] == "model.onnx"
    told = {name % number if "%d" in name else name for name in decoder["inputs"].values() for number in range(2)}
    told |= {name % number if "%d" in name else name for name in decoder["outputs"].values() for number in range(2)}
    assert told == names
    assert (decoder["num_hidden_layers"], decoder["num_key_value_heads"], decoder["head_size"]) == (2, 2, 16)
    assert (config["model"]["context_length"], config["model"]["eos_token_id"]) == (128, [258, 257])
    assert tokenizers.Tokenizer.from_file(str(file.parent / "tokenizer.json")).encode("the").ids == [257]
    settings = json.loads((file.parent / "tokenizer_config.json").read_text())
    assert (settings["eos_token"], settings["chat_template"]) == ("<|end|>", "{{ messages }}")


def test_a_file_by_name_has_the_others_beside_it(model: CompiledModel, tmp_path: Path) -> None:
    model.export(tmp_path / "tiny.onnx", "ort", genai=True)
    assert json.loads((tmp_path / "genai_config.json").read_text())["model"]["decoder"]["filename"] == "tiny.onnx"


@needs_genai
@pytest.mark.parametrize("flavor", FLAVORS)
def test_genai_gives_our_tokens(model: CompiledModel, flavor: Any, tmp_path: Path) -> None:
    """Also of prompts of unequal lengths, one of which it pads."""
    model.export(tmp_path, flavor, genai=True)
    found = [tokens for tokens, _ in genai_tokens(tmp_path, PROMPTS, 40)]
    assert found == [list(row) for row in model.generate(PROMPTS, max_new_tokens=40, do_sample=False).tokens]


def test_what_genai_cannot_run_is_refused_by_name(tmp_path: Path) -> None:
    silent = burnish.compile(build("llama"), max_length=64, verify=False)
    with pytest.raises(UsageError, match="has no tokenizer: compile the model with tokenizer="):
        silent.export(tmp_path, genai=True)
    hybrid = burnish.compile(build("lfm2"), max_length=64, tokenizer=_tokenizer(), verify=False)
    hybrid.artifact.manifest.generation["eos_token_id"] = 258
    with pytest.raises(UsageError, match=r"remembers past\.window_2 \(window, .*keys and values alone"):
        hybrid.export(tmp_path, genai=True)
    del hybrid.artifact.manifest.generation["eos_token_id"]
    with pytest.raises(UsageError, match="names no token that ends a text"):
        hybrid.export(tmp_path, genai=True)
    assert not list(tmp_path.iterdir())
