"""What generate and a model take: texts, conversations, ids of any integers, what tokenizers of transformers give."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from burnish.ir.errors import InvalidInputError
from burnish.runtime.model import CompiledModel, load
from tests.runtime.texts import EOS, byte_tokenizer, tokenizer_data
from tests.runtime.tiny import MAX_LENGTH, VOCABULARY, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompiledModel]:
    path, _ = save_tiny(tmp_path_factory.mktemp("prompts"), tokenizer=tokenizer_data())
    with load(path) as loaded:
        yield loaded


def test_prompts_may_come_in_any_form(model: CompiledModel) -> None:
    assert model.tokenizer is not None
    ids = model.tokenizer.encode("the cat")
    expected = model.generate(ids, max_new_tokens=8).tokens
    assert model.generate("the cat", max_new_tokens=8).tokens == expected
    assert model.generate(["the cat"], max_new_tokens=8).tokens == expected
    assert model.generate([ids], max_new_tokens=8).tokens == expected
    assert model.generate(torch.tensor(ids), max_new_tokens=8).tokens == expected
    assert model.generate(torch.tensor([ids, ids]), max_new_tokens=8).tokens == expected * 2
    assert model.generate(tuple(ids), max_new_tokens=8).tokens == expected


INTEGERS = ["int64", "int32", "int16", "uint8", "uint16"]


def test_ids_may_be_of_any_integers(model: CompiledModel) -> None:
    ids = [7, 250, 31]
    expected = model.generate(ids, max_new_tokens=8).tokens
    forms: list[Any] = [np.array(ids, kind) for kind in INTEGERS]
    forms += [torch.tensor(ids, dtype=getattr(torch, kind)) for kind in INTEGERS]
    forms += [torch.tensor([ids]), np.array([ids]), [np.array(ids)], [torch.tensor(ids, dtype=torch.int32)]]
    forms += [[np.int64(7), np.uint8(250), 31], list(torch.tensor(ids)), [[np.int32(7), 250, 31]], (7, 250, 31)]
    for form in forms:
        assert model.generate(form, max_new_tokens=np.int64(8)).tokens == expected, form
    both = model.generate([np.array([3]), np.array(ids)], max_new_tokens=8).tokens
    assert both == [model.generate([3], max_new_tokens=8).tokens[0], expected[0]]


@pytest.mark.parametrize("kind", ["pt", "np", None])
@pytest.mark.parametrize("side", ["left", "right"])
def test_what_a_tokenizer_of_transformers_gives(model: CompiledModel, side: str, kind: str | None) -> None:
    theirs = PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer(), pad_token=EOS, padding_side=side)
    texts = ["the cat", "a", "the rat ate the cat"]
    inputs = theirs(texts, padding=True, return_tensors=kind)
    expected = model.generate(texts, max_new_tokens=8).tokens
    assert model.generate(**inputs, max_new_tokens=8).tokens == expected
    assert model.generate(inputs, max_new_tokens=8).tokens == expected
    assert model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"]).tokens[1][:8] == expected[1]
    assert (
        "".join(model.stream(**theirs("the cat"), max_new_tokens=8)) == model.generate("the cat", max_new_tokens=8).text
    )
    logits = model(**inputs)
    assert model.tokenizer is not None
    for row, mask, text in zip(logits, torch.tensor(inputs["attention_mask"]).bool(), texts, strict=True):
        alone = model([model.tokenizer.encode(text)])[0]
        torch.testing.assert_close(row[mask], alone, rtol=1e-5, atol=1e-4)
        assert not row[~mask].any()


@pytest.mark.parametrize("mask", [[[1, 0, 1]], [[0, 0, 0]], [[1, 1]], [[1, 1, 1], [1, 1, 1]]])
def test_masks_that_are_no_padding(model: CompiledModel, mask: list[list[int]]) -> None:
    with pytest.raises(InvalidInputError, match="attention_mask"):
        model.generate([5, 6, 7], attention_mask=mask)
    with pytest.raises(InvalidInputError, match="attention_mask"):
        model(input_ids=[[5, 6, 7]], attention_mask=mask)


def test_padding_is_no_token(model: CompiledModel) -> None:
    """So it may be an id that the model does not have."""
    assert model.generate([[-100, 5, 6]], attention_mask=[[0, 1, 1]]).tokens == model.generate([5, 6]).tokens


def test_messages_are_a_prompt(model: CompiledModel) -> None:
    chats = [[{"role": "user", "content": text}] for text in ("the cat", "a rat")]
    alone = [model.generate(model.chat_ids(chat)).tokens[0] for chat in chats]
    assert model.generate(chats[0]).tokens == [alone[0]]
    assert model.generate(chats).tokens == alone
    assert "".join(model.stream(chats[0])) == model.generate(chats[0]).text


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("", "prompt 0 is empty: '' has no token"),
        (["the", ""], "prompt 1 is empty"),
        ([], "the prompt is empty"),
        ([[]], "row 0 is empty"),
        ([[1], []], "row 1 is empty"),
        (["a", [1]], "text and token ids mixed"),
        ([[1], 2], "token ids are integers, not list"),
        ([1.5], "not float"),
        (None, "not NoneType"),
        (3, "not int"),
        (b"abc", "not bytes"),
        (bytearray(b"abc"), "not bytearray"),
        ("a\ud800b", r"half of a pair of surrogates, .*a.ud800b"),
        (torch.zeros(3), r"integers, not torch\.float32: convert them with \.long\(\)"),
        (np.zeros(3), r"integers, not float64: convert them with \.astype\(int\)"),
        (torch.ones(3, dtype=torch.bool), "integers, not torch.bool"),
        (torch.zeros(1, 1, 3, dtype=torch.int64), r"not of shape \[1, 1, 3\]"),
        ([np.float32(1)], "not float32"),
        ([True], "not bool"),
        ({"role": "user", "content": "x"}, r"this one has role, content: put a message into a list"),
        ([{"role": "user", "content": "x"}, "x"], "no message is str"),
        ([[{"role": "user", "content": "x"}], [1]], "text and token ids mixed"),
        (torch.zeros(2, 0, dtype=torch.int64), "row 0 is empty"),
        ([1, VOCABULARY], f"the id {VOCABULARY} at place 1"),
        ([1] * (MAX_LENGTH + 1), f"{MAX_LENGTH + 1} tokens, .*at most {MAX_LENGTH}"),
    ],
)
def test_bad_prompts(model: CompiledModel, prompt: Any, says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        model.generate(prompt)


def test_a_prompt_is_given_once(model: CompiledModel) -> None:
    with pytest.raises(InvalidInputError, match="a prompt and input_ids: give one"):
        model.generate([1], input_ids=[[1]])
    with pytest.raises(InvalidInputError, match="the prompt is text"):
        model.generate("the cat", attention_mask=[[1]])
    with pytest.raises(InvalidInputError, match="token_type_ids are of two texts"):
        model.generate(input_ids=[[1, 2]], token_type_ids=[[0, 1]])
