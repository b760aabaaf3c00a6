"""What llama.cpp's conversion does to the weights of an architecture, undone."""

from __future__ import annotations

import torch
from transformers import PreTrainedConfig

from burnish.frontend.dequantize import half_split
from burnish.frontend.gguf_tensors import Change, Made
from burnish.ir.weights import Concat, Offset, Permute, Reshape, Rows, Weight


def _queries(weight: Weight, config: PreTrainedConfig) -> Weight:
    return half_split(weight, config.num_attention_heads)


def _keys(weight: Weight, config: PreTrainedConfig) -> Weight:
    return half_split(weight, config.num_key_value_heads)


PAIRS_SIDE_BY_SIDE: dict[str, Change] = {r"\.self_attn\.q_proj\.": _queries, r"\.self_attn\.k_proj\.": _keys}
"""Rows of Q and K as rotary embedding of side-by-side pairs wants them; transformers has them in halves."""

NORMS_FROM_ONE: dict[str, Change] = {r"norm\.weight$": lambda weight, _: Offset(weight, -1.0)}
"""transformers has the scale of norms as its distance from one."""


def _transposed(weight: Weight, _: PreTrainedConfig) -> Weight:
    return Permute(weight, (1, 0))


INPUTS_FIRST: dict[str, Change] = {r"\.(c_attn|c_proj|c_fc)\.weight$": _transposed}
"""GPT-2's matrices."""


def _head_by_head(weight: Weight, config: PreTrainedConfig) -> Weight:
    rows = torch.arange(weight.shape[0]).reshape(3, config.num_attention_heads, -1)
    return Rows(weight, rows.transpose(0, 1).flatten())


HEAD_BY_HEAD: dict[str, Change] = {r"\.query_key_value\.": _head_by_head}
"""Queries, keys and values of one head and then of the next; the file has those of all heads behind each other."""


def _one_head(parts: list[Weight], groups: tuple[str, ...], _: PreTrainedConfig) -> Weight:
    (weight,) = parts
    return Reshape(Rows(weight, torch.tensor([int(groups[2])])), (weight.shape[-1],))


NORM_OF_EACH_HEAD = Made(
    r"model\.layers\.(\d+)\.self_attn\.([qk])_layernorm\.norms\.(\d+)\.weight",
    ("blk.{0}.attn_{1}_norm.weight",),
    _one_head,
)
"""StableLM's norms of queries and keys: one tensor for all heads."""


def _latents(parts: list[Weight], *_: object) -> Weight:
    """[heads, rank, nope] and [heads, value, rank] as [heads * (nope + value), rank]."""
    keys, values = parts
    joined = Concat((Permute(keys, (0, 2, 1)), values), axis=1)
    return Reshape(joined, (joined.shape[0] * joined.shape[1], joined.shape[2]))


_KV_B = r"model\.layers\.(\d+)\.self_attn\.kv_b_proj\.weight"
FROM_LATENTS = (
    Made(_KV_B, ("blk.{0}.attn_k_b.weight", "blk.{0}.attn_v_b.weight"), _latents),
    Made(_KV_B, ("blk.{0}.attn_kv_b.weight",)),  # until 2025
)
"""What multi-head latent attention makes keys and values with."""

BIAS_OF_CHOICE = Made(r"model\.layers\.(\d+)\.mlp\.gate\.e_score_correction_bias", ("blk.{0}.exp_probs_b.bias",))
"""What is added to the scores of experts for choosing them."""


def _one_of(parts: list[Weight], groups: tuple[str, ...], _: PreTrainedConfig) -> Weight:
    (weight,) = parts
    return Reshape(Rows(weight, torch.tensor([int(groups[0])])), weight.shape[1:])


STREAMS = (
    Made(r"model\.altup_projections\.(\d+)\.weight", ("altup_proj.weight",), _one_of),
    Made(r"model\.altup_unembed_projections\.(\d+)\.weight", ("altup_unembd_proj.weight",), _one_of),
    Made(r"model\.layers\.(\d+)\.altup\.correct_output_scale", ("blk.{0}.altup_correct_scale.weight",)),
)
"""What Gemma 3n makes its other streams with: one tensor for all."""


def keys_of_sharing_layers(config: PreTrainedConfig) -> set[str]:
    """Keys and values of Gemma's layers that use those of earlier ones: files have them, and nothing reads them."""
    last = config.num_hidden_layers
    layers = range(last - config.num_kv_shared_layers, last)
    return {f"blk.{layer}.attn_{name}.weight" for layer in layers for name in ("k", "v", "k_norm")}


NORM_BEHIND_ALL = (
    Made(r"model\.embedding_norm\.weight", ("token_embd_norm.weight",)),
    Made(r"model\.embedding_norm\.weight", ("output_norm.weight",)),
)
"""LFM2's last norm, which goes by either name."""


def _with_axis(weight: Weight, _: PreTrainedConfig) -> Weight:
    channels, taps = weight.shape
    return Reshape(weight, (channels, 1, taps))


CHANNELS_APART: dict[str, Change] = {r"\.conv\.conv\.weight$": _with_axis}
"""A convolution of each channel by itself."""


def _by_turns(parts: list[Weight], *_: object) -> Weight:
    """[experts, n, ...] twice as [experts, 2 * n, ...]: the first of each, then the second of each."""
    experts, count, *rest = parts[0].shape
    pairs = Concat(tuple(Reshape(part, (experts, count, 1, *rest)) for part in parts), axis=2)
    return Reshape(pairs, (experts, 2 * count, *rest))


def _by_turns_inputs_first(parts: list[Weight], *_: object) -> Weight:
    return Permute(_by_turns(parts), (0, 2, 1))


def _inputs_first(parts: list[Weight], *_: object) -> Weight:
    return Permute(parts[0], (0, 2, 1))


_GPT_OSS = r"model\.layers\.(\d+)\.mlp\.experts\."
EXPERTS_OF_GPT_OSS = (
    Made(
        _GPT_OSS + "gate_up_proj",
        ("blk.{0}.ffn_gate_exps.weight", "blk.{0}.ffn_up_exps.weight"),
        _by_turns_inputs_first,
    ),
    Made(_GPT_OSS + "gate_up_proj_bias", ("blk.{0}.ffn_gate_exps.bias", "blk.{0}.ffn_up_exps.bias"), _by_turns),
    Made(_GPT_OSS + "down_proj", ("blk.{0}.ffn_down_exps.weight",), _inputs_first),
    Made(_GPT_OSS + "down_proj_bias", ("blk.{0}.ffn_down_exps.bias",)),
    Made(r"model\.layers\.(\d+)\.self_attn\.sinks", ("blk.{0}.attn_sinks.weight",)),
)
"""Matrices with inputs first, of which every other output is a gate; and the sinks."""


def _behind_each_other(parts: list[Weight], *_: object) -> Weight:
    return Concat(tuple(parts))


ROUTER_AND_SHARED = (
    Made(r"model\.layers\.(\d+)\.block_sparse_moe\.router\.weight", ("blk.{0}.ffn_gate_inp.weight",)),
    Made(
        r"model\.layers\.(\d+)\.shared_mlp\.input_linear\.weight",
        ("blk.{0}.ffn_gate_shexp.weight", "blk.{0}.ffn_up_shexp.weight"),
        _behind_each_other,
    ),
    Made(r"model\.layers\.(\d+)\.shared_mlp\.output_linear\.weight", ("blk.{0}.ffn_down_shexp.weight",)),
)
"""Granite's choice of experts, and the one that all tokens go to."""

NORMS_OF_BLOOM = (
    Made(r"transformer\.word_embeddings_layernorm\.(\w+)", ("token_embd_norm.{0}",)),
    Made(r"transformer\.h\.(\d+)\.post_attention_layernorm\.(\w+)", ("blk.{0}.ffn_norm.{1}",)),
)
"""Norms under names that gguf does not know."""

SCALES_OF_LAYERS = (
    Made(r"model\.layers\.(\d+)\.layer_scalar", ("blk.{0}.layer_output_scale.weight",)),
    Made(r"model\.layers\.(\d+)\.router\.scale", ("blk.{0}.ffn_gate_inp.scale",)),
    Made(r"model\.layers\.(\d+)\.router\.per_expert_scale", ("blk.{0}.ffn_down_exps.scale",)),
)
"""What Gemma 4 scales layers and experts by."""
