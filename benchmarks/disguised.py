"""SmolLM2 with a head of keys and values for each query head: copies that random maps hide from one another."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.ir.program import Program

HEADS, KV_HEADS, SIZE, WIDTH = 9, 3, 64, 576


def disguised(program: Program) -> LlamaForCausalLM:
    """The model of SmolLM2's whole program with 9 heads of keys and values for its 3, and the same logits.

    Each copy's values are turned by a matrix and its keys by a complex number for each frequency of the rotary
    embedding; the output projection and the queries that read it undo them.
    """
    config = LlamaConfig(
        vocab_size=49152,
        hidden_size=WIDTH,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": 100000.0},
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    values = {name: weight.materialize() for name, weight in program.weights.items()}
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        found = values[name] if name in values else values["lm_head.weight"]
        if name.endswith(("k_proj.weight", "v_proj.weight")):
            found = found.view(KV_HEADS, SIZE, WIDTH).repeat_interleave(HEADS // KV_HEADS, dim=0).flatten(0, 1)
        parameter.data = found.clone()
    for layer in model.model.layers:
        attention = layer.self_attn
        for head in range(HEADS):
            _turn(*(getattr(attention, f"{part}_proj").weight.data for part in "qkvo"), head, generator)
    return model.eval()


def _turn(query: Tensor, key: Tensor, value: Tensor, output: Tensor, head: int, generator: torch.Generator) -> None:
    """Hide one head, in place of its rows, and of its columns in the output projection."""
    rows = slice(head * SIZE, (head + 1) * SIZE)
    change = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64) + 8 * torch.eye(SIZE)
    value[rows] = (change @ value[rows].double()).float()
    output[:, rows] = (output[:, rows].double() @ torch.linalg.inv(change)).float()
    angle = torch.rand(SIZE // 2, 1, generator=generator) * 2 * torch.pi
    factor = torch.polar(0.5 + torch.rand(SIZE // 2, 1, generator=generator), angle)
    for weight, by in ((key, factor), (query, 1 / factor.conj())):
        turned = torch.complex(*weight[rows].chunk(2)) * by
        weight[rows] = torch.cat([turned.real, turned.imag])
