"""The raising rules on whole models of transformers: each norm, rotary embedding and gate is found, the logits stay."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from burnish.frontend.capture import capture
from burnish.ir.interpreter import run
from burnish.passes.base import Log
from burnish.passes.pipeline import check
from burnish.passes.raise_.activation import RAISE_ACTIVATIONS
from burnish.passes.raise_.clean import Clean
from burnish.passes.raise_.convolution import RAISE_CONVOLUTIONS
from burnish.passes.raise_.norm import RAISE_NORMS
from burnish.passes.raise_.rotary import RAISE_ROTARY

PASSES = (Clean(), RAISE_NORMS, RAISE_ROTARY, RAISE_ACTIVATIONS, RAISE_CONVOLUTIONS)
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}

# What is to be found in two layers, and what is to be left nowhere.
MODELS: dict[str, tuple[dict[str, Any], Counter[str]]] = {
    "llama": ({}, Counter(rms_norm=5, rotary=4, gated_activation=2)),
    "gemma3_text": (
        {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
        Counter(rms_norm=13, rotary=4, gated_activation=2),
    ),
    "glm": ({}, Counter(rms_norm=5, rotary=4, gated_activation=2)),
    "lfm2": (
        {"layer_types": ["conv", "full_attention"]},
        Counter(rms_norm=7, rotary=2, gated_activation=2, causal_conv1d=1),
    ),
}
SPELLED_OUT = ("rsqrt", "mean", "pow", "neg", "stack", "silu", "sigmoid", "conv1d")


@pytest.mark.parametrize("name", MODELS)
def test_all_of_a_model_is_raised(name: str) -> None:
    options, expected = MODELS[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **{**SIZES, **options})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # norms' weights too: transformers starts them at one
    before = capture(model, call=lambda module, tokens: module(tokens, use_cache=False))
    program, log = before.copy(), Log()
    for each in PASSES:
        program = each.run(program, log)
        check(program, each.name)
    raised = Counter(str(n.target).split(".")[1] for n in program.graph.nodes if "burnish" in str(n.target))
    left = [n.name for n in program.graph.nodes if str(n.target).removeprefix("aten.").split(".")[0] in SPELLED_OUT]
    assert raised == expected
    assert not left
    for length in (1, 13):
        tokens = torch.randint(61, (2, length))
        with torch.no_grad():
            logits = model(tokens, use_cache=False).logits
        torch.testing.assert_close(run(program, [tokens])[0], logits, rtol=1e-4, atol=1e-4)
