"""Tiny configurations with random weights of every causal language model of transformers.

One function for all: known names of sizes are set wherever a configuration has them, and of the layers that the default
configuration has, one of each kind is kept. What a type needs beyond that is in `overrides`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.zoo.overrides import OVERRIDES, UNBUILDABLE
from tests.zoo.weights import randomise

MODEL_TYPES: tuple[str, ...] = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
VOCABULARY = 131  # prime, so that no other size can be taken for it
MAX_LENGTH = 128
WINDOW = 8

# A value for every field of one of these names. No two axes of an activation have the same size where that can be had.
_NAMES: dict[int | float | bool | None, str] = {
    64: "hidden_size d_model n_embd embedding_dim emb_dim word_embed_proj_dim lru_width attention_hidden_size dim_model_base",
    2: """num_key_value_heads num_kv_heads num_key_value_groups swa_num_key_value_heads n_shared_experts num_shared_experts
        moe_num_shared_experts indexer_kv_heads linear_num_key_heads""",
}
