"""Options of generation: whose word counts, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from transformers import GenerationConfig

from burnish.ir.errors import InvalidInputError
from burnish.runtime.options import _NEUTRAL, _RULES, GenerationOptions, keep_defaults, resolve


def test_where_nobody_says_anything_it_is_as_in_transformers() -> None:
    options, theirs = resolve({}, {}), GenerationConfig._get_default_generation_params()
    for name in ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "min_length"):
        assert getattr(options, name) == theirs[name]
    assert options.new_tokens(7) == theirs["max_length"] == 20  # there too it means new tokens, if nobody set it


def test_what_is_given_counts_more_than_the_models_own() -> None:
    defaults = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "eos_token_id": 2}
    options = resolve(defaults, {"temperature": 0.9, "top_p": None})
    assert (options.do_sample, options.temperature, options.top_p, options.eos_token_id) == (True, 0.9, 0.9, (2,))


@pytest.mark.parametrize(
    ("defaults", "given", "samples"),
    [
        ({}, {}, False),
        ({"do_sample": True}, {}, True),
        ({"do_sample": True}, {"do_sample": False}, False),
        ({"temperature": 0.6}, {}, False),  # a default temperature alone does not sample in transformers either
        ({}, {"temperature": 0.6}, True),
        ({}, {"top_k": 5}, True),
        ({}, {"min_p": 0.1}, True),
        ({}, {"temperature": 0}, False),
        ({"do_sample": True}, {"temperature": 0.0}, False),
        ({}, {"temperature": 0, "do_sample": False}, False),
        ({}, {"seed": 3}, False),
    ],
)
def test_when_it_samples(defaults: dict[str, Any], given: dict[str, Any], samples: bool) -> None:
    assert resolve(defaults, given).do_sample is samples


def test_lengths() -> None:
    assert resolve({"max_new_tokens": 7}, {}).new_tokens(5) == 7
    assert resolve({"max_length": 30}, {}).new_tokens(5) == 25
    assert resolve({"max_length": 30}, {"max_new_tokens": 7}).new_tokens(5) == 7
    assert resolve({"max_new_tokens": 7}, {"max_length": 30}).new_tokens(5) == 25


BAD: list[tuple[str, Any]] = [
    ("max_new_tokens", 0),
    ("max_new_tokens", 2.0),
    ("max_new_tokens", True),
    ("max_length", -1),
    ("min_new_tokens", -1),
    ("do_sample", 1),
    ("temperature", -0.5),
    ("temperature", "hot"),
    ("temperature", float("nan")),
    ("temperature", float("inf")),
    ("top_k", -1),
    ("top_k", 2.5),
    ("top_p", 1.1),
    ("top_p", -0.1),
    ("min_p", 2),
    ("temperature", 1e-300),
    ("repetition_penalty", 0),
    ("repetition_penalty", 1e-300),
    ("repetition_penalty", 1e300),
    ("repetition_penalty", float("inf")),
    ("seed", -1),
    ("seed", 1.5),
    ("eos_token_id", -1),
    ("eos_token_id", "</s>"),
    ("suppress_tokens", 3),
    ("frequency_penalty", "much"),
    ("presence_penalty", float("inf")),
    ("no_repeat_ngram_size", -1),
    ("logit_bias", [1]),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {-1: 1}),
    ("logit_bias", {1: "x"}),
    ("logit_bias", {1: float("nan")}),
    ("bad_words_ids", [1]),
    ("bad_words_ids", [[]]),
    ("num_return_sequences", 0),
    ("num_beams", 0),
    ("length_penalty", "long"),
    ("early_stopping", "always"),
    ("early_stopping", 1),
    ("logprobs", -1),
    ("logprobs", True),
    ("prompt_logprobs", 1.5),
    ("stop_strings", ""),
    ("stop_strings", ["a", ""]),
    ("stop_strings", [3]),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_named_with_what_is_good(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"{name} is .*, not "):
        resolve({}, {name: value})


def test_no_temperature_at_all_cannot_be_sampled() -> None:
    with pytest.raises(InvalidInputError, match="temperature=0"):
        resolve({}, {"temperature": 0, "do_sample": True})


def test_unknown_options_are_refused_with_a_near_name() -> None:
    with pytest.raises(InvalidInputError, match="no option 'temprature': did you mean temperature"):
        resolve({}, {"temprature": 0.5})
    with pytest.raises(InvalidInputError, match=r"no option 'zzz': there are .*max_new_tokens"):
        resolve({}, {"zzz": 1})


def test_what_transformers_has_and_burnish_has_not_is_said() -> None:
    with pytest.raises(InvalidInputError, match=r"typical_p=0.5 is an option of transformers.*pass typical_p=1"):
        resolve({}, {"typical_p": 0.5})
    assert resolve({}, {"typical_p": 1.0}) == GenerationOptions()
    with pytest.raises(InvalidInputError, match=r"penalty_alpha=0.6 \(the model's own default\)"):
        resolve({"penalty_alpha": 0.6}, {})
    assert resolve({"penalty_alpha": 0.6}, {"penalty_alpha": 0}) == GenerationOptions()


def test_numbers_may_be_numpys() -> None:
    options = resolve(
        {},
        {
            "max_new_tokens": np.int64(7),
            "temperature": np.float32(0.5),
            "eos_token_id": np.array([1, 2]),
            "suppress_tokens": [np.int32(3)],
            "do_sample": np.bool_(True),
        },
    )
    assert options == resolve(
        {},
        {"max_new_tokens": 7, "temperature": 0.5, "eos_token_id": [1, 2], "suppress_tokens": [3], "do_sample": True},
    )


def test_a_bias_may_come_from_json() -> None:
    assert resolve({}, {"logit_bias": {"50": -100, 7: 0.5}}).logit_bias == ((50, -100.0), (7, 0.5))


def test_the_same_text_several_times_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"num_return_sequences=3 .*pass do_sample=True"):
        resolve({}, {"num_return_sequences": 3})
    assert resolve({}, {"num_return_sequences": 3, "temperature": 0.5}).num_return_sequences == 3


def test_every_option_of_transformers_that_changes_tokens_is_known() -> None:
    """When transformers gets a new option, somebody has to say here what it means for burnish."""
    harmless = {
        "use_cache", "cache_implementation", "cache_config", "pad_token_id",
        "bos_token_id", "decoder_start_token_id", "output_attentions", "output_hidden_states", "output_scores",
        "output_logits", "return_dict_in_generate", "renormalize_logits", "is_assistant", "num_assistant_tokens",
        "num_assistant_tokens_schedule", "assistant_confidence_threshold", "prompt_lookup_num_tokens",
        "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind", "target_lookbehind",
        "disable_compile", "compile_config", "low_memory", "token_healing", "transformers_version",
        "prefill_chunk_size", "return_legacy_cache", "forced_decoder_ids", "trust_remote_code", "max_cache_len",
        "continuous_batching_config", "speculation_type", "use_mtp", "assistant_ensemble_weight",
    }  # fmt: skip
    theirs = {name for name in GenerationConfig().to_dict() if not name.startswith("_")}
    assert theirs - harmless <= set(_RULES) | set(_NEUTRAL)


def test_defaults_that_mean_something_are_kept() -> None:
    config = GenerationConfig(
        eos_token_id=[1, 2], temperature=0.6, penalty_alpha=0.6, use_cache=True, pad_token_id=0, typical_p=1.0
    ).to_dict()
    assert keep_defaults({**config, "somebody's own": 3}) == {
        "eos_token_id": [1, 2],
        "temperature": 0.6,
        "penalty_alpha": 0.6,
    }


def test_an_option_without_effect_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        resolve({}, {"do_sample": False, "top_p": 0.5, "temperature": 1.0})
    assert caplog.messages == ["top_p has no effect: do_sample is False, so the likeliest token is taken"]
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        resolve({"length_penalty": 2.0}, {"early_stopping": True})
        resolve({}, {"early_stopping": True, "num_beams": 2})
    assert caplog.messages == ["early_stopping has no effect without num_beams"]
