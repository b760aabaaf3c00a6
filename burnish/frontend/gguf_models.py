"""Architectures of GGUF files as configurations of transformers, and what llama.cpp's conversion did to weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from burnish.frontend.dequantize import half_split
from burnish.frontend.gguf_file import GGUFFile
from burnish.ir.errors import InvalidModelError, WeightError
from burnish.ir.weights import Offset, Weight

ROPE_FACTORS = "rope_freqs.weight"


@dataclass
class Facts:
    """What a file says of its architecture; remembers what was asked for."""

    file: GGUFFile
    architecture: str
    asked: set[str] = field(default_factory=set)

    def get(self, name: str, default: Any = None) -> Any:
        """The entry `architecture.name`."""
        self.asked.add(name)
        return self.file.metadata.get(f"{self.architecture}.{name}", default)

    def number(self, name: str) -> Any:
        """The same, which has to be there and a number."""
        found = self.get(name)
        if isinstance(found, bool) or not isinstance(found, int | float):
            what = "is missing" if found is None else f"is {type(found).__name__}, not one number"
            raise InvalidModelError(f"{self.file.path}: the metadata {self.architecture}.{name} {what}")
        return found

    def has(self, suffix: str) -> bool:
        """Whether a layer has a tensor of this name."""
        return f"blk.0.{suffix}" in self.file.tensors

    def not_understood(self) -> list[str]:
        """Entries of the architecture that nobody asked for."""
        prefix = f"{self.architecture}."
        names = (name for name in self.file.metadata if name.startswith(prefix))
        return [name for name in names if name.removeprefix(prefix) not in self.asked | _NEUTRAL]


_NEUTRAL = {"vocab_size", "attention.value_length", "rope.scaling.finetuned"}  # checked or said elsewhere


@dataclass(frozen=True)
class Architecture:
    """How a GGUF architecture becomes a model of transformers."""

    model_type: str
    special: Callable[[Facts], dict[str, Any]]  # of the configuration, beside what all have
    heads_interleaved: bool = False  # rows of Q and K as rotary embedding of side-by-side pairs wants them
    norm_is_offset: bool = False  # transformers has the scale of norms as its distance from one


def config_of(facts: Facts) -> PreTrainedConfig:
    """The configuration. Raises InvalidModelError for a file that says too little, or what is not understood."""
    architecture = ARCHITECTURES[facts.architecture]
    tensors = facts.file.tensors
    if "token_embd.weight" not in tensors:
        raise WeightError(f"{facts.file.path} has no tensor 'token_embd.weight', the embedding of the tokens")
    metadata = facts.file.metadata
    values: dict[str, Any] = {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": facts.number("embedding_length"),
        "intermediate_size": facts.get("feed_forward_length"),
        "num_hidden_layers": facts.number("block_count"),
        "num_attention_heads": facts.number("attention.head_count"),
        "max_position_embeddings": facts.number("context_length"),
        "rms_norm_eps": facts.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
        **{f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _TOKENS.items()},
    }
    values["num_key_value_heads"] = facts.get("attention.head_count_kv", values["num_attention_heads"])
    values["head_dim"] = facts.get("attention.key_length", values["hidden_size"] // values["num_attention_heads"])
    if facts.get("attention.value_length", values["head_dim"]) != values["head_dim"]:
        raise InvalidModelError(f"{facts.file.path}: keys and values of different lengths are not read")
    values["rope_parameters"] = _rope(facts, values["head_dim"])
    values |= architecture.special(facts)
    values = {name: value for name, value in values.items() if value is not None or name.endswith("_token_id")}
    return AutoConfig.for_model(architecture.model_type, **values)


_TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def undo(architecture: Architecture, name: str, weight: Weight, config: PreTrainedConfig) -> Weight:
    """The weight of the file's tensor `name` as transformers has it."""
    kind = re.sub(r"^blk\.\d+\.", "", name)
    if architecture.heads_interleaved and kind.startswith("attn_q."):
        return half_split(weight, config.num_attention_heads)
    if architecture.heads_interleaved and kind.startswith("attn_k."):
        return half_split(weight, config.num_key_value_heads)
    if architecture.norm_is_offset and kind.endswith("norm.weight"):
        return Offset(weight, -1.0)
    return weight


def _rope(facts: Facts, head_dim: int) -> dict[str, Any]:
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": float(facts.get("rope.freq_base", 10000.0))}
    rotated = facts.get("rope.dimension_count", head_dim)
    if rotated != head_dim:
        if facts.architecture != "phi3":
            raise InvalidModelError(
                f"{facts.file.path}: {facts.architecture}.rope.dimension_count is {rotated}, but heads have {head_dim} "
                "dimensions: rotary embedding of a part of them is not read for this architecture"
            )
        found["partial_rotary_factor"] = rotated / head_dim
    scaling = facts.get("rope.scaling.type", "none")
    if scaling == "linear":
        found |= {"rope_type": "linear", "factor": facts.number("rope.scaling.factor")}
    elif scaling != "none":
        raise InvalidModelError(
            f"{facts.file.path}: {facts.architecture}.rope.scaling.type is {scaling!r}; 'none' and 'linear' are read"
        )
    return found


def _llama(facts: Facts) -> dict[str, Any]:
    if facts.get("expert_count", 0):
        raise InvalidModelError(f"{facts.file.path}: mixtures of experts under the architecture 'llama' are not read")
    if facts.get("attention.sliding_window"):
        raise InvalidModelError(f"{facts.file.path}: sliding windows under the architecture 'llama' are not read")
    return {"attention_bias": facts.has("attn_q.bias"), "mlp_bias": facts.has("ffn_up.bias")}


def _qwen2(facts: Facts) -> dict[str, Any]:
    return {}


def _qwen3(facts: Facts) -> dict[str, Any]:
    return {"attention_bias": facts.has("attn_q.bias")}


def _qwen3moe(facts: Facts) -> dict[str, Any]:
    return _qwen3(facts) | {
        "moe_intermediate_size": facts.number("expert_feed_forward_length"),
        "num_experts": facts.number("expert_count"),
        "num_experts_per_tok": facts.number("expert_used_count"),
        "norm_topk_prob": True,  # as llama.cpp computes it
    }


def _phi3(facts: Facts) -> dict[str, Any]:
    return {
        "sliding_window": facts.get("attention.sliding_window") or None,
        "original_max_position_embeddings": facts.get("rope.scaling.original_context_length"),
    }


def _gemma(facts: Facts) -> dict[str, Any]:
    return {}


def _query_scalar(facts: Facts, layers_of_27b: int) -> dict[str, Any]:
    """Queries are scaled by the root of a head's length, but in the models of 27 billion parameters: as llama.cpp."""
    if facts.number("block_count") == layers_of_27b:
        return {"query_pre_attn_scalar": facts.number("embedding_length") // facts.number("attention.head_count")}
    return {"query_pre_attn_scalar": facts.number("attention.key_length")}


def _gemma2(facts: Facts) -> dict[str, Any]:
    return _query_scalar(facts, 46) | {
        "sliding_window": facts.number("attention.sliding_window"),
        "attn_logit_softcapping": facts.number("attn_logit_softcapping"),
        "final_logit_softcapping": facts.number("final_logit_softcapping"),
    }


def _gemma3(facts: Facts) -> dict[str, Any]:
    local = {"rope_type": "default", "rope_theta": float(facts.get("rope.freq_base_swa", 10000.0))}
    return _query_scalar(facts, 62) | {
        "sliding_window": facts.number("attention.sliding_window"),
        "final_logit_softcapping": facts.get("final_logit_softcapping"),
        "rope_parameters": {
            "full_attention": _rope(facts, facts.number("attention.key_length")),
            "sliding_attention": local,
        },
    }


ARCHITECTURES = {
    "llama": Architecture("llama", _llama, heads_interleaved=True),
    "qwen2": Architecture("qwen2", _qwen2),
    "qwen3": Architecture("qwen3", _qwen3),
    "qwen3moe": Architecture("qwen3_moe", _qwen3moe),
    "phi3": Architecture("phi3", _phi3),
    "gemma": Architecture("gemma", _gemma, norm_is_offset=True),
    "gemma2": Architecture("gemma2", _gemma2, norm_is_offset=True),
    "gemma3": Architecture("gemma3_text", _gemma3, norm_is_offset=True),
}
