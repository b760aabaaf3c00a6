"""Architectures of GGUF files as configurations of transformers: a row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from burnish.frontend.gguf_changes import (
    BIAS_OF_CHOICE,
    FROM_LATENTS,
    HEAD_BY_HEAD,
    INPUTS_FIRST,
    NORM_OF_EACH_HEAD,
    NORMS_FROM_ONE,
    PAIRS_SIDE_BY_SIDE,
)
from burnish.frontend.gguf_facts import Facts
from burnish.frontend.gguf_rope import rope_parameters
from burnish.frontend.gguf_tensors import Change, Made
from burnish.ir.errors import InvalidModelError, WeightError


def _nothing(facts: Facts) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Architecture:
    """How a GGUF architecture becomes a model of transformers."""

    model_type: str | Callable[[Facts], str]
    special: Callable[[Facts], dict[str, Any]] = _nothing  # of the configuration, beside what all have
    layer_norm: str | None = None  # what transformers calls the epsilon of norms that are layer norms
    partial_rotary: bool = False  # a part of each head may be rotated
    made: tuple[Made, ...] = ()
    changes: Mapping[str, Change] = field(default_factory=dict)


def config_of(facts: Facts) -> PreTrainedConfig:
    """The configuration. Raises InvalidModelError for a file that says too little, or what is not understood."""
    architecture = ARCHITECTURES[facts.architecture]
    tensors = facts.file.tensors
    if "token_embd.weight" not in tensors:
        raise WeightError(f"{facts.file.path} has no tensor 'token_embd.weight', the embedding of the tokens")
    metadata = facts.file.metadata
    special = architecture.special(facts)
    heads, hidden = facts.number("attention.head_count"), facts.number("embedding_length")
    kv_heads = None if facts.get("attention.head_count_kv") is None else facts.number("attention.head_count_kv")
    head_dim = facts.get("attention.key_length", hidden // heads)
    if "v_head_dim" not in special and facts.get("attention.value_length", head_dim) != head_dim:
        raise InvalidModelError(f"{facts.file.path}: keys and values of different lengths are not read")
    norm = architecture.layer_norm
    common: dict[str, Any] = {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "intermediate_size": facts.number("feed_forward_length") if facts.get("feed_forward_length") else None,
        "num_hidden_layers": facts.number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": heads if kv_heads is None else kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": facts.number("context_length"),
        norm or "rms_norm_eps": facts.number(f"attention.layer_norm_{'' if norm else 'rms_'}epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    values = {name: value for name, value in common.items() if value is not None}
    values |= {f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _TOKENS.items()}
    if "rope_parameters" not in special:
        values["rope_parameters"] = rope_parameters(facts, head_dim, partial=architecture.partial_rotary)
    model_type = architecture.model_type
    return AutoConfig.for_model(
        model_type if isinstance(model_type, str) else model_type(facts), **{**values, **special}
    )


_TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


def _llama_type(facts: Facts) -> str:
    if facts.get("expert_count", 0):
        return "mixtral"
    return "mistral" if facts.get("attention.sliding_window") else "llama"


def _llama(facts: Facts) -> dict[str, Any]:
    window = {"sliding_window": facts.get("attention.sliding_window") or None}
    if facts.get("expert_count", 0):
        return window | {
            "num_local_experts": facts.number("expert_count"),
            "num_experts_per_tok": facts.number("expert_used_count"),
        }
    if window["sliding_window"]:
        return window
    return {"attention_bias": facts.has("attn_q.bias"), "mlp_bias": facts.has("ffn_up.bias")}


def _qwen3(facts: Facts) -> dict[str, Any]:
    return {"attention_bias": facts.has("attn_q.bias")}


def _experts(facts: Facts) -> dict[str, Any]:
    return {
        "moe_intermediate_size": facts.number("expert_feed_forward_length"),
        "num_experts": facts.number("expert_count"),
        "num_experts_per_tok": facts.number("expert_used_count"),
    }


def _qwen2moe(facts: Facts) -> dict[str, Any]:
    return _experts(facts) | {
        "shared_expert_intermediate_size": facts.number("expert_shared_feed_forward_length"),
        "norm_topk_prob": facts.get("expert_weights_norm", False),  # as llama.cpp computes it
    }


def _qwen3moe(facts: Facts) -> dict[str, Any]:
    return _qwen3(facts) | _experts(facts) | {"norm_topk_prob": facts.get("expert_weights_norm", True)}  # the same


def _phi3(facts: Facts) -> dict[str, Any]:
    original = facts.get("rope.scaling.original_context_length", facts.number("context_length"))
    return {
        "sliding_window": facts.get("attention.sliding_window") or None,
        "original_max_position_embeddings": original,
    }


def _gpt2(facts: Facts) -> dict[str, Any]:
    return {"n_inner": facts.number("feed_forward_length")}


def _gptneox(facts: Facts) -> dict[str, Any]:
    return {
        "use_parallel_residual": facts.get("use_parallel_residual", True),
        "attention_bias": facts.has("attn_qkv.bias"),
    }


def _starcoder2(facts: Facts) -> dict[str, Any]:
    window = facts.get("attention.sliding_window") or None
    return {"use_bias": facts.has("attn_q.bias") or facts.has("attn_qkv.bias"), "sliding_window": window}


def _stablelm(facts: Facts) -> dict[str, Any]:
    facts.get("use_parallel_residual")  # as llama.cpp: by the tensors, whatever this says
    return {
        "use_qkv_bias": facts.has("attn_q.bias"),
        "qk_layernorm": facts.has("attn_q_norm.weight"),
        "use_parallel_residual": not facts.has("ffn_norm.weight"),
    }


def _granite(facts: Facts) -> dict[str, Any]:
    return {
        "attention_bias": facts.has("attn_q.bias"),
        "mlp_bias": facts.has("ffn_up.bias"),
        "attention_multiplier": facts.get("attention.scale") or facts.number("attention.head_count") ** -0.5,
        "embedding_multiplier": facts.get("embedding_scale", 1.0),
        "residual_multiplier": facts.get("residual_scale", 1.0),
        "logits_scaling": facts.get("logit_scale", 1.0),
    }


def _cohere(facts: Facts) -> dict[str, Any]:
    return {
        "logit_scale": facts.number("logit_scale"),
        "attention_bias": facts.has("attn_q.bias"),
        "use_qk_norm": facts.has("attn_q_norm.weight"),
    }


def _cohere2(facts: Facts) -> dict[str, Any]:
    return {
        "logit_scale": facts.number("logit_scale"),
        "attention_bias": facts.has("attn_q.bias"),
        "sliding_window": facts.number("attention.sliding_window"),
    }


def _has_sigmoid(facts: Facts) -> bool:
    """Whether the scores of experts are sigmoids, not a softmax; of files that do not say it they are a softmax."""
    found = facts.get("expert_gating_func", _SOFTMAX)
    if found not in (_SOFTMAX, _SIGMOID):
        raise facts.wrong("expert_gating_func", f"is {found!r}; {_SOFTMAX} (softmax) and {_SIGMOID} (sigmoid) are read")
    return bool(found == _SIGMOID)


_SOFTMAX, _SIGMOID = 1, 2


def _deepseek2(facts: Facts) -> dict[str, Any]:
    rotated = facts.number("rope.dimension_count")
    groups, chosen = facts.get("expert_group_count") or 1, facts.get("expert_group_used_count") or 1
    sigmoid, normed = _has_sigmoid(facts), facts.get("expert_weights_norm", False)
    if normed and not sigmoid:
        raise facts.wrong("expert_weights_norm", "is True, which a softmax of experts has in no model of transformers")
    facts.get("attention.key_length"), facts.get("attention.value_length")  # of the latents, or as below
    rope = rope_parameters(facts, rotated)
    if (multiplier := facts.get("rope.scaling.yarn_log_multiplier")) is not None:
        rope |= dict.fromkeys(("mscale", "mscale_all_dim"), multiplier * 10)  # of the tenth that yarn itself has
    values: dict[str, Any] = {
        "num_key_value_heads": facts.number("attention.head_count"),  # which share a latent
        "head_dim": rotated,
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": _length_of(facts, "key") - rotated,
        "v_head_dim": _length_of(facts, "value"),
        "q_lora_rank": facts.get("attention.q_lora_rank"),
        "kv_lora_rank": facts.number("attention.kv_lora_rank"),
        "first_k_dense_replace": facts.get("leading_dense_block_count", 0),
        "moe_intermediate_size": facts.number("expert_feed_forward_length"),
        "n_routed_experts": facts.number("expert_count"),
        "n_shared_experts": facts.number("expert_shared_count"),
        "num_experts_per_tok": facts.number("expert_used_count"),
        "routed_scaling_factor": facts.get("expert_weights_scale") or 1.0,
        "norm_topk_prob": normed,
        "n_group": groups,
        "topk_group": chosen,
        "rope_parameters": rope,
    }
    return values if sigmoid else values | {"topk_method": "greedy" if groups == 1 else "group_limited_greedy"}


def _length_of(facts: Facts, what: str) -> Any:
    """Of a head's keys or values once they are made of the latents."""
    name = f"attention.{what}_length"
    return facts.number(f"{name}_mla" if facts.get(f"{name}_mla") else name)


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
            "full_attention": rope_parameters(facts, facts.number("attention.key_length")),
            "sliding_attention": local,
        },
    }


ARCHITECTURES = {
    "llama": Architecture(_llama_type, _llama, changes=PAIRS_SIDE_BY_SIDE),
    "qwen2": Architecture("qwen2"),
    "qwen2moe": Architecture("qwen2_moe", _qwen2moe),
    "qwen3": Architecture("qwen3", _qwen3),
    "qwen3moe": Architecture("qwen3_moe", _qwen3moe),
    "phi3": Architecture("phi3", _phi3, partial_rotary=True),
    "phi2": Architecture("phi", layer_norm="layer_norm_eps", partial_rotary=True),
    "gpt2": Architecture("gpt2", _gpt2, layer_norm="layer_norm_epsilon", changes=INPUTS_FIRST),
    "gptneox": Architecture(
        "gpt_neox", _gptneox, layer_norm="layer_norm_eps", partial_rotary=True, changes=HEAD_BY_HEAD
    ),
    "starcoder2": Architecture("starcoder2", _starcoder2, layer_norm="norm_epsilon"),
    "stablelm": Architecture(
        "stablelm", _stablelm, layer_norm="layer_norm_eps", partial_rotary=True, made=(NORM_OF_EACH_HEAD,)
    ),
    "olmo2": Architecture("olmo2"),
    "granite": Architecture("granite", _granite, changes=PAIRS_SIDE_BY_SIDE),
    "smollm3": Architecture("smollm3", changes=PAIRS_SIDE_BY_SIDE),
    "command-r": Architecture("cohere", _cohere, layer_norm="layer_norm_eps"),
    "cohere2": Architecture("cohere2", _cohere2, layer_norm="layer_norm_eps"),
    "deepseek2": Architecture(
        lambda facts: "deepseek_v3" if _has_sigmoid(facts) else "deepseek_v2",
        _deepseek2,
        made=(*FROM_LATENTS, BIAS_OF_CHOICE),
    ),
    "gemma": Architecture("gemma", changes=NORMS_FROM_ONE),
    "gemma2": Architecture("gemma2", _gemma2, changes=NORMS_FROM_ONE),
    "gemma3": Architecture("gemma3_text", _gemma3, changes=NORMS_FROM_ONE),
}

_SCAN = "its model in transformers loops over tokens or chunks of them, which is traced for no other length"
_NO_MODEL = "transformers has no model for layers of different sizes, as it has"
REFUSED = {
    **dict.fromkeys(("mamba", "mamba2", "jamba", "falcon-h1", "granitehybrid", "nemotron_h"), _SCAN),
    **dict.fromkeys(("deci", "openelm"), _NO_MODEL),
}
"""Architectures that are known, and not read, and why."""
