"""What single model types need beyond `sizes`, and the types that cannot be built."""

from __future__ import annotations

from typing import Any

from tests.zoo.sizes import TOP_K, VOCABULARY, WINDOW

_CONVOLUTION_THEN_ATTENTION = {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"]}
# Two layers that make keys and values, two that reuse them.
_SHARED_KEYS = {
    "num_hidden_layers": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 12,
}

OVERRIDES: dict[str, dict[str, Any]] = {
    # Without these, all layers of the default configuration are recurrent.
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["linear_attention", "full_attention"]},
    # The parts meet in widths of their own: the global model's is the local ones' times `cross_attn_k`.
    "blt": {
        "cross_attn_k": 2,
        "local_attention_window_len": WINDOW,
        "encoder_hash_byte_group_vocab": 97,
        "encoder_config": {"num_key_value_heads": 4, "hidden_size_global": 128},
        "decoder_config": {"num_key_value_heads": 4, "hidden_size_global": 128},
        "global_config": {"num_key_value_heads": 4, "hidden_size": 128},
        "patcher_config": {"num_key_value_heads": 4},
    },
    # Its rotary parameters are a table by kind of layer.
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"],
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 50000.0},
        },
    },
    # The attention reads `rope_theta` from its part of the configuration, which has no such field of its own.
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_top_k": 2},
    },
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
        "num_key_value_heads": 1,  # all it supports
        "partial_rotary_factor": 0.5,  # the default leaves one rotated pair of so small a head
        "index_topk": TOP_K,
        "o_groups": 2,
        "o_lora_rank": 12,
    },
    "dots3_note_text": {
        "head_dim": 20,  # checked to be the sum of its two parts
        "per_layer_config": {
            2: {
                "num_attention_heads": 4,
                "num_key_value_heads": 4,
                "q_lora_rank": 24,
                "kv_lora_rank": 20,
                "head_dim": 24,
                "qk_nope_head_dim": 16,
                "qk_rope_head_dim": 8,
                "v_head_dim": 12,
            }
        },
        "n_group": 1,  # at least two experts a group
    },
    "gemma3n_text": {**_SHARED_KEYS, "activation_sparsity_pattern": [0.95, 0.0, 0.95, 0.0], "laurel_rank": 8},
    "gemma4_text": {**_SHARED_KEYS, "global_head_dim": 32},
    "gemma4_unified_text": {"global_head_dim": 32},
    "gemma4_text": {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 131, "global_head_dim": 24},
    "gemma4_unified_text": {"global_head_dim": 24},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "inkling_text": {"logits_mup_width_multiplier": 2.0},
    "laguna": {"num_attention_heads_per_layer": [4, 2]},
    "lfm2": _CONVOLUTION_THEN_ATTENTION,
    "lfm2_moe": _CONVOLUTION_THEN_ATTENTION,
    "llama4_text": {
        "num_hidden_layers": 3,
        "layer_types": ["chunked_attention", "full_attention", "chunked_attention"],
        "no_rope_layers": [1, 0, 1],
        "moe_layers": [1],
        "floor_scale": 16,  # queries are scaled by position: let it start within the lengths that are tried
    },
    "longcat_flash": {"num_layers": 1, "head_dim": 8, "zero_expert_num": 2},  # two attentions a layer
    "mamba2": {"num_heads": 8, "head_dim": 16},  # checked to be `expand` times the width
    # One codebook: then ids are [batch, sequence] and logits [batch, sequence, vocabulary], as for text.
    "musicgen": {"num_codebooks": 1},
    "musicgen_melody": {"num_codebooks": 1},
    "moshi": {"audio_vocab_size": 50},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 8,
        "indexer_compress_ratio": 2,
        "ple_layer_ids": [1],
        "ple_embed_dim": 16,
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 97,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 2,
        "hc_lowrank": 8,
    },
    "reformer": {
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [16, 8],
        "axial_pos_embds_dim": [24, 40],
        "local_attn_chunk_length": WINDOW,
        "lsh_attn_chunk_length": WINDOW,
        "num_buckets": 2,
        "hash_seed": 0,
    },
    "roc_bert": {
        "shape_vocab_size": VOCABULARY,
        "shape_embed_dim": 24,
        "pronunciation_vocab_size": VOCABULARY,
        "pronunciation_embed_dim": 20,
    },
    "rembert": {"input_embedding_size": 40, "output_embedding_size": 72},
    "xmod": {"default_language": "en_XX"},
    # The first hybrid layer holds the weights that later ones share.
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
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 20},  # one expert is all it supports
}

_NEEDS_TARGET = "it continues another model: its layers attend to that model's keys and values, given as an input"
UNBUILDABLE: dict[str, str] = {
    "gemma4_assistant": _NEEDS_TARGET,
    "gemma4_unified_assistant": _NEEDS_TARGET,
}
