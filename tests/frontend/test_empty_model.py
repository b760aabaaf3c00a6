"""Models without values."""

import psutil
import torch
from transformers import LlamaConfig

from burnish.frontend import empty_model


def test_parameters_take_no_memory() -> None:
    config = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=8, vocab_size=32000)
    empty_model.build(LlamaConfig(num_hidden_layers=1, hidden_size=64), "warm")
    before = psutil.Process().memory_info().rss
    model = empty_model.build(config, "here")
    grown = psutil.Process().memory_info().rss - before
    assert sum(parameter.nbytes for parameter in model.parameters()) > 2_000_000_000
    assert grown < 50_000_000


def test_buffers_have_values() -> None:
    model = empty_model.build(LlamaConfig(num_hidden_layers=1, hidden_size=64, num_attention_heads=8), "here")
    found = model.get_buffer("model.rotary_emb.inv_freq")
    torch.testing.assert_close(found, 10000.0 ** (-torch.arange(0, 8, 2) / 8))


def test_tied_parameters_are_one() -> None:
    model = empty_model.build(LlamaConfig(num_hidden_layers=1, hidden_size=64, tie_word_embeddings=True), "here")
    _, names = empty_model.tensors(model)["model.embed_tokens.weight"]
    assert names == ["model.embed_tokens.weight", "lm_head.weight"]
