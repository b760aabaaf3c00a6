"""What configurations of Gemma have of their own, by what a GGUF file says."""

from __future__ import annotations

from math import isfinite
from statistics import NormalDist
from typing import Any

from burnish.frontend.dequantize import weight_of
from burnish.frontend.gguf_facts import Facts
from burnish.frontend.gguf_rope import ROPE_FACTORS, rope_parameters
from burnish.frontend.gguf_special import layer_types
from burnish.ir.errors import WeightError


def _query_scalar(facts: Facts, layers_of_27b: int) -> dict[str, Any]:
    """Queries are scaled by the root of a head's length, but in the models of 27 billion parameters: as llama.cpp."""
    if facts.number("block_count") == layers_of_27b:
        return {"query_pre_attn_scalar": facts.number("embedding_length") // facts.number("attention.head_count")}
    return {"query_pre_attn_scalar": facts.number("attention.key_length")}


def gemma2(facts: Facts) -> dict[str, Any]:
    """A window in every other layer, and soft caps."""
    return _query_scalar(facts, 46) | {
        "sliding_window": facts.number("attention.sliding_window"),
        "attn_logit_softcapping": facts.number("attn_logit_softcapping"),
        "final_logit_softcapping": facts.number("final_logit_softcapping"),
        "layer_types": layer_types(facts, 2),
    }


def gemma3(facts: Facts) -> dict[str, Any]:
    """A window in five of six layers, which have frequencies of their own."""
    return _query_scalar(facts, 62) | {
        "sliding_window": facts.number("attention.sliding_window"),
        "final_logit_softcapping": facts.get("final_logit_softcapping"),
        "layer_types": layer_types(facts, 6),
        "rope_parameters": _two_ropes(facts),
    }


def _two_ropes(facts: Facts) -> dict[str, Any]:
    """Of layers that see all, and of those with a window."""
    local = {"rope_type": "default", "rope_theta": float(facts.get("rope.freq_base_swa", 10000.0))}
    return {
        "full_attention": rope_parameters(facts, facts.number("attention.key_length")),
        "sliding_attention": local,
    }


def gemma3n(facts: Facts) -> dict[str, Any]:
    """The streams, the shared layers, and how much of each layer's activations is left out."""
    tensors = facts.file.tensors
    for needed in ("per_layer_token_embd.weight", "blk.0.laurel_l.weight"):
        if needed not in tensors:
            raise WeightError(f"{facts.file.path} has no tensor {needed!r}, which Gemma 3n needs")
    scales = facts.each_layer("activation_sparsity_scale")
    return {
        "intermediate_size": facts.each_layer("feed_forward_length"),
        "layer_types": layer_types(facts, 5),
        "sliding_window": facts.number("attention.sliding_window"),
        "num_kv_shared_layers": facts.number("attention.shared_kv_layers"),
        "activation_sparsity_pattern": [NormalDist().cdf(scale) if isfinite(scale) else 0.0 for scale in scales],
        "altup_active_idx": facts.number("altup.active_idx"),
        "altup_num_inputs": facts.number("altup.num_inputs"),
        "hidden_size_per_layer_input": facts.number("embedding_length_per_layer_input"),
        "vocab_size_per_layer_input": tensors["per_layer_token_embd.weight"].shape[0],
        "laurel_rank": tensors["blk.0.laurel_l.weight"].shape[0],
        "final_logit_softcapping": facts.get("final_logit_softcapping", 30.0),  # as llama.cpp
        "rope_parameters": _two_ropes(facts),
    }


def gemma4(facts: Facts) -> dict[str, Any]:
    """Layers that see all have larger heads, of which a part is rotated; experts beside what all tokens go to."""
    types = layer_types(facts, 6)
    per_layer = facts.get("embedding_length_per_layer_input", 0)
    table = "per_layer_token_embd.weight" if per_layer else "token_embd.weight"
    shared = facts.get("attention.shared_kv_layers", 0)
    heads = [facts.each_layer("attention.head_count_kv")[types.index(kind)] for kind in _KINDS]
    long, short = facts.number("attention.key_length"), facts.number("attention.key_length_swa")
    sizes = facts.each_layer("feed_forward_length")
    wide = [sizes[0] * (1 + (layer >= len(types) - shared)) for layer in range(len(types))]
    if sizes not in (wide, [sizes[0]] * len(types)):
        raise facts.wrong("feed_forward_length", f"is {sizes}, which is not twice as much in the {shared} last layers")
    if (facts.get("attention.value_length_swa", short), facts.get("rope.dimension_count_swa", short)) != (short, short):
        raise facts.wrong("attention.key_length_swa", f"is {short}, and not that of values, or of what is rotated")
    full = types.index("full_attention")
    found = {
        "layer_types": types,
        "sliding_window": facts.number("attention.sliding_window"),
        "head_dim": short,
        "num_key_value_heads": heads[0],
        "per_layer_config": {
            layer: {"head_dim": long, "num_key_value_heads": heads[1]}
            for layer, kind in enumerate(types)
            if kind == "full_attention"
        },
        "attention_k_eq_v": not facts.has("attn_v.weight", full) and not facts.has("attn_qkv.weight", full),
        "num_kv_shared_layers": shared,
        "intermediate_size": sizes[0],
        "use_double_wide_mlp": shared > 0 and sizes == wide,
        "hidden_size_per_layer_input": per_layer,
        "vocab_size_per_layer_input": facts.file.tensors[table].shape[0],
        "final_logit_softcapping": facts.get("final_logit_softcapping"),
        "rope_parameters": _two_ropes(facts) | {"full_attention": _proportional(facts, long)},
    }
    if not facts.get("expert_count", 0):
        return found
    experts = {"num_experts": "expert_count", "top_k_experts": "expert_used_count"}
    experts["moe_intermediate_size"] = "expert_feed_forward_length"
    return found | {"enable_moe_block": True} | {name: facts.number(key) for name, key in experts.items()}


_KINDS = ("sliding_attention", "full_attention")


def _proportional(facts: Facts, head_dim: int) -> dict[str, Any]:
    """Frequencies of which the last ones are divided by so much that nothing is rotated."""
    rope = rope_parameters(facts, head_dim)
    tensor = facts.file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return rope
    factors = weight_of(tensor).materialize().tolist()
    rotated = factors.count(1.0)
    if rope["rope_type"] != "default" or len(factors) != head_dim // 2 or min(factors[rotated:], default=1e30) < 1e30:
        raise WeightError(f"{facts.file.path}: the tensor {ROPE_FACTORS!r} is not 1 up to where nothing is rotated")
    return rope | {"rope_type": "proportional", "partial_rotary_factor": 2 * rotated / head_dim}
