"""Processors compared with transformers' own, and the tokens drawn with the distribution that they leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig
from transformers.generation import logits_process as theirs

from burnish.ir.fused_ops import fused_ops
from burnish.runtime.executor import TOP, StepResult
from burnish.runtime.options import GenerationOptions
from burnish.runtime.sampling import (
    Candidates,
    Sampler,
    forbid,
    force,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
)

# Scores that float32 tells apart, so that no order of equal ones is in question, and that sums of softmax are not near
# a threshold by chance of rounding.
rows = st.lists(st.integers(-2000, 2000), min_size=2, max_size=60, unique=True).map(
    lambda numbers: np.array(numbers, dtype=np.float32) / 128
)


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
    tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    sampler = Sampler(GenerationOptions(do_sample=True, seed=0, **tuples), [prompt], [room])
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
