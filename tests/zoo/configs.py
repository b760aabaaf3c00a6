"""Tiny causal language models, one for every model type that transformers maps to a causal LM.

One function for all: known names of sizes are set wherever a configuration, or one inside it, has them; of the layers
that the default configuration has, one of each kind is kept. What a type needs beyond that is in `overrides`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.zoo.overrides import OVERRIDES, UNUSABLE
from tests.zoo.sizes import OPTIONAL, SIZES
from tests.zoo.weights import randomise

MODEL_TYPES: tuple[str, ...] = tuple(sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))

# The fields that say, layer by layer, of what kind it is.
_KINDS = ("layer_types", "layers_block_type", "block_types", "mlp_layer_types", "indexer_types", "no_rope_layers")


def build(model_type: str, seed: int = 0) -> PreTrainedModel:
    """A tiny model of this type: random weights (the same for the same seed), float32, eager attention, no cache.

    Raises ValueError for a type in `UNUSABLE`, and whatever transformers raises where its sizes do not fit together.
    """
    if model_type in UNUSABLE:
        raise ValueError(f"{model_type}: {UNUSABLE[model_type]}")
    config = tiny_config(model_type)
    model_class = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[model_type]]
    wanted = model_class.config_class
    if not isinstance(config, wanted):  # the language model beside an encoder or a vision tower
        config = next((part for part in vars(config).values() if isinstance(part, wanted)), config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = model_class._from_config(config, attn_implementation="eager").float().eval()
    model.config.use_cache = False
    randomise(model, vocabulary(model), seed)
    return model


def vocabulary(model: PreTrainedModel) -> int:
    """The number of token ids that a model takes."""
    return int(model.config.get_text_config(decoder=True).vocab_size)


def tiny_config(model_type: str) -> PreTrainedConfig:
    """The configuration of a type at its smallest."""
    config_class = CONFIG_MAPPING[model_type]
    overrides = copy.deepcopy(dict(OVERRIDES.get(model_type, {})))
    default = config_class(**overrides.pop("__default__", {}))
    return config_class(**_arguments(default, overrides))


def _arguments(default: PreTrainedConfig, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What to construct a configuration of `default`'s class with; overrides of inner ones are in dicts."""
    names = {field.name for field in dataclasses.fields(default)}
    fields = {name: value for name, value in vars(default).items() if name in names}
    arguments = {name: SIZES[name] for name in sorted(names & SIZES.keys())}
    arguments |= {name: OPTIONAL[name] for name in sorted(names & OPTIONAL.keys()) if fields.get(name) is not None}
    if fields.get("qk_rope_head_dim") is not None:  # multi-head latent attention: every head has keys of its own
        arguments |= {name: SIZES["num_attention_heads"] for name in ("num_key_value_heads",) if name in names}
        if "head_dim" in names:  # the part that is rotated
            arguments["head_dim"] = SIZES["qk_rope_head_dim"]
    arguments |= _layers(fields)
    parts = {name: value for name, value in vars(default).items() if isinstance(value, PreTrainedConfig)}
    for name, part in parts.items():
        arguments[name] = _arguments(part, overrides.get(name, {}))
        if "model_type" in part.to_dict():
            arguments[name]["model_type"] = part.model_type
    arguments |= {name: value for name, value in overrides.items() if name not in parts}
    return arguments


def _layers(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The shortest stack with one of each kind of layer of the default one, and at least two layers."""
    lists = {name: fields[name] for name in _KINDS if isinstance(fields.get(name), list | tuple)}
    lists = {name: value for name, value in lists.items() if len(value) == fields.get("num_hidden_layers")}
    if not lists:
        return {}
    kept = list(dict.fromkeys(zip(*lists.values(), strict=True)))
    if len(kept) == 1:
        kept *= 2
    return {name: [kind[place] for kind in kept] for place, name in enumerate(lists)} | {"num_hidden_layers": len(kept)}
