"""Architectures of GGUF files as configurations of transformers: a row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from burnish.frontend import gguf_gemma
from burnish.frontend import gguf_special as special
from burnish.frontend.gguf_changes import (
    BIAS_OF_CHOICE,
    CHANNELS_APART,
    EXPERTS_OF_GPT_OSS,
    FROM_LATENTS,
    HEAD_BY_HEAD,
    INPUTS_FIRST,
    NORM_BEHIND_ALL,
    NORM_OF_EACH_HEAD,
    NORMS_FROM_ONE,
    NORMS_OF_BLOOM,
    PAIRS_SIDE_BY_SIDE,
    ROUTER_AND_SHARED,
    SCALES_OF_LAYERS,
    STREAMS,
    keys_of_sharing_layers,
)
from burnish.frontend.gguf_facts import Facts
from burnish.frontend.gguf_rope import ROPE_FACTORS, rope_parameters
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
    unused: Callable[[PreTrainedConfig], set[str]] = lambda config: set()  # tensors that nothing computes with


def config_of(facts: Facts) -> PreTrainedConfig:
    """The configuration. Raises InvalidModelError for a file that says too little, or what is not understood."""
    architecture = ARCHITECTURES[facts.architecture]
    tensors = facts.file.tensors
    if "token_embd.weight" not in tensors:
        raise WeightError(f"{facts.file.path} has no tensor 'token_embd.weight', the embedding of the tokens")
    metadata = facts.file.metadata
    own = architecture.special(facts)
    heads, hidden = facts.number("attention.head_count"), facts.number("embedding_length")
    head_dim = facts.get("attention.key_length", hidden // heads)
    if "v_head_dim" not in own and facts.get("attention.value_length", head_dim) != head_dim:
        raise InvalidModelError(f"{facts.file.path}: keys and values of different lengths are not read")
    norm = architecture.layer_norm
    facts.get(f"attention.layer_norm_{'rms_' if norm else ''}epsilon")  # of norms that the architecture has not
    common: dict[str, Any] = {
        "vocab_size": tensors["token_embd.weight"].shape[0],
        "hidden_size": hidden,
        "num_hidden_layers": facts.number("block_count"),
        "num_attention_heads": heads,
        "head_dim": head_dim,
        "max_position_embeddings": facts.number("context_length"),
        norm or "rms_norm_eps": facts.number(f"attention.layer_norm_{'' if norm else 'rms_'}epsilon"),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    common |= {f"{name}_token_id": metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in _TOKENS.items()}
    for name, key in _NUMBERS.items():
        if facts.get(key) is not None and name not in own:
            common[name] = facts.number(key)
    common.setdefault("num_key_value_heads", heads)
    if "rope_parameters" not in own:
        common["rope_parameters"] = rope_parameters(facts, head_dim, partial=architecture.partial_rotary)
    model_type = architecture.model_type
    return AutoConfig.for_model(model_type if isinstance(model_type, str) else model_type(facts), **{**common, **own})


_NUMBERS = {"intermediate_size": "feed_forward_length", "num_key_value_heads": "attention.head_count_kv"}
_TOKENS = {"bos": "bos", "eos": "eos", "pad": "padding"}


ARCHITECTURES = {
    "llama": Architecture(special.llama_type, special.llama, changes=PAIRS_SIDE_BY_SIDE),
    "qwen2": Architecture("qwen2"),
    "qwen2moe": Architecture("qwen2_moe", special.qwen2moe),
    "qwen3": Architecture("qwen3", special.qwen3),
    "qwen3moe": Architecture("qwen3_moe", special.qwen3moe),
    "qwen2vl": Architecture("qwen2", special.seeing),
    "qwen3vl": Architecture("qwen3", lambda facts: special.seeing(facts) | special.qwen3(facts)),
    "qwen3vlmoe": Architecture("qwen3_moe", lambda facts: special.seeing(facts) | special.qwen3moe(facts)),
    "phi3": Architecture("phi3", special.phi3, partial_rotary=True),
    "phi2": Architecture("phi", layer_norm="layer_norm_eps", partial_rotary=True),
    "gpt2": Architecture("gpt2", special.gpt2, layer_norm="layer_norm_epsilon", changes=INPUTS_FIRST),
    "gptneox": Architecture(
        "gpt_neox", special.gptneox, layer_norm="layer_norm_eps", partial_rotary=True, changes=HEAD_BY_HEAD
    ),
    "starcoder2": Architecture("starcoder2", special.starcoder2, layer_norm="norm_epsilon"),
    "stablelm": Architecture(
        "stablelm", special.stablelm, layer_norm="layer_norm_eps", partial_rotary=True, made=(NORM_OF_EACH_HEAD,)
    ),
    "olmo2": Architecture(special.olmo2_type, special.olmo2),
    "olmoe": Architecture("olmoe", special.olmoe),
    "gpt-oss": Architecture("gpt_oss", special.gpt_oss, made=EXPERTS_OF_GPT_OSS),
    "mistral3": Architecture(special.mistral3_type, special.mistral3, changes=PAIRS_SIDE_BY_SIDE),
    "arcee": Architecture("arcee", special.biased, changes=PAIRS_SIDE_BY_SIDE),
    "seed_oss": Architecture("seed_oss", special.seed_oss),
    "ernie4_5": Architecture("ernie4_5", special.ernie4_5),
    "exaone4": Architecture("exaone4", special.exaone4),
    "hunyuan-dense": Architecture("hunyuan_v1_dense", special.qwen3),
    "glm4": Architecture("glm4", special.qwen3, partial_rotary=True),
    "nemotron": Architecture(
        "nemotron", special.biased, layer_norm="norm_eps", partial_rotary=True, changes=NORMS_FROM_ONE
    ),
    "bloom": Architecture("bloom", layer_norm="layer_norm_epsilon", made=NORMS_OF_BLOOM, changes=HEAD_BY_HEAD),
    "starcoder": Architecture("gpt_bigcode", special.starcoder, layer_norm="layer_norm_epsilon"),
    "granite": Architecture("granite", special.granite, changes=PAIRS_SIDE_BY_SIDE),
    "granitemoe": Architecture(
        special.granitemoe_type, special.granitemoe, made=ROUTER_AND_SHARED, changes=PAIRS_SIDE_BY_SIDE
    ),
    "smollm3": Architecture("smollm3", changes=PAIRS_SIDE_BY_SIDE),
    "command-r": Architecture("cohere", special.cohere, layer_norm="layer_norm_eps"),
    "cohere2": Architecture("cohere2", special.cohere2, layer_norm="layer_norm_eps"),
    "deepseek2": Architecture(
        lambda facts: "deepseek_v3" if special.has_sigmoid(facts) else "deepseek_v2",
        special.deepseek2,
        made=(*FROM_LATENTS, BIAS_OF_CHOICE),
    ),
    "gemma": Architecture("gemma", changes=NORMS_FROM_ONE),
    "gemma2": Architecture("gemma2", gguf_gemma.gemma2, changes=NORMS_FROM_ONE),
    "gemma3": Architecture("gemma3_text", gguf_gemma.gemma3, changes=NORMS_FROM_ONE),
    "gemma3n": Architecture("gemma3n_text", gguf_gemma.gemma3n, made=STREAMS, unused=keys_of_sharing_layers),
    "gemma4": Architecture(
        "gemma4_text",
        gguf_gemma.gemma4,
        made=SCALES_OF_LAYERS,
        unused=lambda config: keys_of_sharing_layers(config) | {ROPE_FACTORS},  # the configuration has these
    ),
    "lfm2": Architecture("lfm2", special.lfm2, made=NORM_BEHIND_ALL, changes=CHANNELS_APART),
}

_SCAN = "its model in transformers loops over tokens or chunks of them, which is traced for no other length"
_LINEAR = "the linear attention of its model in transformers is not compiled yet"
_NO_MODEL = "transformers has no model for layers of different sizes, as it has"
REFUSED = {
    **dict.fromkeys(("mamba", "mamba2", "jamba", "falcon-h1", "granitehybrid", "nemotron_h"), _SCAN),
    **dict.fromkeys(("qwen3next", "qwen35", "qwen35moe"), _LINEAR),
    **dict.fromkeys(("deci", "openelm"), _NO_MODEL),
}
"""Architectures that are known, and not read, and why."""
