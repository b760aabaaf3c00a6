"""Beams, several answers and streams of a Llama by native kernels: as transformers generates them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers

import burnish
from burnish.passes.transforms.quantize_cache import QuantizeCache
from burnish.runtime.model import CompiledModel
from tests.runtime.texts import byte_tokenizer

PROMPTS = [[7, 8, 9], [5], list(range(30, 50))]
ENDS = list(range(0, 290, 11))


@pytest.fixture(scope="module")
def llama() -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.3,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model(llama: transformers.LlamaForCausalLM) -> Iterator[CompiledModel]:
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer())
    with burnish.compile(llama, backend="native", tokenizer=tokenizer, verify=False) as compiled:
        yield compiled


@pytest.mark.parametrize("options", [{"num_beams": 4}, {"num_beams": 3, "length_penalty": 0.0, "early_stopping": True}])
def test_beams_are_those_of_transformers(
    llama: transformers.LlamaForCausalLM, model: CompiledModel, options: dict[str, Any]
) -> None:
    options = {**options, "max_new_tokens": 12, "eos_token_id": ENDS, "num_return_sequences": 2}
    found = model.generate(PROMPTS, **options).tokens
    for number, prompt in enumerate(PROMPTS):
        ids = torch.tensor([prompt])
        theirs = llama.generate(ids, attention_mask=torch.ones_like(ids), pad_token_id=299, do_sample=False, **options)
        theirs = theirs[:, len(prompt) :].tolist()
        assert [row + [299] * (len(theirs[0]) - len(row)) for row in found[2 * number : 2 * number + 2]] == theirs


def test_beams_over_caches_of_8_bits(llama: transformers.LlamaForCausalLM) -> None:
    """All that a row remembers moves with its beam: the search alone is the search among others."""
    with burnish.compile(llama, backend="native", transforms=[QuantizeCache("int8")], verify=False) as compiled:
        options: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 12, "eos_token_id": ENDS}
        found = compiled.generate(PROMPTS, logprobs=0, **options)
        assert found.tokens == [compiled.generate(prompt, **options).tokens[0] for prompt in PROMPTS]
        assert found.logprobs is not None
        for prompt, row, logprobs in zip(PROMPTS, found.tokens, found.logprobs, strict=True):
            known = compiled([prompt + row])[0, len(prompt) - 1 : -1].log_softmax(-1)
            for place, each in zip(known, logprobs, strict=True):
                assert each.logprob == pytest.approx(float(place[each.token]), abs=2e-3)


def test_draws_are_the_same_in_any_company(model: CompiledModel) -> None:
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.5, "seed": 5}
    together = model.generate(PROMPTS, num_return_sequences=2, **options).tokens
    assert together[:2] == model.generate(PROMPTS[0], num_return_sequences=2, **options).tokens
    assert together[::2] == model.generate(PROMPTS, **options).tokens
    assert len({tuple(row) for row in together}) == 6


def test_a_stream_for_async_for(model: CompiledModel) -> None:
    async def text() -> str:
        return "".join([piece async for piece in model.astream("the cat", max_new_tokens=20)])

    assert asyncio.run(text()) == model.generate("the cat", max_new_tokens=20).text
