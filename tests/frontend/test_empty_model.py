"""Models without values."""

import psutil
import pytest
import torch
from transformers import GPT2Config, LlamaConfig, PreTrainedConfig

from burnish.frontend import empty_model
from burnish.ir.errors import InvalidModelError


def test_parameters_take_no_memory() -> None:
    config = LlamaConfig(hidden_size=2048, intermediate_size=8192, num_hidden_layers=8, vocab_size=32000)
    empty_model.build(LlamaConfig(num_hidden_layers=1, hidden_size=64), "warm", 9)
    before = psutil.Process().memory_info().rss
    model = empty_model.build(config, "here", 9)
    grown = psutil.Process().memory_info().rss - before
    assert sum(parameter.nbytes for parameter in model.parameters()) > 2_000_000_000
    assert grown < 50_000_000


def test_buffers_have_values() -> None:
    model = empty_model.build(LlamaConfig(num_hidden_layers=1, hidden_size=64, num_attention_heads=8), "here", 9)
    found = model.get_buffer("model.rotary_emb.inv_freq")
    torch.testing.assert_close(found, 10000.0 ** (-torch.arange(0, 8, 2) / 8))


def test_tied_parameters_are_one() -> None:
    model = empty_model.build(LlamaConfig(num_hidden_layers=1, hidden_size=64, tie_word_embeddings=True), "here", 9)
    _, names = empty_model.tensors(model)["model.embed_tokens.weight"]
    assert names == ["model.embed_tokens.weight", "lm_head.weight"]


@pytest.mark.parametrize("config", [LlamaConfig(num_hidden_layers=10**6), GPT2Config(n_layer=10**6)])
def test_layers_that_there_are_no_tensors_for_are_not_made(config: PreTrainedConfig) -> None:
    with pytest.raises(InvalidModelError, match=r"here: .*layers?=1000000, and there are 300 tensors"):
        empty_model.build(config, "here", 300)
