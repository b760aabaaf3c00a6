"""Beam search: token for token what transformers' gives, of many settings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.ir.errors import InvalidInputError
from burnish.ir.states import StateKind
from burnish.runtime.model import CompiledModel, load
from tests.runtime.texts import tokenizer_data
from tests.runtime.theirs import their_sequences
from tests.runtime.tiny import MAX_LENGTH, save_tiny, tiny

PAD = 299
PROMPTS = [[7], [196], [7, 250, 31, 8, 8], list(range(17))]


@pytest.fixture(scope="module", params=["onnxruntime", "reference"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompiledModel]:
    path, _ = save_tiny(tmp_path_factory.mktemp("beams"), tokenizer=tokenizer_data())
    with load(path, request.param) as loaded:
        yield loaded


OFTEN, RARELY = list(range(0, 299, 3)), list(range(0, 299, 29))  # ends of the text
SEARCHES: list[dict[str, Any]] = [
    {"num_beams": beams, "length_penalty": penalty, "early_stopping": stopping, "eos_token_id": ends}
    for beams, penalty, stopping, ends in product(
        (2, 5), (1.0, 0.0, 2.5, -1.0), (False, True, "never"), (OFTEN, RARELY)
    )
]
SEARCHES += [
    {"num_beams": 3},
    {"num_beams": 1, "eos_token_id": RARELY},
    {"num_beams": 4, "eos_token_id": RARELY, "num_return_sequences": 4},
    {"num_beams": 6, "eos_token_id": RARELY, "num_return_sequences": 3, "early_stopping": True},
    {"num_beams": 4, "eos_token_id": OFTEN, "min_new_tokens": 7, "repetition_penalty": 1.4},
    {"num_beams": 4, "eos_token_id": OFTEN, "min_length": 9, "no_repeat_ngram_size": 2},
    {"num_beams": 4, "eos_token_id": RARELY, "bad_words_ids": [[5], *([31, n] for n in range(150, 180))]},
    {"num_beams": 3, "eos_token_id": 7, "forced_eos_token_id": 7, "length_penalty": 0.5},
    {"num_beams": 3, "suppress_tokens": list(range(0, 300, 2)), "begin_suppress_tokens": list(range(1, 300, 3))},
    {"num_beams": 2, "suppress_tokens": list(range(2, 299)), "eos_token_id": 1},
]


@pytest.mark.parametrize("options", SEARCHES, ids=str)
def test_it_is_transformers_token_for_token(model: CompiledModel, options: dict[str, Any]) -> None:
    """Each prompt alone, and all together."""
    made, options = tiny(), {"max_new_tokens": 14, **options}
    together = model.generate(PROMPTS, **options).tokens
    count = options.get("num_return_sequences", 1)
    for number, prompt in enumerate(PROMPTS):
        found = model.generate(prompt, **options).tokens
        theirs = their_sequences(made, prompt, pad_token_id=PAD, **options)
        assert [row + [PAD] * (len(theirs[0]) - len(row)) for row in found] == theirs
        assert together[number * count : (number + 1) * count] == found


def test_states_that_change_places_move_with_the_beams(tmp_path: Path) -> None:
    path, made = save_tiny(tmp_path, StateKind.RING)
    with load(path, "reference") as model:
        options: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 14, "eos_token_id": RARELY}
        found = model.generate(PROMPTS, **options).tokens
        for row, prompt in zip(found, PROMPTS, strict=True):
            theirs = their_sequences(made, prompt, pad_token_id=PAD, **options)[0]
            assert row + [PAD] * (len(theirs) - len(row)) == theirs


def test_it_finds_what_is_likelier_than_the_likeliest_tokens(model: CompiledModel) -> None:
    def total(**options: Any) -> float:
        found = model.generate([7], max_new_tokens=10, logprobs=0, **options).logprobs
        assert found is not None
        return sum(each.logprob for each in found[0])

    assert total(num_beams=6) > total() + 0.01


def test_log_probabilities_are_of_the_text_that_was_found(model: CompiledModel) -> None:
    found = model.generate(PROMPTS, num_beams=4, num_return_sequences=2, eos_token_id=RARELY, logprobs=3)
    assert found.logprobs is not None
    for number, (row, logprobs) in enumerate(zip(found.tokens, found.logprobs, strict=True)):
        prompt = PROMPTS[number // 2]
        known = tiny().whole(torch.tensor([prompt + row]))[0, len(prompt) - 1 : -1].log_softmax(-1)
        assert [each.token for each in logprobs] == row
        for place, each in zip(known, logprobs, strict=True):
            assert each.logprob == pytest.approx(float(place[each.token]), abs=1e-4)
            assert list(each.top) == place.topk(3).indices.tolist()


def test_stop_strings_end_beams(model: CompiledModel) -> None:
    assert model.tokenizer is not None
    plain = model.generate("the cat", num_beams=3, max_new_tokens=12)
    stop = plain.text[4:6]
    found = model.generate("the cat", num_beams=3, max_new_tokens=12, stop=stop, num_return_sequences=3)
    assert found.texts is not None
    assert "stop" in found.finish
    for text, finish, tokens in zip(found.texts, found.finish, found.tokens, strict=True):
        assert stop not in text
        assert (stop in model.tokenizer.decode(tokens)) == (finish == "stop")


def test_rows_end_at_the_models_limit(model: CompiledModel) -> None:
    found = model.generate([list(range(190)), [1, 2]], num_beams=3, max_new_tokens=40)
    assert [len(row) for row in found.tokens] == [MAX_LENGTH - 190 + 1, 40]
    assert found.tokens[1] == model.generate([1, 2], num_beams=3, max_new_tokens=40).tokens[0]


def test_what_beam_search_does_not_do(model: CompiledModel) -> None:
    with pytest.raises(InvalidInputError, match=r"num_beams=2 looks for the likeliest text.*pass do_sample=False"):
        model.generate([1], num_beams=2, temperature=0.5)
    with pytest.raises(InvalidInputError, match="num_return_sequences=3 are more than num_beams=2"):
        model.generate([1], num_beams=2, num_return_sequences=3)
    with pytest.raises(InvalidInputError, match="beam search has no text before its end"):
        model.stream([1], num_beams=2)
    with pytest.raises(InvalidInputError, match="no token is left to choose"):
        model.generate([1], num_beams=2, suppress_tokens=list(range(300)))
