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
        """The same, which has to be there and a number, or one for each layer, all the same."""
        found = self.get(name)
        if isinstance(found, list) and len(set(found)) == 1:
            found = found[0]
        if isinstance(found, bool) or not isinstance(found, int | float):
            what = "is missing" if found is None else f"is {type(found).__name__}, not one number"
            raise InvalidModelError(f"{self.file.path}: the metadata {self.architecture}.{name} {what}")
        return found

    def has(self, suffix: str) -> bool:
        """Whether a layer has a tensor of this name."""
        return f"blk.0.{suffix}" in self.file.tensors

    def check_understood(self) -> None:
        """InvalidModelError for an entry of the architecture that nobody asked for, and that may change numbers."""
        prefix = f"{self.architecture}."
        for name, value in self.file.metadata.items():
            key = name.removeprefix(prefix)
            if not name.startswith(prefix) or key in self.asked | _HARMLESS or self._is_neutral(key, value):
                continue
            raise InvalidModelError(
                f"{self.file.path}: the metadata {name} is {value!r}, which is not read: it may change what the file "
                "computes. A model that transformers knows can be compiled from its folder with config.json and "
                "safetensors."
            )

    def _is_neutral(self, key: str, value: Any) -> bool:
        if key == "attention.scale":  # what is usual, spelled out
            usual = self.get("attention.key_length", 0) or (
                self.number("embedding_length") / self.number("attention.head_count")
            )
            return isinstance(value, float) and abs(value * usual**0.5 - 1) < 1e-6
        values = value if isinstance(value, list) else [value]
        return key in _NEUTRAL and all(each == _NEUTRAL[key] for each in values)


_HARMLESS = {"vocab_size", "attention.value_length", "rope.scaling.finetuned", "tensor_data_layout"}
"""Checked or said elsewhere, or of no meaning for what is computed."""

_NEUTRAL: dict[str, Any] = {
    "attention.causal": True,
    "attention.clamp_kqv": 0,
    "attention.layer_norm_epsilon": 0,
    "attention.max_alibi_bias": 0,
    "attention.sliding_window": 0,
    "attn_logit_softcapping": 0,
    "embedding_scale": 1,
    "expert_count": 0,
    "expert_shared_count": 0,
    "expert_used_count": 0,
    "final_logit_softcapping": 0,
    "leading_dense_block_count": 0,
    "logit_scale": 1,
    "nextn_predict_layers": 0,
    "pooling_type": 0,
    "residual_scale": 1,
    "rope.dimension_sections": 0,
    "rope.scaling.attn_factor": 1,
    "use_parallel_residual": False,
}
"""Entries that change nothing where they have this value, or a list of it."""


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
        "intermediate_size": facts.number("feed_forward_length") if facts.get("feed_forward_length") else None,
        "num_hidden_layers": facts.number("block_count"),
        "num_attention_heads": facts.number("attention.head_count"),
        "max_position_embeddings": facts.number("context_length"),
        "rms_norm_eps": facts.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
        **{f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _TOKENS.items()},
    }
    kv_heads = facts.get("attention.head_count_kv")
    values["num_key_value_heads"] = (
        values["num_attention_heads"] if kv_heads is None else facts.number("attention.head_count_kv")
    )
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
    # Files of 2023 have the factor alone, under either name.
    factor = facts.get("rope.scaling.factor", facts.get("rope.scale_linear", 1.0))
    scaling = facts.get("rope.scaling.type", "none" if factor in (0.0, 1.0) else "linear")
    if scaling == "linear":
        found |= {"rope_type": "linear", "factor": float(factor)}
    elif scaling == "yarn":
        original = facts.number("rope.scaling.original_context_length")
        found |= {"rope_type": "yarn", "factor": float(factor), "original_max_position_embeddings": original}
    elif scaling != "none":
        known = "'none', 'linear' and 'yarn' are read"
        raise InvalidModelError(f"{facts.file.path}: {facts.architecture}.rope.scaling.type is {scaling!r}; {known}")
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
