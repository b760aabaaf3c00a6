"""Models of transformers: numbers against eager attention, experts, scaled rotary embeddings, what is restored."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import (
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from burnish.frontend import read
from burnish.ir.errors import CaptureError, InvalidModelError, UsageError
from burnish.ir.interpreter import run
from burnish.ir.program import Program

SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
}


def llama(**options: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES | options))


def mixtral() -> MixtralForCausalLM:
    torch.manual_seed(0)
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_local_experts=5, num_experts_per_tok=2, sliding_window=7))


def gpt_oss() -> GptOssForCausalLM:
    """Experts with biases, transposed weights and a gate of its own; attention sinks."""
    torch.manual_seed(0)
    model = GptOssForCausalLM(GptOssConfig(**SIZES, num_local_experts=4, num_experts_per_tok=2, sliding_window=7))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    return model


def phi3_longrope() -> Phi3ForCausalLM:
    torch.manual_seed(0)
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [2.0, 3.0, 4.0, 5.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 24, **factors}
    config = Phi3Config(**SIZES, rope_parameters=rope, original_max_position_embeddings=24, pad_token_id=0)
    return Phi3ForCausalLM(config)


def check(model: PreTrainedModel, program: Program, lengths: tuple[int, ...] = (1, 2, 9, 17, 40)) -> None:
    """The program gives what the model gives with plain attention and its own loop over experts."""
    model.eval()
    model.set_attn_implementation("eager")
    model.set_experts_implementation("eager")
    for batch, length in enumerate(lengths, start=1):
        ids = torch.randint(0, 97, (batch, length))
        with torch.no_grad():
            expected = model(input_ids=ids, use_cache=False).logits
        torch.testing.assert_close(run(program, (ids,))[0], expected, rtol=1e-4, atol=1e-5)


def ops(program: Program) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


def test_a_model_gives_eager_s_logits_and_is_left_as_it_was() -> None:
    model = llama(tie_word_embeddings=True, bos_token_id=3, eos_token_id=[4, 5])
    model.config._name_or_path = "somebody/tiny-llama"
    model.train()
    source = read(model)
    assert source.name == "tiny-llama"
    assert source.generation["eos_token_id"] == [4, 5]
    assert source.config["hidden_size"] == 32
    assert source.tokenizer is None
    assert model.training
    assert model.config._attn_implementation == "sdpa"
    assert "burnish" not in ALL_EXPERTS_FUNCTIONS
    assert source.program.signature.max_length == 64
    assert sum("embed_tokens" in name or "lm_head" in name for name in source.program.weights) == 1
    check(model, source.program)


@pytest.mark.parametrize("make", [mixtral, gpt_oss])
def test_experts_are_two_products_a_layer(make: Any) -> None:
    model = make()
    before = model.config._experts_implementation
    program = read(model).program
    assert model.config._experts_implementation == before
    assert ops(program).count("burnish.moe_linear.default") == 4
    assert not [op for op in ops(program) if "histc" in op or "grouped_mm" in op]
    check(model, program)


def test_the_model_is_restored_when_the_capture_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mixtral()

    def fail(*args: Any, **kwargs: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(model.model.norm, "forward", fail)
    with pytest.raises(CaptureError, match="no such thing"):
        read(model)
    assert model.config._attn_implementation == "sdpa"
    assert "burnish" not in ALL_EXPERTS_FUNCTIONS


def test_half_precision_models_are_computed_with_in_float32() -> None:
    model = llama().to(torch.bfloat16)
    program = read(model).program
    assert next(model.parameters()).dtype == torch.bfloat16
    check(model.float(), program)


def test_longrope_is_exact_up_to_where_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    model = phi3_longrope()
    program = read(model).program
    assert program.signature.max_length == 24
    assert program.signature.longer_than == 0
    assert "compiled for 24 tokens" in caplog.text
    check(model, program, lengths=(1, 5, 24))


def test_longrope_beyond_has_the_frequencies_of_long_texts(caplog: pytest.LogCaptureFixture) -> None:
    model = phi3_longrope()
    frequencies = model.model.rotary_emb.inv_freq.clone()
    program = read(model, max_length=64).program
    assert "shorter texts get them too" in caplog.text
    assert program.signature.max_length == 64
    assert program.signature.longer_than == 24
    assert model.model.rotary_emb.rope_type == "longrope"
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, frequencies)
    check(model, program, lengths=(25, 40, 64))


def test_the_side_of_longrope_can_be_told(caplog: pytest.LogCaptureFixture) -> None:
    model = phi3_longrope()
    short = read(model, context="short").program
    assert (short.signature.max_length, short.signature.longer_than) == (24, 0)
    assert "compiled for 24" not in caplog.text
    long = read(model, context="long").program
    assert (long.signature.max_length, long.signature.longer_than) == (64, 24)
    check(model, short, lengths=(1, 24))
    check(model, long, lengths=(25, 64))
    ids = torch.randint(0, 97, (1, 24))
    assert not torch.allclose(run(short, [ids])[0], run(long, [ids])[0], atol=1e-5)
    for side, length, message in (("short", 25, "of up to 24 tokens"), ("long", 24, "of more than 24 tokens")):
        with pytest.raises(UsageError, match=f"context='{side}' is for texts {message}, and max_length is {length}"):
            read(model, context=side, max_length=length)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="context is 'short' or 'long', not 'both'"):
        read(model, context="both")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="max_length is 65, but the model takes at most 64"):
        read(model, context="long", max_length=65)


def test_models_without_sides() -> None:
    with pytest.raises(UsageError, match="context='long': the model's rotary frequencies are the same"):
        read(llama(), context="long")
    with pytest.raises(UsageError, match="context='short' is for models of transformers"):
        read(torch.nn.Embedding(5, 5), context="short")


def test_dynamic_frequencies_can_be_those_of_one_length_beyond() -> None:
    model = llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0})
    program = read(model, context="long", max_length=90).program
    assert (program.signature.max_length, program.signature.longer_than) == (90, 89)
    check(model, program, lengths=(90,))
    assert read(model, context="short").program.signature.max_length == 64
    for length in (None, 64):
        with pytest.raises(UsageError, match=r"context='long' is for texts of more than 64 tokens.*say max_length="):
            read(model, context="long", max_length=length)
    with pytest.raises(UsageError, match="max_length is 90, but the model takes at most 64"):
        read(model, max_length=90)


def test_dynamic_frequencies_are_those_of_texts_within_the_limit() -> None:
    model = llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0})
    with torch.no_grad():
        model(input_ids=torch.zeros(1, 90, dtype=torch.int64))  # the model has seen a longer text and changed
    check(model, read(model).program)


def test_a_length_beyond_the_model_s_is_refused() -> None:
    with pytest.raises(UsageError, match=r"max_length is 65, but the model takes at most 64"):
        read(llama(), max_length=65)


def test_a_tokenizer_is_taken_as_data() -> None:
    backend = Tokenizer(models.WordLevel({"<s>": 0, "a": 1, "b": 2}, unk_token="<s>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", chat_template="{{ messages }}")
    data = read(llama(), tokenizer=tokenizer).tokenizer
    assert data is not None
    assert data.chat_template == "{{ messages }}"
    assert data.special_tokens == {"bos_token": "<s>"}
    assert Tokenizer.from_str(data.tokenizer_json).get_vocab() == {"<s>": 0, "a": 1, "b": 2}


def test_what_is_no_tokenizer_is_refused() -> None:
    with pytest.raises(InvalidModelError, match=r"the tokenizer is a int"):
        read(llama(), tokenizer=3)
    with pytest.raises(InvalidModelError, match=r"there is no folder gpt2 to read a tokenizer from"):
        read(llama(), tokenizer="gpt2")
