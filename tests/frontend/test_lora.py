"""Adapters: merged as peft's formulas say, with whatever they need; or refused, with the command that works."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, MixtralConfig, MixtralForCausalLM

from burnish.frontend import read
from burnish.ir.errors import InvalidModelError, WeightError
from burnish.ir.interpreter import run
from burnish.ir.panels import stored_dtype
from tests.frontend.test_folder import SIZES, TOKENS, small_llama

RANK, ALPHA = 4, 6
UP, QUERY = "model.layers.0.mlp.up_proj", "model.layers.0.self_attn.q_proj"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    small_llama().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def factors(module: str, outputs: int, inputs: int, rank: int = RANK, kind: str = "lora_") -> dict[str, Tensor]:
    torch.manual_seed(len(module))
    suffix = "" if "embedding" in kind else ".weight"
    return {
        f"base_model.model.{module}.{kind}A{suffix}": torch.randn(rank, inputs),
        f"base_model.model.{module}.{kind}B{suffix}": torch.randn(outputs, rank),
    }


def write(folder: Path, base: Path | str, tensors: dict[str, Tensor], **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    said = {"peft_type": "LORA", "base_model_name_or_path": str(base), "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(said | config))
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder


def assert_merged(folder: Path, base: Path, change: Callable[[dict[str, Tensor]], None], untied: bool = False) -> None:
    """What is read is the base model with its weights changed so."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    if untied:
        config = model.config
        config.tie_word_embeddings = False
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model = type(model)(config).eval()
        model.load_state_dict(state)
    with torch.no_grad():
        before = model(TOKENS).logits
        change(model.state_dict())
        expected = model(TOKENS).logits
    assert (before - expected).abs().max() > 1e-2
    found = run(read(folder).program, [TOKENS])[0]
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("rslora", [False, True])
def test_an_adapter_alone_is_merged_into_its_base(base: Path, tmp_path: Path, rslora: bool) -> None:
    up, query = factors(UP, 48, 32), factors(QUERY, 32, 32)
    folder = write(tmp_path / "adapter", base, up | query, use_rslora=rslora)
    scale = ALPHA / (RANK**0.5 if rslora else RANK)

    def change(weights: dict[str, Tensor]) -> None:
        for name, tensors in ((UP, up), (QUERY, query)):
            a, b = tensors.values()
            weights[f"{name}.weight"] += scale * b @ a

    assert_merged(folder, base, change)
    assert read(folder).name == "adapter"


def test_ranks_and_alphas_of_some_modules(base: Path, tmp_path: Path) -> None:
    up, query = factors(UP, 48, 32, rank=2), factors(QUERY, 32, 32)
    patterns = {"rank_pattern": {"up_proj": 2}, "alpha_pattern": {r"layers\.\d+\.self_attn\.q_proj": 10, "_proj": 1}}
    folder = write(tmp_path / "adapter", base, up | query, **patterns)

    def change(weights: dict[str, Tensor]) -> None:
        for name, tensors, scale in ((UP, up, ALPHA / 2), (QUERY, query, 10 / RANK)):
            a, b = tensors.values()
            weights[f"{name}.weight"] += scale * b @ a

    assert_merged(folder, base, change)


def test_dora(base: Path, tmp_path: Path) -> None:
    up = factors(UP, 48, 32)
    a, b = up.values()
    magnitude = torch.rand(48) + 0.5
    named = {f"base_model.model.{UP}.lora_magnitude_vector": magnitude}
    folder = write(tmp_path / "adapter", base, up | named, use_dora=True)

    def change(weights: dict[str, Tensor]) -> None:
        whole = weights[f"{UP}.weight"] + ALPHA / RANK * b @ a
        weights[f"{UP}.weight"].copy_(magnitude[:, None] * whole / whole.norm(dim=1, keepdim=True))

    assert_merged(folder, base, change)
    (folder / "adapter_config.json").write_text((folder / "adapter_config.json").read_text().replace("true", "false"))
    with pytest.raises(WeightError, match="use_dora"):
        read(folder)


def test_whole_modules_and_biases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = tmp_path / "base"
    GPT2LMHeadModel(GPT2Config(vocab_size=60, n_positions=64, n_embd=32, n_layer=1, n_head=4)).save_pretrained(base)
    module = "transformer.h.0.attn.c_attn"  # [in, out], as no linear of PyTorch is
    product, bias = factors(module, 96, 32), torch.randn(96)
    norm = torch.randn(32)
    more = {
        f"base_model.model.{module}.base_layer.bias": bias,
        "base_model.model.transformer.ln_f.weight": norm,
    }
    config = {"bias": "all", "modules_to_save": ["ln_f"], "fan_in_fan_out": True}
    folder = write(tmp_path / "adapter", base, product | more, **config)

    def change(weights: dict[str, Tensor]) -> None:
        a, b = product.values()
        weights[f"{module}.weight"] += (ALPHA / RANK * b @ a).T
        weights[f"{module}.bias"].copy_(bias)
        weights["transformer.ln_f.weight"].copy_(norm)

    assert_merged(folder, base, change)
    of_factor = {f"base_model.model.{module}.lora_B.bias": torch.ones(96)}
    write(folder, base, product | of_factor, lora_bias=True)

    def change_bias(weights: dict[str, Tensor]) -> None:
        a, b = product.values()
        weights[f"{module}.weight"] += (ALPHA / RANK * b @ a).T
        weights[f"{module}.bias"] += ALPHA / RANK

    assert_merged(folder, base, change_bias)


def test_a_tied_table_is_untied(tmp_path: Path) -> None:
    base = tmp_path / "base"
    small_llama(tied=True).save_pretrained(base)
    table = factors("model.embed_tokens", 32, 60, kind="lora_embedding_")
    folder = write(tmp_path / "adapter", base, table)

    def change(weights: dict[str, Tensor]) -> None:
        a, b = table.values()
        weights["model.embed_tokens.weight"] += (ALPHA / RANK * b @ a).T

    assert_merged(folder, base, change, untied=True)


def test_a_base_that_transformers_loads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = tmp_path / "base"
    MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2)).save_pretrained(base)
    query = factors(QUERY, 32, 32)
    folder = write(tmp_path / "adapter", base, query)

    def change(weights: dict[str, Tensor]) -> None:
        a, b = query.values()
        weights[f"{QUERY}.weight"] += ALPHA / RANK * b @ a

    assert_merged(folder, base, change)
    expert = factors("model.layers.0.mlp.experts.2.w1", 48, 32)
    write(folder, base, expert)
    with pytest.raises(WeightError, match=r"experts\.2\.w1, which it has lora_A, lora_B for, is not in the model"):
        read(folder)


def test_a_sum_goes_back_to_what_the_base_has(tmp_path: Path) -> None:
    base = tmp_path / "base"
    small_llama().to(torch.bfloat16).save_pretrained(base)
    up = factors(UP, 48, 32)
    program = read(write(tmp_path / "adapter", base, up)).program
    weight = program.weights[f"{UP}.weight"]
    a, b = up.values()
    stored = load_file(base / "model.safetensors")[f"{UP}.weight"]
    assert stored_dtype(weight) is torch.bfloat16
    assert torch.equal(weight.materialize(), (stored.float() + ALPHA / RANK * b @ a).bfloat16().float())


def test_a_base_in_the_cache(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = write(tmp_path / "adapter", "org/base", factors(UP, 48, 32))
    with pytest.raises(InvalidModelError, match=r"LoRA adapter, which is merged.*`hf download org/base` fetches it"):
        read(folder)
    storage = tmp_path / "hub" / "models--org--base"
    (storage / "refs").mkdir(parents=True)
    (storage / "refs" / "main").write_text("0" * 40)
    shutil.copytree(base, storage / "snapshots" / ("0" * 40))
    assert read(folder).program.signature.vocabulary == 60


def test_beside_another_model_it_is_not_guessed_which_is_meant(base: Path, tmp_path: Path) -> None:
    write(base, tmp_path / "base" / ".." / "base", factors(UP, 48, 32))  # of the weights beside it
    assert read(base).name == "base"
    other = tmp_path / "other"
    small_llama().save_pretrained(other)
    write(other, base, factors(UP, 48, 32))
    with pytest.raises(InvalidModelError, match=r"other has a LoRA adapter of .*own weights \(model\.safetensors\)"):
        read(other)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"peft_type": "IA3"}, "of the type 'IA3'"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "layer_replication="),
        ({"alora_invocation_tokens": [3]}, "alora_invocation_tokens="),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"something_new": True}, "something_new=True"),
        ({"base_model_name_or_path": None}, "does not say of which model"),
        ({"base_model_name_or_path": "/absent"}, "no model is there"),
        ({"lora_alpha": "much"}, "lora_alpha is 'much'"),
        ({"alpha_pattern": {"(": 1}}, "is no pattern of modules' names"),
    ],
)
def test_what_is_not_merged_is_refused_by_name(base: Path, tmp_path: Path, config: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidModelError, match=says):
        read(write(tmp_path / "adapter", base, factors(UP, 48, 32), **config))


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        ({}, "has no tensors"),
        (factors("model.layers.7.mlp.up_proj", 48, 32), r"layers\.7.* is not in the model"),
        (factors("model.norm", 48, 32), "is a LlamaRMSNorm in"),
        (factors(UP, 48, 31), r"\[48, rank\] and \[rank, 32\]"),
        (factors(UP, 48, 32, rank=3), "the rank of .* is 3, and adapter_config.json says 4"),
        ({f"base_model.model.{UP}.lora_A.weight": torch.ones(4, 32)}, "lora_A and lora_B are needed"),
        ({f"base_model.model.{UP}.lora_B.bias": torch.ones(48)}, "no bias to add it to"),
        ({"base_model.model.lm_head.weight": torch.ones(61, 32)}, r"lm_head\.weight' is \[61, 32\], and \[60, 32\]"),
        ({"base_model.model.strange": torch.ones(4)}, "'base_model.model.strange' has no place"),
    ],
)
def test_tensors_without_a_place_are_refused(base: Path, tmp_path: Path, tensors: dict[str, Tensor], says: str) -> None:
    with pytest.raises(WeightError, match=says):
        read(write(tmp_path / "adapter", base, tensors))


def test_files_that_are_none(base: Path, tmp_path: Path) -> None:
    folder = write(tmp_path / "adapter", base, factors(UP, 48, 32))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(InvalidModelError, match=r"adapter_model\.bin: pickled"):
        read(folder)
    for text in ("{", "[]"):
        (folder / "adapter_config.json").write_text(text)
        with pytest.raises(InvalidModelError, match="describes no adapter"):
            read(folder)


def test_what_was_merged_is_told(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "burnish"):
        read(write(tmp_path / "adapter", base, factors(UP, 48, 32)))
    assert "the adapter changes 1 weights" in caplog.text
