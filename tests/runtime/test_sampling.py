"""Processors compared with transformers' own, and the tokens drawn with the distribution that they leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers import __version__ as transformers_version
from transformers.generation import logits_process as theirs

from burnish.ir.errors import InvalidInputError
from burnish.ir.fused_ops import fused_ops
from burnish.runtime.executor import TOP, StepResult
from burnish.runtime.options import GenerationOptions, resolve
from burnish.runtime.sampling import Candidates, Sampler, keep_min_p, keep_top_k, keep_top_p
from burnish.runtime.score_rules import (
    ScoreRules,
    add_bias,
    completing,
    forbid,
    force,
    penalize_repetition,
    penalize_use,
    repeating,
)

# Scores that float32 tells apart, so that no order of equal ones is in question, and that sums of softmax are not near
# a threshold by chance of rounding.
rows = st.lists(st.integers(-2000, 2000), min_size=2, max_size=60, unique=True).map(
    lambda numbers: np.array(numbers, dtype=np.float32) / 128
)

NEW = tuple(map(int, transformers_version.split(".")[:2])) >= (5, 24)


def kept_by(processor: Any, scores: np.ndarray) -> set[int]:
    left = processor(torch.zeros(1, 1, dtype=torch.int64), torch.from_numpy(scores)[None])[0]
    return set(torch.nonzero(left > float("-inf"))[:, 0].tolist())


def everything(scores: np.ndarray) -> Candidates:
    return Candidates(scores, np.arange(len(scores)))


@settings(deadline=None)
@given(rows, st.integers(1, 70))
def test_top_k(scores: np.ndarray, count: int) -> None:
    found = keep_top_k(everything(scores), count)
    assert set(found.ids.tolist()) == kept_by(theirs.TopKLogitsWarper(count), scores)
    assert np.array_equal(found.scores, scores[found.ids])


def test_top_k_keeps_what_is_level_with_the_last() -> None:
    scores = np.array([3, 1, 2, 2, 2, 0], dtype=np.float32)
    assert keep_top_k(everything(scores), 2).ids.tolist() == [0, 2, 3, 4]
    assert kept_by(theirs.TopKLogitsWarper(2), scores) == {0, 2, 3, 4}


@settings(deadline=None)
@given(rows, st.floats(0.01, 0.999))
def test_top_p(scores: np.ndarray, mass: float) -> None:
    found = keep_top_p(everything(scores), mass)
    probability = torch.from_numpy(scores).double().softmax(0).sort(descending=True).values.cumsum(0)
    if (probability - mass).abs().min() > 1e-4:  # else rounding decides, there as here
        assert set(found.ids.tolist()) == kept_by(theirs.TopPLogitsWarper(mass), scores)
    assert np.array_equal(found.scores, scores[found.ids])


@pytest.mark.parametrize("spread", [0.1, 8.0])
@pytest.mark.parametrize("mass", [0.05, 0.5, 0.95, 0.9999])
def test_top_p_over_a_whole_vocabulary(spread: float, mass: float) -> None:
    """Also where the nucleus is larger than what is looked at first."""
    scores = (torch.randn(20_000, generator=torch.Generator().manual_seed(3)) * spread).numpy()
    ours, transformers = len(keep_top_p(everything(scores), mass).ids), kept_by(theirs.TopPLogitsWarper(mass), scores)
    assert abs(ours - len(transformers)) <= 1 + len(transformers) // 1000


def test_top_p_of_nothing_keeps_the_best() -> None:
    scores = np.array([0, 3, 1], dtype=np.float32)
    assert keep_top_p(everything(scores), 0.0).ids.tolist() == [1]


@settings(deadline=None)
@given(rows, st.floats(0.001, 1))
def test_min_p(scores: np.ndarray, share: float) -> None:
    ratio = np.exp(scores.astype(np.float64) - scores.max())
    if np.abs(ratio / share - 1).min() > 1e-4:
        found = keep_min_p(everything(scores), share)
        assert set(found.ids.tolist()) == kept_by(theirs.MinPLogitsWarper(share), scores)


@settings(deadline=None)
@given(rows, st.data(), st.floats(0.2, 5))
def test_repetition_penalty(scores: np.ndarray, data: st.DataObject, penalty: float) -> None:
    seen = data.draw(st.lists(st.integers(0, len(scores) - 1), min_size=1))
    expected = theirs.RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([seen]), torch.from_numpy(scores)[None])
    before = scores.copy()
    found = penalize_repetition(scores, np.unique(np.array(seen)), penalty)
    torch.testing.assert_close(torch.from_numpy(found), expected[0])
    assert np.array_equal(scores, before)


texts = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@settings(deadline=None)
@given(texts, st.integers(1, 4))
def test_no_group_twice(ids: list[int], size: int) -> None:
    scores = torch.zeros(1, 4)
    expected = theirs.NoRepeatNGramLogitsProcessor(size)(torch.tensor([ids]), scores)[0]
    found = forbid(scores[0].numpy(), repeating(np.array(ids), size))
    assert found.tolist() == expected.tolist()


@settings(deadline=None)
@given(texts, st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=4), min_size=1))
def test_bad_words(ids: list[int], words: list[list[int]]) -> None:
    """Also one that is longer than the text so far, and the end of the text, which is none."""
    assume(NEW or all(len(word) <= len(ids) for word in words))  # older ones forget what begins with all of the text
    expected = torch.zeros(1, 4)
    if left := [word for word in words if word != [3]]:
        expected = theirs.NoBadWordsLogitsProcessor(left)(torch.tensor([ids]), expected)
    options = GenerationOptions(bad_words_ids=tuple(map(tuple, words)), eos_token_id=(3,))
    assert ScoreRules(options, 1, 99).apply(np.zeros(4, np.float32), np.array(ids)).tolist() == expected[0].tolist()
    assert set(completing(np.array(ids), left)) == set(torch.nonzero(expected[0] < 0)[:, 0].tolist())


def test_a_bias_is_added() -> None:
    scores = np.arange(5, dtype=np.float32)
    bias = [[[3], -2.5], [[2], 4.0], [[1], float("-inf")]]
    expected = theirs.SequenceBiasLogitsProcessor(bias)(torch.tensor([[1]]), torch.from_numpy(scores)[None])[0]
    assert add_bias(scores, [(3, -2.5), (2, 4.0), (1, float("-inf"))]).tolist() == expected.tolist()
    assert scores.tolist() == [0, 1, 2, 3, 4]


def test_frequency_and_presence_are_of_the_new_tokens() -> None:
    """OpenAI: score - times * frequency_penalty - (times > 0) * presence_penalty."""
    scores = np.arange(5, dtype=np.float32)
    assert penalize_use(scores, np.array([4, 2, 4, 4]), 0.5, 0.25).tolist() == [0, 1, 2 - 0.75, 3, 4 - 1.75]
    assert scores.tolist() == [0, 1, 2, 3, 4]
    rules = ScoreRules(GenerationOptions(frequency_penalty=0.5, presence_penalty=-1.0), 2, 9)
    assert rules.apply(scores, np.array([3, 3, 1, 1])).tolist() == [0, 1, 2, 3, 4]  # 1 - 2 * 0.5 + 1
    assert rules.apply(scores, np.array([3, 3])).tolist() == [0, 1, 2, 3, 4]


def test_forbidden_and_forced_tokens() -> None:
    scores = np.arange(4, dtype=np.float32)
    assert forbid(scores, [1, 3]).tolist() == [0, -np.inf, 2, -np.inf]
    assert force(scores, [1]).tolist() == [-np.inf, 0, -np.inf, -np.inf]
    assert scores.tolist() == [0, 1, 2, 3]


OPTIONS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"temperature": 1.7, "top_k": 5},
    {"top_k": 0, "top_p": 0.8},
    {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
    {"top_k": 0, "min_p": 0.3, "suppress_tokens": [1, 2, 3]},
    {"min_new_tokens": 2, "eos_token_id": [4, 5], "repetition_penalty": 0.8},
    {"min_length": 9, "eos_token_id": [4]},
    {"begin_suppress_tokens": [7, 8, 9], "repetition_penalty": 2.0},
    {"forced_eos_token_id": [4]},
    {"forced_bos_token_id": 3, "begin_suppress_tokens": [6]},
    {"no_repeat_ngram_size": 1, "top_k": 0},
    {"no_repeat_ngram_size": 2, "repetition_penalty": 0.7, "top_k": 3},
    {"bad_words_ids": [[7, 11], [4], [5, 5]], "eos_token_id": [4], "top_k": 5},
    {"repetition_penalty": 1.5, "sequence_bias": [[[3], 4.0], [[5], -2.0]], "bad_words_ids": [[3, 3]]},
]


def their_processors(options: dict[str, Any], prompt: int, room: int) -> theirs.LogitsProcessorList:
    """What transformers' generate would use, from its own builder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1)
    )
    config = GenerationConfig(do_sample=True, **{"top_k": 50, **options}, max_length=prompt + room)
    model._prepare_special_tokens(config, device="cpu")
    return model._get_logits_processor(config, input_ids_seq_length=prompt, device="cpu")


@pytest.mark.parametrize("prompt", [[7, 7, 11], [5]])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_all_together_in_their_order(options: dict[str, Any], prompt: list[int]) -> None:
    """At each step: the same tokens left, with the same scores, as transformers' own list of processors leaves."""
    room = 5
    processors = their_processors(options, len(prompt), room)
    ours = dict(options)
    if "sequence_bias" in ours:
        ours["logit_bias"] = {ids[0]: bias for ids, bias in ours.pop("sequence_bias")}
    sampler = Sampler(resolve({}, {"do_sample": True, "seed": 0, **ours}), [prompt], [room])
    ids = list(prompt)
    generator = torch.Generator().manual_seed(1)
    for _ in range(room):
        scores = torch.randn(1, 64, generator=generator) * 2
        expected = processors(torch.tensor([ids]), scores.clone())[0]
        found = sampler.candidates(sampler.process(0, scores[0].numpy()))
        left = found.scores > -np.inf
        assert sorted(found.ids[left].tolist()) == torch.nonzero(expected > float("-inf"))[:, 0].tolist()
        torch.testing.assert_close(torch.from_numpy(found.scores[left]), expected[torch.from_numpy(found.ids[left])])
        ids += sampler.choose(StepResult("logits", scores[:, None]))


def test_tokens_are_drawn_as_likely_as_they_are() -> None:
    scores = torch.tensor([[1.0, 0.0, -1.0, 2.0, -5.0], [0.0, 3.0, 0.0, 0.0, 0.0]])
    sampler = Sampler(GenerationOptions(do_sample=True, temperature=0.8, top_k=4, seed=5), [[0], [0]], [9, 9])
    draws = torch.tensor([sampler.choose(StepResult("logits", scores[:, None])) for _ in range(20_000)])
    expected = (scores[0] / 0.8).index_fill(0, torch.tensor(4), float("-inf")).softmax(0)
    counts = torch.bincount(draws[:, 0], minlength=5) / len(draws)
    assert counts[4] == 0
    torch.testing.assert_close(counts, expected, atol=0.015, rtol=0)
    second = torch.bincount(draws[:, 1], minlength=5) / len(draws)
    torch.testing.assert_close(second, (scores[1] / 0.8).softmax(0), atol=0.015, rtol=0)  # all are level: all kept


def test_a_seed_fixes_the_draws_and_none_does_not() -> None:
    scores = torch.zeros(3, 1000)

    def draw(seed: int | None) -> list[list[int]]:
        sampler = Sampler(GenerationOptions(do_sample=True, top_k=0, seed=seed), [[0]] * 3, [9] * 3)
        return [sampler.choose(StepResult("logits", scores[:, None])) for _ in range(4)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)


def test_a_row_draws_by_itself() -> None:
    """By its own place and the seed, whatever the other rows are, and whether they go on."""
    scores = torch.randn(4, 1, 1000, generator=torch.Generator().manual_seed(0))

    def draws(rows: int, others: float = 0.0, active: list[bool] | None = None, **options: Any) -> list[list[int]]:
        given = scores[:rows].clone()
        given[1:] += others * torch.randn(rows - 1, 1, 1000)
        sampler = Sampler(GenerationOptions(do_sample=True, top_k=0, seed=7, **options), [[0]] * rows, [9] * rows)
        return [sampler.choose(StepResult("logits", given), None, active) for _ in range(6)]

    first = [step[0] for step in draws(1)]
    assert first == [step[0] for step in draws(4)] == [step[0] for step in draws(4, others=1.0)]
    assert first == [step[0] for step in draws(2, active=[True, False])]
    assert [step[:2] for step in draws(4)] == [step[:2] for step in draws(2)]
    same = scores[:1].repeat(4, 1, 1)
    sampler = Sampler(GenerationOptions(do_sample=True, top_k=0, seed=7), [[0]] * 4, [9] * 4)
    assert len(set(sampler.choose(StepResult("logits", same)))) > 1, "rows that are alike draw differently"
    # Of two prompts, two sequences each, the first is what a prompt alone has.
    several = draws(4, num_return_sequences=2)
    assert [step[0] for step in several] == first


def test_nothing_left_to_draw_is_said() -> None:
    sampler = Sampler(GenerationOptions(do_sample=True, suppress_tokens=(0, 1)), [[0]], [9])
    with pytest.raises(InvalidInputError, match="no token is left to choose"):
        sampler.choose(StepResult("logits", torch.zeros(1, 1, 2)))


def test_low_precision_logits_are_chosen_from_in_float32() -> None:
    scores = torch.tensor([[[0.1, 0.7, 0.3]]], dtype=torch.bfloat16)
    assert StepResult("logits", scores).narrowed("ids").values.tolist() == [[1]]
    assert Sampler(GenerationOptions(suppress_tokens=(1,)), [[0]], [9]).choose(StepResult("logits", scores)) == [2]


UNLIKE_PLAIN: list[dict[str, Any]] = [
    {"do_sample": True, "top_k": 0},
    {"do_sample": True, "top_k": 65},
    {"do_sample": True, "suppress_tokens": (3,)},
    {"repetition_penalty": 1.1},
    {"suppress_tokens": (3,)},
    {"begin_suppress_tokens": (3,)},
    {"forced_bos_token_id": 0},
    {"forced_eos_token_id": (0,)},
    {"eos_token_id": (0,), "min_length": 4},
    {"eos_token_id": (0,), "min_new_tokens": 4},
    {"frequency_penalty": 0.1},
    {"presence_penalty": 0.1},
    {"no_repeat_ngram_size": 2},
    {"logit_bias": ((0, 1.0),)},
    {"bad_words_ids": ((0,),)},
]


def test_only_what_no_option_changes_is_chosen_by_the_step_itself() -> None:
    plain = Sampler(GenerationOptions(eos_token_id=(0,), max_new_tokens=9, stop_strings=("a",)), [[0], [1]], [9, 9])
    assert plain.wanted == "ids"
    assert plain.choose(StepResult("ids", torch.tensor([[5], [7]]))) == [5, 7]
    for options in UNLIKE_PLAIN:
        assert Sampler(GenerationOptions(**options), [[0]], [9]).wanted == "logits", options


@settings(deadline=None, max_examples=60)
@given(
    size=st.sampled_from([5, TOP, TOP + 1, 1000]),
    spread=st.sampled_from([1, 40, 100_000]),
    top_k=st.integers(1, TOP // 2),
    temperature=st.sampled_from([1.0, 0.7, 13.0]),
    top_p=st.sampled_from([1.0, 0.6]),
    min_p=st.sampled_from([0.0, 0.2]),
)
def test_the_top_gives_the_draws_of_all_logits(
    size: int, spread: int, top_k: int, temperature: float, top_p: float, min_p: float
) -> None:
    """With many equal scores, too, of which the top has not all."""
    options = GenerationOptions(
        do_sample=True, seed=3, top_k=top_k, temperature=temperature, top_p=top_p, min_p=min_p or None
    )
    whole, short = (Sampler(options, [[0]] * 3, [9] * 3) for _ in range(2))
    assert short.wanted == "top"
    generator = torch.Generator().manual_seed(size + spread)
    for _ in range(5):
        logits = torch.randint(-spread, spread, (3, 1, size), generator=generator).float() / 16
        given = StepResult("logits", logits)
        top = given.narrowed("top")
        assert torch.equal(torch.from_numpy(top.values), fused_ops.top_scores(logits, min(TOP, size)))
        assert short.choose(top, lambda given=given: given) == whole.choose(given)


def test_logits_are_asked_for_where_the_last_is_level_with_others() -> None:
    asked = []

    def choose(logits: torch.Tensor) -> None:
        sampler = Sampler(GenerationOptions(do_sample=True, top_k=3), [[0]], [9])
        given = StepResult("logits", logits)
        sampler.choose(given.narrowed("top"), lambda: asked.append(1) or given)  # type: ignore[func-returns-value]

    choose(torch.arange(500.0)[None, None])
    assert not asked
    choose(torch.zeros(1, 1, 500))
    assert asked
