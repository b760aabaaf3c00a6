"""Rotary embedding as a GGUF file's metadata say it, in transformers' words."""

from __future__ import annotations

from typing import Any

from burnish.frontend.dequantize import weight_of
from burnish.frontend.gguf_facts import Facts
from burnish.ir.errors import WeightError

ROPE_FACTORS = "rope_freqs.weight"
"""The tensor of what frequencies are divided by, of llama 3.1 and later."""

FACTORS = {"short_factor": "rope_factors_short.weight", "long_factor": "rope_factors_long.weight"}
"""Tensors of what longrope divides frequencies by, up to the length of the training and beyond."""


def rope_parameters(facts: Facts, head_dim: int, *, partial: bool = False) -> dict[str, Any]:
    """The parameters of heads of `head_dim`. `partial`: whether the architecture may rotate a part of them only."""
    found: dict[str, Any] = {"rope_type": "default", "rope_theta": float(facts.get("rope.freq_base", 10000.0))}
    rotated = facts.get("rope.dimension_count", head_dim)
    if partial:
        found["partial_rotary_factor"] = rotated / head_dim
    elif rotated != head_dim:
        raise facts.wrong(
            "rope.dimension_count",
            f"is {rotated}, but heads have {head_dim} dimensions: rotary embedding of a part of them is not read for "
            "this architecture",
        )
    # Files of 2023 have the factor alone, under either name.
    factor = facts.get("rope.scaling.factor", facts.get("rope.scale_linear", 1.0))
    scaling = facts.get("rope.scaling.type", "none" if factor in (0.0, 1.0) else "linear")
    if FACTORS["long_factor"] in facts.file.tensors:  # whatever type files say, if any
        found |= _longrope(facts)
    elif scaling == "linear":
        found |= {"rope_type": "linear", "factor": float(factor)}
    elif scaling == "yarn":
        found |= _yarn(facts, float(factor))
    elif scaling != "none":
        raise facts.wrong(
            "rope.scaling.type", f"is {scaling!r}; 'none', 'linear' and 'yarn' are read, and longrope by its factors"
        )
    return found


def _longrope(facts: Facts) -> dict[str, Any]:
    original = facts.number("rope.scaling.original_context_length")
    found: dict[str, Any] = {"rope_type": "longrope", "original_max_position_embeddings": original}
    if (attention := facts.get("rope.scaling.attn_factor")) is not None:
        found["attention_factor"] = attention
    for name, tensor in FACTORS.items():
        if tensor not in facts.file.tensors:
            raise WeightError(f"{facts.file.path} has no tensor {tensor!r}, which longrope needs")
        found[name] = weight_of(facts.file.tensors[tensor]).materialize().tolist()
    return found


def _yarn(facts: Facts, factor: float) -> dict[str, Any]:
    original = facts.number("rope.scaling.original_context_length")
    found = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
    for name in ("beta_fast", "beta_slow"):
        if (value := facts.get(f"rope.scaling.yarn_{name}")) is not None:
            found[name] = value
    return found
