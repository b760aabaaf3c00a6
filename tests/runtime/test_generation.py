"""Generation: token for token what transformers' generate gives for the same model, and what is ours alone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.ir.errors import InvalidInputError, UsageError
from burnish.ir.states import StateKind
from burnish.runtime import generation
from burnish.runtime.model import CompiledModel, load
from burnish.runtime.options import GenerationOptions
from burnish.runtime.row import Row
from tests.runtime.texts import tokenizer_data
from tests.runtime.theirs import their_tokens
from tests.runtime.tiny import MAX_LENGTH, VOCABULARY, save_tiny, tiny


@pytest.fixture(scope="module", params=["onnxruntime", "reference"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompiledModel]:
    path, _ = save_tiny(tmp_path_factory.mktemp("generation"), tokenizer=tokenizer_data())
    with load(path, request.param) as loaded:
        yield loaded


GREEDY: list[dict[str, Any]] = [
    {},
    {"max_new_tokens": 40},
    {"max_new_tokens": 40, "repetition_penalty": 1.3},
    {"max_new_tokens": 30, "repetition_penalty": 0.7},
    {"max_length": 25},
    {"max_new_tokens": 40, "eos_token_id": list(range(0, 300, 9))},
    {"max_new_tokens": 40, "eos_token_id": list(range(0, 300, 2)), "min_new_tokens": 11},
    {"max_new_tokens": 30, "eos_token_id": list(range(0, 300, 2)), "min_length": 13},
    {"max_new_tokens": 12, "forced_eos_token_id": 5, "eos_token_id": 5},
    {"max_new_tokens": 12, "suppress_tokens": list(range(0, 300, 2)), "begin_suppress_tokens": list(range(1, 300, 3))},
    {"max_new_tokens": 40, "no_repeat_ngram_size": 2},
    {"max_new_tokens": 40, "no_repeat_ngram_size": 3, "bad_words_ids": [[5], *([31, n] for n in range(150, 180))]},
]


@pytest.mark.parametrize("options", GREEDY, ids=str)
def test_greedy_is_transformers_token_for_token(model: CompiledModel, options: dict[str, Any]) -> None:
    made = tiny()
    for prompt in ([3], [7, 250, 31, 8, 8], list(range(17))):
        assert model.generate(prompt, **options).tokens == [their_tokens(made, prompt, **options)]


def test_a_batch_of_unequal_prompts_is_each_prompt_alone(model: CompiledModel) -> None:
    prompts = [[5, 9, 200], [7], list(range(70)), [250, 250]]
    options: dict[str, Any] = {"max_new_tokens": 60, "eos_token_id": list(range(0, 300, 20)), "repetition_penalty": 1.1}
    together = model.generate(prompts, **options)
    alone = [model.generate(prompt, **options) for prompt in prompts]
    assert together.tokens == [each.tokens[0] for each in alone]
    assert together.finish == [each.finish[0] for each in alone]
    assert len({len(row) for row in together.tokens}) > 1, "the rows should end at different steps"
    assert together.prompt_tokens == [3, 1, 70, 2]


def test_rows_end_at_the_models_limit_while_others_go_on(model: CompiledModel) -> None:
    prompts = [list(range(190)), [1, 2, 3]]
    found = model.generate(prompts, max_new_tokens=80)
    # positions 190 to 199 take the first ten new tokens; the logits of the last give an eleventh
    assert [len(row) for row in found.tokens] == [MAX_LENGTH - 190 + 1, 80]
    assert found.tokens[1] == model.generate(prompts[1], max_new_tokens=80).tokens[0]
    full = model.generate(list(range(MAX_LENGTH)), max_new_tokens=9)
    assert len(full.tokens[0]) == 1
    assert full.finish == ["length"]


def test_why_it_ended(model: CompiledModel) -> None:
    tokens = model.generate([3], max_new_tokens=10).tokens[0]
    assert model.generate([3], max_new_tokens=10).finish == ["length"]
    ended = model.generate([3], max_new_tokens=10, eos_token_id=tokens[4])
    first = tokens.index(tokens[4])
    assert (ended.tokens[0], ended.finish) == (tokens[: first + 1], ["eos"])


def test_sampling_is_fixed_by_its_seed(model: CompiledModel) -> None:
    def draw(seed: int | None) -> list[list[int]]:
        return model.generate([[1, 2], [3]], max_new_tokens=20, temperature=1.5, top_k=0, seed=seed).tokens

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)
    assert model.generate([1, 2], temperature=0).tokens == model.generate([1, 2]).tokens


def test_a_row_is_drawn_the_same_in_any_company(model: CompiledModel) -> None:
    options: dict[str, Any] = {"max_new_tokens": 20, "temperature": 1.5, "top_k": 0, "seed": 3}
    prompts = [[1, 2], [3], [7, 8, 9]]
    together = model.generate(prompts, **options).tokens
    assert model.generate(prompts[0], **options).tokens[0] == together[0]
    for other in ([[1, 2], [250, 4, 4, 4]], [[1, 2], [5]]):
        assert model.generate(other, **options).tokens[0] == together[0]
    assert model.generate([[5, 5], prompts[1]], **options).tokens[1] == together[1]


def test_several_answers_to_each_prompt(model: CompiledModel) -> None:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 1.5, "top_k": 0, "seed": 3}
    prompts = [[1, 2], list(range(9))]
    found = model.generate(prompts, num_return_sequences=3, **options)
    assert len(found.tokens) == len(found.finish) == 6
    assert found.texts is not None
    assert len(found.texts) == 6
    assert len({tuple(row) for row in found.tokens}) == 6
    assert found.prompt_tokens == [2, 9]
    one = model.generate(prompts, **options).tokens
    assert [found.tokens[0], found.tokens[3]] == one
    fewer = model.generate(prompts, num_return_sequences=2, **options).tokens
    assert fewer == [*found.tokens[:2], *found.tokens[3:5]]
    ended = model.generate([1, 2], num_return_sequences=3, eos_token_id=list(range(0, 300, 3)), **options)
    assert len({len(row) for row in ended.tokens}) > 1
    with pytest.raises(InvalidInputError, match="one prompt can be streamed, and it has 3 answers"):
        model.stream([1, 2], num_return_sequences=3, **options)


def test_a_bias_and_openais_penalties_change_what_is_said(model: CompiledModel) -> None:
    plain = model.generate([3], max_new_tokens=30).tokens[0]
    assert len(set(plain)) < 30, "the model should repeat itself"
    assert len(set(model.generate([3], max_new_tokens=30, presence_penalty=100.0).tokens[0])) == 30
    assert len(set(model.generate([3], max_new_tokens=30, frequency_penalty=100.0).tokens[0])) == 30
    assert set(model.generate([3], max_new_tokens=30, logit_bias={44: 100.0}).tokens[0]) == {44}
    assert plain[0] not in model.generate([3], max_new_tokens=30, logit_bias={plain[0]: -100}).tokens[0]
    for name, value in (("logit_bias", {300: 1}), ("bad_words_ids", [[1, 300]]), ("suppress_tokens", [300])):
        with pytest.raises(InvalidInputError, match=f"{name} has the id 300, and the vocabulary has 300"):
            model.generate([3], **{name: value})


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 1.5, "seed": 3, "top_k": 5}, {"repetition_penalty": 1.4}, {"prompt_logprobs": 2}],
    ids=str,
)
def test_log_probabilities_are_the_models_own(model: CompiledModel, options: dict[str, Any]) -> None:
    """Of all tokens by one run of the whole text, whatever the options made of them; and the tokens are the same."""
    prompts = [[5, 9, 200], [7], list(range(60))]
    options = {**options, "max_new_tokens": 12, "eos_token_id": list(range(0, 300, 20))}
    found = model.generate(prompts, logprobs=4, **options)
    options.pop("prompt_logprobs", None)
    plain = model.generate(prompts, **options)
    assert (found.tokens, plain.logprobs, plain.prompt_logprobs) == (plain.tokens, None, None)
    assert found.logprobs is not None
    assert [len(row) for row in found.logprobs] == [len(row) for row in found.tokens]
    for number, (prompt, new, logprobs) in enumerate(zip(prompts, found.tokens, found.logprobs, strict=True)):
        known = tiny().whole(torch.tensor([prompt + new]))[0].log_softmax(-1)
        check_logprobs(known[len(prompt) - 1 : -1], new, logprobs, 4)
        if found.prompt_logprobs is not None:
            assert found.prompt_logprobs[number][0] is None
            check_logprobs(known[: len(prompt) - 1], prompt[1:], found.prompt_logprobs[number][1:], 2)


def check_logprobs(known: torch.Tensor, tokens: list[int], found: list[Any], count: int) -> None:
    assert [each.token for each in found] == tokens
    for row, each in zip(known, found, strict=True):
        assert each.logprob == pytest.approx(float(row[each.token]), abs=1e-4)
        best = row.topk(count)
        assert list(each.top) == best.indices.tolist()
        assert list(each.top.values()) == pytest.approx(best.values.tolist(), abs=1e-4)


def test_log_probabilities_of_long_prompts_in_pieces(model: CompiledModel, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = list(range(25))
    whole = model.generate(prompt, prompt_logprobs=1, max_new_tokens=4)
    monkeypatch.setattr(generation, "CHUNK", 6)
    pieces = model.generate(prompt, prompt_logprobs=1, max_new_tokens=4)
    assert pieces.tokens == whole.tokens == model.generate(prompt, max_new_tokens=4).tokens
    assert pieces.prompt_logprobs is not None
    assert whole.prompt_logprobs is not None
    assert len(pieces.prompt_logprobs[0]) == 25
    for one, other in zip(pieces.prompt_logprobs[0][1:], whole.prompt_logprobs[0][1:], strict=True):
        assert one is not None
        assert other is not None
        assert (one.token, one.logprob) == (other.token, pytest.approx(other.logprob, abs=1e-5))


def test_log_probabilities_alone(model: CompiledModel) -> None:
    """None of the likeliest, and more of them than there are."""
    for count, expected in ((0, 0), (1000, VOCABULARY)):
        found = model.generate([[1, 2], [3]], max_new_tokens=2, logprobs=count).logprobs
        assert found is not None
        assert {len(each.top) for row in found for each in row} == {expected}
        assert all(each.top[each.token] == each.logprob for row in found for each in row if each.top)


def test_the_models_own_defaults_are_followed(tmp_path: Path) -> None:
    generation = {"max_new_tokens": 5, "eos_token_id": 1, "suppress_tokens": list(range(0, 300, 2))}
    path, made = save_tiny(tmp_path, generation=generation)
    with load(path) as model:
        found = model.generate([1, 2, 3])
        assert found.tokens[0] == their_tokens(made, [1, 2, 3], **generation)
        assert len(model.generate([1, 2, 3], max_new_tokens=9).tokens[0]) == 9
        assert found.texts is None
        with pytest.raises(InvalidInputError, match="no tokenizer"):
            found.text  # noqa: B018


def test_states_that_change_places_generate_the_same(tmp_path: Path) -> None:
    path, made = save_tiny(tmp_path, StateKind.RING)
    with load(path, "reference") as model:
        prompts = [[5, 9, 200], [7], list(range(30)), [250, 250]]
        found = model.generate(prompts, max_new_tokens=15)
        assert found.tokens == [their_tokens(made, prompt, max_new_tokens=15) for prompt in prompts]


# ---------------------------------------------------------------- text


def ascii_only(model: CompiledModel) -> list[int]:
    """The tokens to suppress for a text of plain characters, each complete in its token."""
    assert model.tokenizer is not None
    texts = [model.tokenizer.decode([token]) for token in range(VOCABULARY)]
    return [token for token, text in enumerate(texts) if not (text and text.isascii() and text.isprintable())]


def test_pieces_are_the_text(model: CompiledModel) -> None:
    pieces: list[str] = []
    found = model.generate("the cat", max_new_tokens=60, stream=pieces.append)
    assert len(pieces) > 5
    assert "".join(pieces) == found.text == model.generate("the cat", max_new_tokens=60).text


def test_the_iterator_gives_the_same_pieces_and_then_the_result(model: CompiledModel) -> None:
    run = model.stream("the cat", max_new_tokens=30, stop="\x00\x00")
    text = "".join(run)
    assert text == run.result.text == model.generate("the cat", max_new_tokens=30).text


def test_pieces_come_as_they_are_made(model: CompiledModel) -> None:
    seen = 0
    for _ in model.stream("the cat", max_new_tokens=150):
        seen += 1
        break  # leaving early is fine
    assert seen == 1


def test_a_run_is_read_once_and_to_its_end(model: CompiledModel) -> None:
    run = model.stream("the cat", max_new_tokens=30)
    next(iter(run))
    with pytest.raises(UsageError, match="no result yet: read all pieces"):
        run.result  # noqa: B018
    with pytest.raises(UsageError, match="is read once"):
        iter(run)


def test_streams_for_async_for(model: CompiledModel) -> None:
    """The same pieces; other tasks run while a step does; whoever is cancelled leaves the model free."""
    expected = model.generate("the cat", max_new_tokens=30)
    threads = set()
    step = model.executor.step

    def noted(*args: Any) -> Any:
        threads.add(threading.current_thread())
        waiting.wait(0.02)
        return step(*args)

    async def read() -> list[str]:
        return [piece async for piece in run]

    async def both() -> list[str]:
        task, turns = asyncio.create_task(read()), 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0.001)
        assert turns > 20, "the event loop should go on during steps"
        return task.result()

    async def cancelled() -> None:
        task = asyncio.create_task(read())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert model.generate("the cat", max_new_tokens=30).tokens == expected.tokens

    waiting = threading.Event()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model.executor, "step", noted)
        run = model.astream("the cat", max_new_tokens=30)
        assert "".join(asyncio.run(both())) == expected.text
        assert run.result.tokens == expected.tokens
        assert len(threads) == 1
        assert threading.current_thread() not in threads
        run = model.astream("the cat", max_new_tokens=150)
        asyncio.run(cancelled())
    with pytest.raises(UsageError, match="no result yet"):
        run.result  # noqa: B018


def test_a_run_is_read_once(model: CompiledModel) -> None:
    run = model.stream("the cat", max_new_tokens=3)
    list(run)
    with pytest.raises(UsageError, match="read once"):
        iter(run)


def test_the_end_of_sequence_is_a_token_and_no_text(model: CompiledModel) -> None:
    plain = model.generate("the cat", max_new_tokens=12)
    end = plain.tokens[0][-1]
    assert plain.tokens[0].index(end) == 11, "the prompt should give a last token that is new"
    pieces: list[str] = []
    ended = model.generate("the cat", max_new_tokens=30, eos_token_id=end, stream=pieces.append)
    assert ended.tokens == plain.tokens
    assert model.tokenizer is not None
    assert ended.text == "".join(pieces) == model.tokenizer.decode(plain.tokens[0][:-1])
    assert model.generate("the cat", max_new_tokens=30, eos_token_id=end).text == ended.text


@pytest.mark.parametrize("length", [1, 2, 5, 9])
def test_stop_strings_cut_the_text_wherever_they_lie_on_tokens(model: CompiledModel, length: int) -> None:
    options: dict[str, Any] = {"max_new_tokens": 60, "suppress_tokens": ascii_only(model)}
    whole = model.generate("the cat", **options)
    stop = whole.text[13 : 13 + length]
    cut = whole.text[: whole.text.index(stop)]
    pieces: list[str] = []
    stopped = model.generate("the cat", stop=[stop, "never there"], stream=pieces.append, **options)
    assert stopped.text == cut == "".join(pieces)
    assert stopped.finish == ["stop"]
    assert stopped.tokens[0] == whole.tokens[0][: len(stopped.tokens[0])]
    assert model.tokenizer is not None
    assert stop in model.tokenizer.decode(stopped.tokens[0])
    assert stop not in model.tokenizer.decode(stopped.tokens[0][:-1]), "it should stop where the stop string ends"


def test_what_only_looks_like_a_stop_string_is_shown(model: CompiledModel) -> None:
    options: dict[str, Any] = {"max_new_tokens": 40, "suppress_tokens": ascii_only(model)}
    whole = model.generate("the cat", **options)
    pieces: list[str] = []
    stop = [whole.text[-3:] + "\x01", whole.text[5:8] + "\x01", whole.text[6] + "\x01"]
    found = model.generate("the cat", stop=stop, stream=pieces.append, **options)
    assert found.text == "".join(pieces) == whole.text
    assert found.finish == ["length"]


def test_stop_strings_in_a_batch(model: CompiledModel) -> None:
    options: dict[str, Any] = {"max_new_tokens": 30, "suppress_tokens": ascii_only(model)}
    alone = model.generate("the cat", **options)
    stop = alone.text[10:14]
    both = model.generate(["the cat", "a rat"], stop=stop, **options)
    assert both.texts is not None
    assert both.texts[0] == alone.text[: alone.text.index(stop)]
    assert both.texts[1] == model.generate("a rat", stop=stop, **options).text


@pytest.mark.parametrize("stop", ["</s>", "/s>", "cat</s>", "t</s><"])
def test_special_tokens_stop_and_are_no_text(model: CompiledModel, stop: str) -> None:
    """As with transformers' stop_strings: the names of special tokens, or what begins or ends in one."""
    assert model.tokenizer is not None
    said = [*model.tokenizer.encode("a cat"), 1, 0, *model.tokenizer.encode("!")]
    row, pieces = Row(GenerationOptions(stop_strings=(stop,)), 99, model.tokenizer), ""
    for token in said:
        pieces += row.add(token)
        if row.finish is not None:
            break
    text = "a cat</s><s>!"
    assert row.finish == "stop"
    assert row.text(model.tokenizer) == pieces == text[: text.index(stop)].removesuffix("<")
    assert len(row.tokens) == len(said) - (1 if stop.endswith("<") else 2)


def test_special_tokens_are_no_text_where_nothing_stops_there(model: CompiledModel) -> None:
    assert model.tokenizer is not None
    said = [0, *model.tokenizer.encode("a"), 1, 1, *model.tokenizer.encode(" cat"), 0]
    row = Row(GenerationOptions(stop_strings=("never",)), len(said), model.tokenizer)
    assert "".join(map(row.add, said)) == row.text(model.tokenizer) == "a cat"
    assert row.finish == "length"


def test_conversations(model: CompiledModel) -> None:
    ids = model.chat_ids([{"role": "user", "content": "the cat"}])
    assert model.tokenizer is not None
    assert model.tokenizer.decode(ids, special=True) == "<s>[user]the cat</s>[assistant]"
    assert len(model.generate(ids).tokens[0]) == 20


@pytest.mark.parametrize("messages", ["hi", b"hi", {"role": "user", "content": "hi"}, ["hi"], None])
def test_what_is_no_conversation(model: CompiledModel, messages: Any) -> None:
    with pytest.raises(InvalidInputError, match="a conversation is a list of messages"):
        model.chat_ids(messages)


def test_times(model: CompiledModel) -> None:
    found = model.generate([[1, 2, 3], [4]], max_new_tokens=50)
    assert found.prefill_tokens_per_second == pytest.approx(4 / found.prefill_seconds)
    assert found.tokens_per_second == pytest.approx(98 / found.decode_seconds)
    assert model.generate([1], max_new_tokens=1).tokens_per_second == 0


# ---------------------------------------------------------------- refusals


def test_bad_options(model: CompiledModel) -> None:
    with pytest.raises(InvalidInputError, match="no option 'max_tokens': did you mean max_new_tokens"):
        model.generate([1], max_tokens=3)
    with pytest.raises(InvalidInputError, match="top_p is a number from 0 to 1, not 3"):
        model.generate([1], top_p=3)
    with pytest.raises(InvalidInputError, match="max_length=4 of prompt and answer"):
        model.generate([1, 2, 3, 4], max_length=4)
    with pytest.raises(InvalidInputError, match="only the text of one prompt can be streamed, and there are 2"):
        model.generate([[1], [2]], stream=print)
    with pytest.raises(InvalidInputError, match=r"stream is a function that takes each piece .* not 3"):
        model.generate([1], stream=3)  # type: ignore[arg-type]
    for name in ("suppress_tokens", "begin_suppress_tokens", "forced_eos_token_id"):
        with pytest.raises(InvalidInputError, match=f"{name} has the id {VOCABULARY}, and the vocabulary has"):
            model.generate([1], **{name: [3, VOCABULARY]})
    with pytest.raises(InvalidInputError, match="forced_bos_token_id has the id"):
        model.generate([1], forced_bos_token_id=10**9)
    with pytest.raises(InvalidInputError, match="no token is left to choose"):
        model.generate([1], suppress_tokens=list(range(VOCABULARY)), do_sample=True)
    model.generate([1], eos_token_id=10**9, min_new_tokens=2, max_new_tokens=3)  # it never comes
    with pytest.raises(InvalidInputError, match="there are 2 rows"):
        model.generate([[1], [2]]).text  # noqa: B018


def test_without_a_tokenizer_there_is_no_text(tmp_path: Path) -> None:
    with load(save_tiny(tmp_path)[0]) as model:
        calls = [
            lambda: model.generate("text"),
            lambda: model.generate([1], stop="x"),
            lambda: model.generate([1], stream=print),
            lambda: model.stream([1]),
            lambda: model.chat_ids([{"role": "user", "content": "x"}]),
        ]
        for call in calls:
            with pytest.raises(InvalidInputError, match="no tokenizer"):
                call()
