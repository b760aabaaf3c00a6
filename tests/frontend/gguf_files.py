"""Small GGUF files, written from models of transformers as llama.cpp's converter does."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from burnish.frontend.gguf import read_gguf
from burnish.frontend.gguf_blocks import KINDS
from burnish.frontend.gguf_file import Tensor
from burnish.ir.interpreter import run

TOKENS = torch.tensor([[1, 5, 9, 33, 63, 2, 7, 7, 12, 40, 41, 3], [3, 3, 0, 41, 8, 22, 10, 1, 2, 60, 61, 62]])
SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "rope_theta": 5000.0,
}
GEMMA = {"head_dim": 16, "tie_word_embeddings": True}
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
SCALES = {"query_pre_attn_scalar": 16, "sliding_window": 8}  # of the published models: by the length of a head

# GGUF's architecture: transformers' type, configuration beside SIZES, metadata beside what all have.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "llama": ("llama", {"tie_word_embeddings": False}, {"rope.dimension_count": 8}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}, {}),
    "qwen3": ("qwen3", {"head_dim": 16, "tie_word_embeddings": False}, {"attention.key_length": 16}),
    "qwen3moe": (
        "qwen3_moe",
        {"head_dim": 16, "tie_word_embeddings": False, **EXPERTS},
        {"attention.key_length": 16, "expert_feed_forward_length": 32, "expert_count": 4, "expert_used_count": 2},
    ),
    "phi3": ("phi3", {"sliding_window": 8, "tie_word_embeddings": False}, {"attention.sliding_window": 8}),
    "gemma": ("gemma", GEMMA, {"attention.key_length": 16}),
    "gemma2": (
        "gemma2",
        GEMMA | SCALES | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        {
            "attention.key_length": 16,
            "attention.sliding_window": 8,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
        },
    ),
    "gemma3": (
        "gemma3_text",
        GEMMA
        | SCALES
        | {
            "num_hidden_layers": 6,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        {
            "attention.key_length": 16,
            "attention.sliding_window": 8,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
    ),
}


def small_model(architecture: str, sizes: dict[str, Any] | None = None) -> PreTrainedModel:
    torch.manual_seed(0)
    kind, special, _ = MODELS[architecture]
    config = AutoConfig.for_model(kind, **(SIZES | special | (sizes or {})))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.3)
    assert isinstance(model, PreTrainedModel)
    return model


def converted(model: PreTrainedModel, architecture: str) -> dict[str, np.ndarray]:
    """The tensors as llama.cpp's converter names, orders and shifts them."""
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    found: dict[str, np.ndarray] = {}
    for name, parameter in model.named_parameters():
        values = parameter.detach().numpy()
        if experts := re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(\w+)_proj", name):
            layer, kind = experts.groups()
            halves = np.split(values, 2, axis=1) if kind == "gate_up" else [values]
            for part, half in zip(kind.split("_"), halves, strict=True):
                found[f"blk.{layer}.ffn_{part}_exps.weight"] = half
            continue
        if architecture == "llama" and (head := re.search(r"self_attn\.([qk])_proj", name)):
            heads = model.config.num_attention_heads if head[1] == "q" else model.config.num_key_value_heads
            split = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
            values = split.swapaxes(1, 2).reshape(values.shape)
        if architecture.startswith("gemma") and name.endswith("norm.weight"):
            values = values + 1
        found[names.get_name(name, try_suffixes=(".weight", ".bias"))] = values
    return found


def write(
    path: Path,
    architecture: str = "llama",
    metadata: dict[str, Any] | None = None,
    change: Callable[[dict[str, np.ndarray]], object] = lambda tensors: None,
    kinds: dict[str, gguf.GGMLQuantizationType] | None = None,
    name: str | None = None,
    sizes: dict[str, Any] | None = None,
    split: int = 0,
) -> PreTrainedModel:
    """A file of a small model; the model. `metadata`: None leaves an entry out.

    `kinds`: types of tensors, whose numbers are random where the package gguf cannot round to such.
    `split`: several files, of so many tensors each.
    """
    model = small_model(architecture, sizes)
    writer = gguf.GGUFWriter(path, name or architecture, split_max_tensors=split)
    config = model.config
    entries = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 5000.0,
        **MODELS[architecture][2],
    }
    entries = {f"{name or architecture}.{key}": value for key, value in entries.items()}
    for key, value in {**entries, "tokenizer.ggml.eos_token_id": 2, **(metadata or {})}.items():
        if value is None:
            continue
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        else:
            (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    tensors = converted(model, architecture)
    change(tensors)
    for key, values in tensors.items():
        kind = (kinds or {}).get(key)
        if kind is None:
            writer.add_tensor(key, np.ascontiguousarray(values))
        elif kind.name.endswith("_K"):
            *rows, size = values.shape
            blocks = any_blocks(kind, math.prod(rows), size // 256, 1e-4)
            writer.add_tensor(key, blocks.data.reshape(*rows, -1), raw_dtype=kind)
        else:
            writer.add_tensor(key, gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS, use_cache=False).logits
    return found


def assert_same(path: Path, model: PreTrainedModel) -> None:
    """What the file's program computes is what `model` does."""
    found = run(read_gguf(path).program, [TOKENS])[0]
    torch.testing.assert_close(found, logits(model), atol=1e-4, rtol=1e-4)


def any_blocks(kind: gguf.GGMLQuantizationType, rows: int, blocks: int, scale: float = 1.0) -> Tensor:
    """A tensor of random bytes, but for the halves that all of a block is times: those are random floats."""
    size, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    numbers = np.random.default_rng(0)
    data = numbers.integers(0, 256, (rows, blocks, block_bytes), dtype=np.uint8)
    for part in (KINDS[kind].scales, KINDS[kind].minima):
        half = part[0] if isinstance(part, tuple) else part
        if half is None:
            continue
        for start in range(0, block_bytes - 1, 2):  # where a part finds its half
            probe = np.zeros((1, 1, block_bytes), np.uint8)
            probe[..., start : start + 2] = np.float16(1).reshape(1).view(np.uint8)
            if half.read(torch.from_numpy(probe)).item() == 1:
                halves = (numbers.standard_normal((rows, blocks, 1)) * scale).astype(np.float16)
                data[..., start : start + 2] = halves.view(np.uint8)
    return Tensor("any", kind, (rows, blocks * size), data.reshape(rows, -1))
