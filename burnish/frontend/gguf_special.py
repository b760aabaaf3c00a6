"""What a configuration of transformers has of its own, by what a GGUF file says of the architecture."""

from __future__ import annotations

from typing import Any

from burnish.frontend.gguf_facts import Facts
from burnish.frontend.gguf_rope import rope_parameters


def layer_types(facts: Facts, usual: int) -> list[str]:
    """Which layers have the window: all but each `usual`-th, unless the file says otherwise."""
    every = facts.get("attention.sliding_window_pattern", usual)
    if isinstance(every, list):
        sliding = facts.each_layer("attention.sliding_window_pattern")
    else:
        sliding = [(layer + 1) % every != 0 for layer in range(facts.number("block_count"))]
    return ["sliding_attention" if each else "full_attention" for each in sliding]


def llama_type(facts: Facts) -> str:
    """Which of three models goes by this name: Mixtral has experts, Mistral a window."""
    if facts.get("expert_count", 0):
        return "mixtral"
    return "mistral" if facts.get("attention.sliding_window") else "llama"


def llama(facts: Facts) -> dict[str, Any]:
    """Experts, or a window, or biases: models with the first two have none of these."""
    window = {"sliding_window": facts.get("attention.sliding_window") or None}
    if facts.get("expert_count", 0):
        return window | {
            "num_local_experts": facts.number("expert_count"),
            "num_experts_per_tok": facts.number("expert_used_count"),
        }
    if window["sliding_window"]:
        return window
    return {"attention_bias": facts.has("attn_q.bias"), "mlp_bias": facts.has("ffn_up.bias")}


def qwen3(facts: Facts) -> dict[str, Any]:
    """Biases, which no published model has."""
    return {"attention_bias": facts.has("attn_q.bias")}


def _experts(facts: Facts) -> dict[str, Any]:
    size = facts.get("expert_feed_forward_length")  # which files until 2024 do not say
    return {
        "moe_intermediate_size": size or facts.number("feed_forward_length") // facts.number("expert_used_count"),
        "num_experts": facts.number("expert_count"),
        "num_experts_per_tok": facts.number("expert_used_count"),
    }


def qwen2moe(facts: Facts) -> dict[str, Any]:
    """Experts, one of which all tokens go to."""
    return _experts(facts) | {
        "shared_expert_intermediate_size": facts.get("expert_shared_feed_forward_length")
        or facts.number("feed_forward_length"),
        "norm_topk_prob": facts.get("expert_weights_norm", False),  # as llama.cpp computes it
    }


def qwen3moe(facts: Facts) -> dict[str, Any]:
    """Experts."""
    return qwen3(facts) | _experts(facts) | {"norm_topk_prob": facts.get("expert_weights_norm", True)}  # the same


def seeing(facts: Facts) -> dict[str, Any]:
    """Nothing: in texts all three coordinates of a token are its position, and no layer gets features of images."""
    for name in ("rope.dimension_sections", "n_deepstack_layers"):
        facts.get(name)
    return {}


def phi3(facts: Facts) -> dict[str, Any]:
    """A window, and the length from which longrope has other frequencies."""
    original = facts.get("rope.scaling.original_context_length", facts.number("context_length"))
    return {
        "sliding_window": facts.get("attention.sliding_window") or None,
        "original_max_position_embeddings": original,
    }


def gpt2(facts: Facts) -> dict[str, Any]:
    """The size of the layer between."""
    return {"n_inner": facts.number("feed_forward_length")}


def gptneox(facts: Facts) -> dict[str, Any]:
    """Attention and the layer behind it side by side, unless the file says otherwise."""
    return {
        "use_parallel_residual": facts.get("use_parallel_residual", True),
        "attention_bias": facts.has("attn_qkv.bias"),
    }


def starcoder2(facts: Facts) -> dict[str, Any]:
    """Biases and a window."""
    window = facts.get("attention.sliding_window") or None
    return {"use_bias": facts.has("attn_q.bias") or facts.has("attn_qkv.bias"), "sliding_window": window}


def stablelm(facts: Facts) -> dict[str, Any]:
    """What the models of 12 billion parameters have otherwise: norms of heads, and parallel residuals."""
    facts.get("use_parallel_residual")  # as llama.cpp: by the tensors, whatever this says
    return {
        "use_qkv_bias": facts.has("attn_q.bias"),
        "qk_layernorm": facts.has("attn_q_norm.weight"),
        "use_parallel_residual": not facts.has("ffn_norm.weight"),
    }


def granite(facts: Facts) -> dict[str, Any]:
    """What embeddings, residuals, attention and logits are multiplied with."""
    return {
        "attention_bias": facts.has("attn_q.bias"),
        "mlp_bias": facts.has("ffn_up.bias"),
        "attention_multiplier": facts.get("attention.scale") or facts.number("attention.head_count") ** -0.5,
        "embedding_multiplier": facts.get("embedding_scale", 1.0),
        "residual_multiplier": facts.get("residual_scale", 1.0),
        "logits_scaling": facts.get("logit_scale", 1.0),
    }


def cohere(facts: Facts) -> dict[str, Any]:
    """What logits are multiplied with; norms of heads in the larger models."""
    return {
        "logit_scale": facts.number("logit_scale"),
        "attention_bias": facts.has("attn_q.bias"),
        "use_qk_norm": facts.has("attn_q_norm.weight"),
    }


def cohere2(facts: Facts) -> dict[str, Any]:
    """What logits are multiplied with; three of four layers have a window."""
    return {
        "logit_scale": facts.number("logit_scale"),
        "attention_bias": facts.has("attn_q.bias"),
        "sliding_window": facts.number("attention.sliding_window"),
        "layer_types": layer_types(facts, 4),
    }


def has_sigmoid(facts: Facts) -> bool:
    """Whether the scores of experts are sigmoids, not a softmax; of files that do not say it they are a softmax."""
    found = facts.get("expert_gating_func", _SOFTMAX)
    if found not in (_SOFTMAX, _SIGMOID):
        raise facts.wrong("expert_gating_func", f"is {found!r}; {_SOFTMAX} (softmax) and {_SIGMOID} (sigmoid) are read")
    return bool(found == _SIGMOID)


_SOFTMAX, _SIGMOID = 1, 2


def deepseek2(facts: Facts) -> dict[str, Any]:
    """Latents of keys and values, and experts."""
    rotated = facts.number("rope.dimension_count")
    groups, chosen = facts.get("expert_group_count") or 1, facts.get("expert_group_used_count") or 1
    sigmoid, normed = has_sigmoid(facts), facts.get("expert_weights_norm", False)
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


def lfm2(facts: Facts) -> dict[str, Any]:
    """Layers without heads of keys and values are convolutions."""
    heads = facts.each_layer("attention.head_count_kv")
    counts = set(heads) - {0}
    if len(counts) != 1:
        raise facts.wrong("attention.head_count_kv", f"is {heads}: one number of heads is read, and 0 for convolutions")
    return {
        "num_key_value_heads": counts.pop(),
        "layer_types": ["full_attention" if each else "conv" for each in heads],
        "conv_L_cache": facts.number("shortconv.l_cache"),
        "conv_bias": facts.has("shortconv.conv.bias", heads.index(0)) if 0 in heads else False,
        "norm_eps": facts.number("attention.layer_norm_rms_epsilon"),
        "block_auto_adjust_ff_dim": False,  # files have what came of it
    }


def gpt_oss(facts: Facts) -> dict[str, Any]:
    """Experts, a window in every other layer, and yarn whose limits are not rounded."""
    rope = rope_parameters(facts, facts.number("attention.key_length"))
    return {
        "intermediate_size": facts.number("expert_feed_forward_length"),
        "num_local_experts": facts.number("expert_count"),
        "num_experts_per_tok": facts.number("expert_used_count"),
        "sliding_window": facts.number("attention.sliding_window"),
        "layer_types": layer_types(facts, 2),
        "rope_parameters": rope | ({"truncate": False} if rope["rope_type"] == "yarn" else {}),
    }


def olmo2_type(facts: Facts) -> str:
    """OLMo 3 goes by the name of OLMo 2, and has a window."""
    return "olmo3" if facts.get("attention.sliding_window") else "olmo2"


def olmo2(facts: Facts) -> dict[str, Any]:
    """The layers that have the window, which have plain frequencies."""
    if olmo2_type(facts) == "olmo2":
        return {}
    found = {"sliding_window": facts.number("attention.sliding_window"), "layer_types": layer_types(facts, 4)}
    rope = rope_parameters(facts, facts.number("embedding_length") // facts.number("attention.head_count"))
    local = {"rope_type": "default", "rope_theta": float(facts.get("rope.freq_base_swa", rope["rope_theta"]))}
    return found | {"rope_parameters": {"full_attention": rope, "sliding_attention": local}}


def mistral3_type(facts: Facts) -> str:
    """Ministral 3 scales queries by their positions; before it the name was of models like Mistral."""
    return "mistral" if facts.get("attention.temperature_scale") is None else "ministral3"


def mistral3(facts: Facts) -> dict[str, Any]:
    """No window; yarn, and what queries of late positions are scaled by."""
    found: dict[str, Any] = {"sliding_window": None}
    if mistral3_type(facts) == "mistral":
        return found
    usual = facts.number("embedding_length") // facts.number("attention.head_count")
    rope = rope_parameters(facts, facts.get("attention.key_length", usual))
    rope |= {"llama_4_scaling_beta": facts.number("attention.temperature_scale")}
    if (multiplier := facts.get("rope.scaling.yarn_log_multiplier")) is not None:
        rope |= dict.fromkeys(("mscale", "mscale_all_dim"), multiplier)
    return found | {"rope_parameters": rope}


def biased(facts: Facts) -> dict[str, Any]:
    """Biases of attention and of what is behind it, where the file has them."""
    return {"attention_bias": facts.has("attn_q.bias"), "mlp_bias": facts.has("ffn_up.bias")}


def seed_oss(facts: Facts) -> dict[str, Any]:
    """Biases."""
    return biased(facts) | {"attention_out_bias": facts.has("attn_output.bias")}


def ernie4_5(facts: Facts) -> dict[str, Any]:
    """Biases."""
    return {"use_bias": facts.has("attn_q.bias")}


def olmoe(facts: Facts) -> dict[str, Any]:
    """Experts."""
    return {
        "num_experts": facts.number("expert_count"),
        "num_experts_per_tok": facts.number("expert_used_count"),
        "norm_topk_prob": facts.get("expert_weights_norm", False),  # as llama.cpp computes it
    }


def granitemoe_type(facts: Facts) -> str:
    """One expert may be for all tokens."""
    return "granitemoeshared" if facts.get("expert_shared_feed_forward_length") else "granitemoe"


def granitemoe(facts: Facts) -> dict[str, Any]:
    """As Granite, with experts."""
    found = granite(facts) | {
        "num_local_experts": facts.number("expert_count"),
        "num_experts_per_tok": facts.number("expert_used_count"),
    }
    if granitemoe_type(facts) == "granitemoe":
        return found
    return found | {"shared_intermediate_size": facts.number("expert_shared_feed_forward_length")}


def starcoder(facts: Facts) -> dict[str, Any]:
    """One head of keys and values for all."""
    return gpt2(facts) | {"multi_query": facts.number("attention.head_count_kv") == 1}


def exaone4(facts: Facts) -> dict[str, Any]:
    """A window in three of four layers, in the larger models."""
    window = facts.get("attention.sliding_window") or None
    kinds = layer_types(facts, 4) if window else ["full_attention"] * facts.number("block_count")
    return {"sliding_window": window, "layer_types": kinds}
