"""What single model types need beyond the common sizes, each with the reason, and the types that cannot be used."""

from __future__ import annotations

from typing import Any

from tests.zoo.sizes import TOP_K, VOCABULARY

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# Two layers that make keys and values, two that reuse them.
_SHARED_KEYS = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 12,
}

# The constructors of transformers 5.17 want all three parts. One codebook: then ids are [batch, sequence] and logits
# [batch, sequence, vocabulary], as for text.
_MUSIC: dict[str, Any] = {
    "__default__": {"text_encoder": {"model_type": "t5"}, "audio_encoder": {"model_type": "encodec"}, "decoder": {}},
    "decoder": {"num_codebooks": 1},
}

# Given to the constructor over the common sizes; dicts are for the configurations inside. `__default__` is given to
# the constructor of the default configuration.
OVERRIDES: dict[str, dict[str, Any]] = {
    # without this, all layers of the default configuration are recurrent
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"], "num_hidden_layers": 2},
    # block-sparse attention turns itself into full attention for short sequences; said before it is traced
    "big_bird": {"attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
    # bytes grouped into patches: the four models inside know each other's width
    "blt": {
        "cross_attn_k": 1,
        "encoder_hash_byte_group_size": [3, 4],
        "encoder_hash_byte_group_vocab": 97,
        "encoder_config": {"hidden_size_global": 64, "cross_attn_k": 1},
        "decoder_config": {"hidden_size_global": 64, "cross_attn_k": 1},
    },
    # its rotary embedding is looked up by layer type, which the default rope_parameters do not have
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "num_hidden_layers": 2,
        "rope_parameters": {
            "sliding_attention": {**_ROPE, "mrope_section": [4, 2, 2]},
            "full_attention": {**_ROPE, "rope_theta": 50000.0, "mrope_section": [4, 2, 2]},
        },
    },
    # the attention reads its rotary base from its own configuration, which has no such field
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 2.0},
        "ffn_config": {"hidden_size": 64, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    # one KV head is all it supports; compressed blocks shorter than the sequence; the default leaves one rotated pair
    "deepseek_v4": {
        "num_hidden_layers": 4,
        "layer_types": [
            "heavily_compressed_attention",
            "compressed_sparse_attention",
            "sliding_attention",
            "compressed_sparse_attention",
        ],
        "mlp_layer_types": ["hash_moe", "hash_moe", "moe", "moe"],
        "compress_rates": {"compressed_sparse_attention": 2, "heavily_compressed_attention": 8},
        "partial_rotary_factor": 0.5,
        "num_key_value_heads": 1,
        "index_topk": TOP_K,
        "o_groups": 2,
        "o_lora_rank": 12,
        "hc_sinkhorn_iters": 3,
    },
    "doge": {"keep_window_size": 8},
    # the number of experts has no default
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_local_experts": 4},
    # the sliding layers have sizes of their own; checks that heads are the sum of their parts
    "dots3_note_text": {
        "head_dim": 20,
        "n_group": 1,
        "layer_types": ["indexed_attention", "sliding_attention"],
        "mlp_layer_types": ["dense", "sparse"],
        "num_hidden_layers": 2,
        "per_layer_config": {
            1: {
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "q_lora_rank": 24,
                "kv_lora_rank": 18,
                "head_dim": 24,
                "qk_nope_head_dim": 16,
                "qk_rope_head_dim": 8,
                "v_head_dim": 12,
            }
        },
    },
    "gemma3n_text": {
        **_SHARED_KEYS,
        "activation_sparsity_pattern": [0.5, 0.0, 0.5, 0.0],
        "intermediate_size": [48, 48, 48, 48],
        "laurel_rank": 8,
    },
    "gemma4_text": {**_SHARED_KEYS, "global_head_dim": 24},
    "gemma4_unified_text": {"global_head_dim": 24},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "inkling_text": {"logits_mup_width_multiplier": 2.0},
    # a layer of attention and one of experts in three
    "jamba": {
        "num_hidden_layers": 3,
        "attn_layer_period": 3,
        "attn_layer_offset": 1,
        "expert_layer_period": 3,
        "expert_layer_offset": 2,
    },
    # all layers would see everything
    "laguna": {"layer_types": ["full_attention", "sliding_attention"], "num_attention_heads_per_layer": [4, 2]},
    "mellum": {"layer_types": ["full_attention", "sliding_attention"]},
    # the kinds of layers have no default
    "lfm2": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]},
    "lfm2_moe": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]},
    # queries are scaled by position from here on, within the lengths that are tried
    "llama4_text": {
        "num_hidden_layers": 3,
        "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        "no_rope_layers": [1, 0, 1],
        "moe_layers": [1],
        "floor_scale": 16,
    },
    # two attentions a layer
    "longcat_flash": {"num_layers": 1, "zero_expert_num": 2},
    # checked to be `expand` times the width
    "mamba2": {"num_heads": 8, "head_dim": 16},
    # logits are divided by the width over this, whose default is four times the tiny width
    "minicpm3": {"dim_model_base": 32},
    # an attention layer of each kind; blocks of few keys; a head of the indexer for each KV head
    "minimax_m3_vl_text": {
        "layer_types": ["full_attention", "minimax_m3_sparse"],
        "mlp_layer_types": ["dense", "sparse"],
        "num_hidden_layers": 2,
        "index_n_heads": 2,
        "index_block_size": 4,
        "index_topk_blocks": 2,
    },
    "musicgen": _MUSIC,
    "musicgen_melody": _MUSIC,
    # the indexer and the embeddings of n-grams have no default sizes
    "qwen4_exp_text": {
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 4,
        "ple_layer_ids": [1],
        "ple_embed_dim": 16,
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 97,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
        "hc_lowrank": 8,
    },
    # two recurrent layers, then one of attention
    "recurrent_gemma": {"num_hidden_layers": 3},
    # positions factored into axes of 8 x 16
    "reformer": {
        "axial_pos_shape": [8, 16],
        "axial_pos_embds_dim": [32, 32],
        "attn_layers": ["local", "lsh"],
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "num_buckets": 2,
        "hash_seed": 0,
    },
    "rembert": {"input_embedding_size": 40, "output_embedding_size": 72},
    "roc_bert": {
        "shape_vocab_size": VOCABULARY,
        "shape_embed_dim": 24,
        "pronunciation_vocab_size": VOCABULARY,
        "pronunciation_embed_dim": 20,
    },
    # its adapters are chosen by language
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    # all hybrid layers share the weights of the first: there have to be two
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_head_dim": 32,
        "num_key_value_heads": 4,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "num_key_value_heads": 4,
        "adapter_rank": 8,
    },
    # allows one expert a token only
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 20},
}
for _name in ("dots3_note", "gemma4", "gemma4_unified", "qwen4_exp", "llama4"):
    OVERRIDES[_name] = {"text_config": OVERRIDES[f"{_name}_text"]}
OVERRIDES["dots3_note"] |= {
    "vision_config": {"adapter_in_dim": 64, "adapter_out_dim": 64},
    "audio_config": {"adapter_input_size": 64, "adapter_output_size": 64},
}

# Types that cannot be built alone, or whose forward does not map token ids to logits without a cache.
_TARGET = "drafts for another model, whose hidden states, keys and values are its input"
UNUSABLE: dict[str, str] = {
    "gemma3n": "its vision tower is built by timm, another library; the language model alone is gemma3n_text",
    "gemma4_assistant": _TARGET,
    "gemma4_unified_assistant": _TARGET,
}
