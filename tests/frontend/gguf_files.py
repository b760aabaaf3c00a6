"""Small GGUF files, written from models of transformers as llama.cpp's converter does."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
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
EXPERTS = {"moe_intermediate_size": 32, "num_experts": 4, "num_experts_per_tok": 2}
CHOICE = {"expert_count": 4, "expert_used_count": 2}
SCALES = {"query_pre_attn_scalar": 16, "sliding_window": 8}  # of the published models: by the length of a head
TIED, UNTIED = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
LONG_HEADS = {"head_dim": 16}, {"attention.key_length": 16, "attention.value_length": 16}
LAYER_NORM = {"attention.layer_norm_rms_epsilon": None, "attention.layer_norm_epsilon": 1e-5}

Convert = Callable[[str, np.ndarray, Any], dict[str, np.ndarray] | None]


@dataclass(frozen=True)
class Case:
    """A model of transformers, and what a file of it says beside what all say."""

    kind: str
    config: dict[str, Any]
    metadata: dict[str, Any]  # None: the file does not have it
    convert: Convert = lambda name, values, config: None  # None: the tensor as it is, under its usual name
    architecture: str = ""  # of GGUF; empty: what the case is called
    extra: dict[str, list[float]] = field(default_factory=dict)  # tensors that are no parameters


def in_pairs(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """Rows of queries and keys for rotary embedding of pairs side by side."""
    head = re.fullmatch(r"model\.layers\.(\d+)\.self_attn\.([qk])_proj\.(\w+)", name)
    if head is None:
        return None
    heads = config.num_attention_heads if head[2] == "q" else config.num_key_value_heads
    split = values.reshape(heads, 2, values.shape[0] // heads // 2, -1)
    return {f"blk.{head[1]}.attn_{head[2]}.{head[3]}": split.swapaxes(1, 2).reshape(values.shape)}


def of_experts(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """Gates, and what they are for, apart."""
    experts = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(\w+)_proj", name)
    if experts is None:
        return None
    layer, kind = experts.groups()
    halves = np.split(values, 2, axis=1) if kind == "gate_up" else [values]
    return {f"blk.{layer}.ffn_{part}_exps.weight": half for part, half in zip(kind.split("_"), halves, strict=True)}


def inputs_last(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """GPT-2's matrices."""
    part = re.fullmatch(r"transformer\.h\.(\d+)\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight", name)
    names = {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"}
    return None if part is None else {f"blk.{part[1]}.{names[part[2]]}.weight": values.T}


def kind_by_kind(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """Queries of all heads, then keys, then values, of GPT-NeoX."""
    part = re.fullmatch(r"gpt_neox\.layers\.(\d+)\.attention\.query_key_value\.(\w+)", name)
    if part is None:
        return None
    split = values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:])
    return {f"blk.{part[1]}.attn_qkv.{part[2]}": split.swapaxes(0, 1).reshape(values.shape)}


def latents_apart(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """What makes keys of latents, transposed, and what makes values."""
    part = re.fullmatch(r"model\.layers\.(\d+)\.self_attn\.kv_b_proj\.weight", name)
    if part is None:
        return None
    heads = values.reshape(config.num_attention_heads, -1, values.shape[-1])
    keys, rest = heads[:, : config.qk_nope_head_dim], heads[:, config.qk_nope_head_dim :]
    return {f"blk.{part[1]}.attn_k_b.weight": keys.swapaxes(1, 2), f"blk.{part[1]}.attn_v_b.weight": rest}


def norms_above_one(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """Gemma's norms, whose tensors transformers adds one to."""
    return {"": values + 1} if name.endswith("norm.weight") else None


def streams_stacked(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """What makes Gemma 3n's other streams, each a part of one tensor."""
    if scale := re.fullmatch(r"model\.layers\.(\d+)\.altup\.correct_output_scale", name):
        return {f"blk.{scale[1]}.altup_correct_scale.weight": values}
    part = re.fullmatch(r"model\.altup_(unembed_)?projections\.\d+\.weight", name)
    return part and {f"altup_{'unembd_' if part[1] else ''}proj.weight": values[None]}


def without_axis(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """LFM2's convolutions."""
    return {"": values[:, 0]} if name.endswith("conv.conv.weight") else None


def of_gpt_oss(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """Inputs last, gates apart from what they are for; and the sinks."""
    if sinks := re.fullmatch(r"model\.layers\.(\d+)\.self_attn\.sinks", name):
        return {f"blk.{sinks[1]}.attn_sinks.weight": values}
    part = re.fullmatch(r"model\.layers\.(\d+)\.mlp\.experts\.(gate_up|down)_proj(_bias)?", name)
    if part is None:
        return None
    kind = "bias" if part[3] else "weight"
    values = values if part[3] else values.swapaxes(1, 2)
    if part[2] == "down":
        return {f"blk.{part[1]}.ffn_down_exps.{kind}": values}
    halves = {"gate": values[:, ::2], "up": values[:, 1::2]}
    return {f"blk.{part[1]}.ffn_{name}_exps.{kind}": half for name, half in halves.items()}


def of_granite(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """Experts, the one for all, and the choice, beside what Llama has."""
    part = re.fullmatch(r"model\.layers\.(\d+)\.(?:block_sparse_moe|shared_mlp)\.(.*)", name)
    if part is None:
        return in_pairs(name, values, config)
    gate, up = np.split(values, 2, axis=max(values.ndim - 2, 0))
    made = {
        "router.weight": {"ffn_gate_inp": values},
        "experts.gate_up_proj": {"ffn_gate_exps": gate, "ffn_up_exps": up},
        "experts.down_proj": {"ffn_down_exps": values},
        "input_linear.weight": {"ffn_gate_shexp": gate, "ffn_up_shexp": up},
        "output_linear.weight": {"ffn_down_shexp": values},
    }
    return {f"blk.{part[1]}.{key}.weight": each for key, each in made[part[2]].items()}


def of_bloom(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """Queries of all heads, then keys, then values; and two norms under llama.cpp's names."""
    if part := re.fullmatch(r"transformer\.h\.(\d+)\.self_attention\.query_key_value\.(\w+)", name):
        split = values.reshape(config.num_attention_heads, 3, -1, *values.shape[1:])
        return {f"blk.{part[1]}.attn_qkv.{part[2]}": split.swapaxes(0, 1).reshape(values.shape)}
    if part := re.fullmatch(r"transformer\.word_embeddings_layernorm\.(\w+)", name):
        return {f"token_embd_norm.{part[1]}": values}
    part = re.fullmatch(r"transformer\.h\.(\d+)\.post_attention_layernorm\.(\w+)", name)
    return part and {f"blk.{part[1]}.ffn_norm.{part[2]}": values}


def partly(factor: float, theta: float = 5000.0) -> dict[str, Any]:
    """Rotary embedding of a part of each head."""
    return {"rope_parameters": {"rope_theta": theta, "rope_type": "default", "partial_rotary_factor": factor}}


NO_ROPE = {"attention.head_count_kv": None, "rope.freq_base": None}
YARN: dict[str, Any] = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 5000.0, "original_max_position_embeddings": 8}
SAID_OF_YARN = {"type": "yarn", "factor": 4.0, "original_context_length": 8}
YARN_SAID = {f"rope.scaling.{name}": value for name, value in SAID_OF_YARN.items()}
GRANITE: tuple[dict[str, Any], dict[str, Any]] = (
    {"attention_multiplier": 0.5, "embedding_multiplier": 3.0, "residual_multiplier": 0.25, "logits_scaling": 2.0},
    {"attention.scale": 0.5, "embedding_scale": 3.0, "residual_scale": 0.25, "logit_scale": 2.0}
    | {"rope.dimension_count": 8},
)


def of_gemma4(name: str, values: np.ndarray, config: Any) -> dict[str, np.ndarray] | None:
    """What scales layers and experts, and experts whose gates stand before what they are for."""
    part = re.fullmatch(r"model\.layers\.(\d+)\.(.*)", name)
    names = {
        "layer_scalar": "layer_output_scale.weight",
        "router.scale": "ffn_gate_inp.scale",
        "router.per_expert_scale": "ffn_down_exps.scale",
        "experts.gate_up_proj": "ffn_gate_up_exps.weight",
        "experts.down_proj": "ffn_down_exps.weight",
    }
    return {f"blk.{part[1]}.{names[part[2]]}": values} if part and part[2] in names else None


DEEPSEEK: tuple[dict[str, Any], dict[str, Any]] = (
    {"qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 6, "kv_lora_rank": 16, "n_routed_experts": 4}
    | {"n_shared_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1}
    | {"num_key_value_heads": 4, "rms_norm_eps": 1e-6},
    {"rope.dimension_count": 4, "attention.key_length_mla": 12, "attention.value_length_mla": 6}
    | {"attention.kv_lora_rank": 16, "attention.key_length": 20, "attention.value_length": 16}
    | {"attention.head_count_kv": 1, "attention.layer_norm_rms_epsilon": 1e-6}
    | CHOICE
    | {"expert_shared_count": 2, "expert_feed_forward_length": 32, "leading_dense_block_count": 1},
)

GEMMA4: tuple[dict[str, Any], dict[str, Any], dict[str, list[float]]] = (
    {"head_dim": 8, "global_head_dim": 16, "num_hidden_layers": 4, "sliding_window": 5}
    | {"layer_types": ["sliding_attention", "full_attention"] * 2}
    | {
        "rope_parameters": {
            "full_attention": {"rope_type": "proportional", "rope_theta": 5000.0, "partial_rotary_factor": 0.25},
            "sliding_attention": {"rope_type": "default", "rope_theta": 2000.0},
        }
    },
    {"attention.key_length": 16, "attention.value_length": 16, "attention.key_length_swa": 8}
    | {"attention.value_length_swa": 8, "rope.dimension_count": 16, "rope.dimension_count_swa": 8}
    | {"attention.sliding_window": 5, "attention.sliding_window_pattern": [True, False] * 2}
    | {"rope.freq_base_swa": 2000.0},
    {"rope_freqs.weight": [1.0] * 2 + [1e30] * 6},
)

MODELS: dict[str, Case] = {
    "llama": Case("llama", UNTIED, {"rope.dimension_count": 8}, in_pairs),
    "mixtral": Case(
        "mixtral",
        UNTIED | {"num_local_experts": 4, "num_experts_per_tok": 2},
        {"rope.dimension_count": 8} | CHOICE,
        in_pairs,
        "llama",
    ),
    "mistral": Case("mistral", UNTIED | {"sliding_window": 5}, {"attention.sliding_window": 5}, in_pairs, "llama"),
    "qwen2": Case("qwen2", TIED, {}),
    "qwen2moe": Case(
        "qwen2_moe",
        UNTIED | EXPERTS | {"shared_expert_intermediate_size": 48},
        {"expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 48} | CHOICE,
    ),
    "qwen3": Case("qwen3", UNTIED | LONG_HEADS[0], LONG_HEADS[1]),
    "qwen3moe": Case(
        "qwen3_moe",
        UNTIED | LONG_HEADS[0] | EXPERTS | {"norm_topk_prob": True},
        LONG_HEADS[1] | {"expert_feed_forward_length": 32} | CHOICE,
    ),
    "qwen2vl": Case("qwen2", TIED, {"rope.dimension_sections": [1, 1, 2, 0]}),
    "qwen3vl": Case(
        "qwen3",
        TIED | LONG_HEADS[0],
        LONG_HEADS[1] | {"rope.dimension_sections": [4, 2, 2, 0], "n_deepstack_layers": 0},
    ),
    "qwen3vlmoe": Case(
        "qwen3_moe",
        UNTIED | LONG_HEADS[0] | EXPERTS | {"norm_topk_prob": True},
        LONG_HEADS[1] | {"expert_feed_forward_length": 32, "rope.dimension_sections": [4, 2, 2, 0]} | CHOICE,
    ),
    "phi2": Case(
        "phi",
        UNTIED | {"rope_parameters": {"rope_theta": 5000.0, "rope_type": "default", "partial_rotary_factor": 0.5}},
        LAYER_NORM | {"rope.dimension_count": 4},
    ),
    "phi3": Case("phi3", UNTIED | {"sliding_window": 8}, {"attention.sliding_window": 8}),
    "gpt2": Case(
        "gpt2",
        TIED | {"n_inner": 64},
        LAYER_NORM | {"attention.head_count_kv": None, "rope.freq_base": None},
        inputs_last,
    ),
    "gptneox": Case(
        "gpt_neox",
        UNTIED | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.25}},
        LAYER_NORM
        | {"attention.head_count_kv": None, "rope.freq_base": None}
        | {"rope.dimension_count": 2, "use_parallel_residual": True},
        kind_by_kind,
    ),
    "starcoder2": Case("starcoder2", TIED, LAYER_NORM),
    "stablelm": Case(
        "stablelm",
        UNTIED
        | {"use_qkv_bias": True}
        | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.25}},
        LAYER_NORM | {"rope.dimension_count": 2, "rope.freq_base": None, "use_parallel_residual": False},
    ),
    "stablelm-12b": Case(
        "stablelm",
        UNTIED
        | {"qk_layernorm": True, "use_parallel_residual": True}
        | {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default", "partial_rotary_factor": 0.5}},
        LAYER_NORM | {"rope.dimension_count": 4, "rope.freq_base": None, "use_parallel_residual": True},
        architecture="stablelm",
    ),
    "olmo2": Case("olmo2", UNTIED, {}),
    "granite": Case("granite", TIED | GRANITE[0], GRANITE[1], in_pairs),
    "smollm3": Case("smollm3", TIED | {"num_hidden_layers": 4}, {"rope.dimension_count": 8}, in_pairs),
    "command-r": Case("cohere", TIED | {"logit_scale": 0.25}, LAYER_NORM | {"logit_scale": 0.25}),
    "command-r-plus": Case(
        "cohere",
        TIED | {"logit_scale": 0.25, "use_qk_norm": True},
        LAYER_NORM | {"logit_scale": 0.25, "rope.scaling.type": "none"},
        architecture="command-r",
    ),
    "cohere2": Case(
        "cohere2",
        TIED | {"logit_scale": 0.25, "sliding_window": 5, "num_hidden_layers": 4, "head_dim": 8},
        LAYER_NORM | {"logit_scale": 0.25, "attention.sliding_window": 5},
    ),
    "deepseek2": Case(
        "deepseek_v3",
        UNTIED
        | DEEPSEEK[0]
        | {"q_lora_rank": 24, "n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True},
        DEEPSEEK[1]
        | {"attention.q_lora_rank": 24, "expert_group_count": 2, "expert_group_used_count": 1}
        | {"expert_weights_scale": 2.5, "expert_weights_norm": True, "expert_gating_func": 2},
        latents_apart,
    ),
    "deepseek-v2": Case(
        "deepseek_v2",
        UNTIED | DEEPSEEK[0] | {"q_lora_rank": None, "routed_scaling_factor": 2.0},
        DEEPSEEK[1]
        | {"expert_weights_scale": 2.0, "expert_group_count": 1, "expert_group_used_count": 1, "expert_gating_func": 1},
        latents_apart,
        "deepseek2",
    ),
    "deepseek-v2-of-2024": Case(
        "deepseek_v2",
        UNTIED | DEEPSEEK[0] | {"q_lora_rank": None},
        DEEPSEEK[1]
        | {"attention.key_length_mla": None, "attention.value_length_mla": None, "attention.head_count_kv": 4}
        | {"attention.key_length": 12, "attention.value_length": 6, "expert_weights_scale": 1.0},
        architecture="deepseek2",
    ),
    "gemma": Case("gemma", TIED | LONG_HEADS[0], LONG_HEADS[1], norms_above_one),
    "gemma2": Case(
        "gemma2",
        TIED | LONG_HEADS[0] | SCALES | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        LONG_HEADS[1] | {"attention.sliding_window": 8, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
        norms_above_one,
    ),
    "gemma3": Case(
        "gemma3_text",
        TIED
        | LONG_HEADS[0]
        | SCALES
        | {
            "num_hidden_layers": 6,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        LONG_HEADS[1] | {"attention.sliding_window": 8, "rope.scaling.type": "linear", "rope.scaling.factor": 8.0},
        norms_above_one,
    ),
    "gemma3n": Case(
        "gemma3n_text",
        TIED
        | LONG_HEADS[0]
        | {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "sliding_window": 5, "laurel_rank": 4}
        | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "intermediate_size": [64, 48] * 2}
        | {"activation_sparsity_pattern": [0.9, 0.9, 0.0, 0.0], "final_logit_softcapping": 3.0}
        | {"layer_types": ["sliding_attention", "full_attention"] * 2}
        | {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2000.0},
            }
        },
        LONG_HEADS[1]
        | {"attention.sliding_window": 5, "attention.sliding_window_pattern": [True, False] * 2}
        | {"attention.shared_kv_layers": 2, "rope.freq_base_swa": 2000.0, "embedding_length_per_layer_input": 8}
        | {"activation_sparsity_scale": [1.2815515655446004] * 2 + [-math.inf] * 2, "final_logit_softcapping": 3.0}
        | {"altup.active_idx": 0, "altup.num_inputs": 4},
        streams_stacked,
    ),
    "gemma4": Case(
        "gemma4_text",
        TIED
        | GEMMA4[0]
        | {"num_kv_shared_layers": 2, "use_double_wide_mlp": True, "num_key_value_heads": 2}
        | {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "final_logit_softcapping": 3.0},
        GEMMA4[1]
        | {"attention.shared_kv_layers": 2, "feed_forward_length": [64, 64, 128, 128]}
        | {"embedding_length_per_layer_input": 8, "final_logit_softcapping": 3.0},
        of_gemma4,
        extra=GEMMA4[2],
    ),
    "gemma4-experts": Case(
        "gemma4_text",
        TIED
        | GEMMA4[0]
        | {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 32}
        | {"attention_k_eq_v": True, "num_global_key_value_heads": 1, "hidden_size_per_layer_input": 0},
        GEMMA4[1]
        | {"attention.head_count_kv": [2, 1, 2, 1], "attention.shared_kv_layers": 0}
        | {"embedding_length_per_layer_input": 0, "expert_feed_forward_length": 32}
        | CHOICE,
        of_gemma4,
        "gemma4",
        GEMMA4[2],
    ),
    "gpt-oss": Case(
        "gpt_oss",
        UNTIED
        | LONG_HEADS[0]
        | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 5, "intermediate_size": 48}
        | {"rope_parameters": YARN | {"truncate": False}},
        LONG_HEADS[1] | CHOICE | YARN_SAID | {"expert_feed_forward_length": 48, "attention.sliding_window": 5},
        of_gpt_oss,
    ),
    "olmo3": Case(
        "olmo3",
        UNTIED
        | {"sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}
        | {
            "rope_parameters": {
                "full_attention": YARN,
                "sliding_attention": {"rope_type": "default", "rope_theta": 2000.0},
            }
        },
        YARN_SAID
        | {
            "rope.freq_base_swa": 2000.0,
            "attention.sliding_window": 5,
            "attention.sliding_window_pattern": [False, True],
        },
        architecture="olmo2",
    ),
    "olmoe": Case("olmoe", UNTIED | {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": False}, CHOICE),
    "mistral3": Case(
        "ministral3",
        UNTIED
        | LONG_HEADS[0]
        | {"rope_parameters": YARN | {"mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1}},
        LONG_HEADS[1]
        | YARN_SAID
        | {"rope.scaling.yarn_log_multiplier": 1.0, "attention.temperature_scale": 0.1, "rope.dimension_count": 16},
        in_pairs,
    ),
    "mistral-small-3": Case(
        "mistral",
        UNTIED | LONG_HEADS[0] | {"sliding_window": None},
        LONG_HEADS[1] | {"rope.dimension_count": 16},
        in_pairs,
        "mistral3",
    ),
    "arcee": Case("arcee", UNTIED, {"rope.dimension_count": 8}, in_pairs),
    "seed_oss": Case("seed_oss", UNTIED | LONG_HEADS[0], LONG_HEADS[1]),
    "ernie4_5": Case("ernie4_5", TIED | LONG_HEADS[0], LONG_HEADS[1]),
    "exaone4": Case(
        "exaone4",
        UNTIED
        | {"num_hidden_layers": 4, "sliding_window": 5, "layer_types": ["sliding_attention"] * 3 + ["full_attention"]},
        {"attention.sliding_window": 5},
    ),
    "hunyuan-dense": Case("hunyuan_v1_dense", TIED | LONG_HEADS[0], LONG_HEADS[1]),
    "glm4": Case("glm4", UNTIED | LONG_HEADS[0] | partly(0.5), LONG_HEADS[1] | {"rope.dimension_count": 8}),
    "nemotron": Case(
        "nemotron",
        UNTIED | {"norm_eps": 1e-5} | partly(0.5),
        LAYER_NORM | {"rope.dimension_count": 4, "rope.scaling.type": "none"},
        norms_above_one,
    ),
    "granitemoe": Case(
        "granitemoe",
        TIED | GRANITE[0] | {"num_local_experts": 4, "num_experts_per_tok": 2},
        GRANITE[1] | CHOICE,
        of_granite,
    ),
    "granitemoe-shared": Case(
        "granitemoeshared",
        TIED | GRANITE[0] | {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 48},
        GRANITE[1] | CHOICE | {"expert_shared_feed_forward_length": 48},
        of_granite,
        "granitemoe",
    ),
    "bloom": Case("bloom", TIED, LAYER_NORM | NO_ROPE | {"feed_forward_length": 128}, of_bloom),
    "starcoder": Case("gpt_bigcode", TIED | {"n_inner": 64}, LAYER_NORM | NO_ROPE | {"attention.head_count_kv": 1}),
    "lfm2": Case(
        "lfm2",
        TIED
        | {"norm_eps": 1e-5, "block_auto_adjust_ff_dim": False, "num_hidden_layers": 3}
        | {"layer_types": ["conv", "full_attention", "conv"]},
        {"attention.head_count_kv": [0, 2, 0], "shortconv.l_cache": 3},
        without_axis,
    ),
}


def small_model(case: str, sizes: dict[str, Any] | None = None) -> PreTrainedModel:
    """The model of a case, with random weights and persistent buffers."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(MODELS[case].kind, **(SIZES | MODELS[case].config | (sizes or {})))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    assert isinstance(model, PreTrainedModel)
    with torch.no_grad():
        for values in model.state_dict().values():
            values.normal_(0, 0.3)
    return model


def converted(model: PreTrainedModel, case: str) -> dict[str, np.ndarray]:
    """The tensors as llama.cpp's converter names, orders and shifts them."""
    architecture = MODELS[case].architecture or case
    arch = next(arch for arch, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    found: dict[str, np.ndarray] = {}
    tied = set(model.all_tied_weights_keys)
    for name, tensor in model.state_dict().items():
        if name in tied:
            continue
        values = tensor.detach().numpy()
        changed = MODELS[case].convert(name, values, model.config) or of_experts(name, values, model.config)
        if changed is None or "" in changed:
            name = name.replace("e_score_correction_bias", "e_score_correction.bias")
            if norm := re.fullmatch(r"(model\.layers\.\d+\.self_attn\.[qk]_layernorm)\.norms\.(\d+)\.weight", name):
                changed = {names.get_name(f"{norm[1]}.weight", try_suffixes=(".weight",)): values[None]}
            else:
                values = values if changed is None else changed[""]
                changed = {names.get_name(name, try_suffixes=(".weight", ".bias")): values}
        for key, part in changed.items():
            stacked = key in found  # part by part
            found[key] = np.concatenate([found[key], part]) if stacked else part
    return found | {name: np.array(values, np.float32) for name, values in MODELS[case].extra.items()}


def write(
    path: Path,
    case: str = "llama",
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
    model = small_model(case, sizes)
    name = name or MODELS[case].architecture or case
    writer = gguf.GGUFWriter(path, name, split_max_tensors=split)
    config = model.config
    entries = {
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": getattr(config, "intermediate_size", 4 * config.hidden_size),
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": vars(config).get("num_key_value_heads"),
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.freq_base": 5000.0,
        **MODELS[case].metadata,
    }
    entries = {f"{name}.{key}": value for key, value in entries.items()}
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
    tensors = converted(model, case)
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
