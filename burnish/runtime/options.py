"""Options of generation: names, meanings and defaults of transformers' `GenerationConfig`."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish.ir.errors import InvalidInputError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GenerationOptions:
    """What one call of generate does. The defaults are what transformers does where nobody says otherwise."""

    max_new_tokens: int | None = None  # None: as `max_length` says
    max_length: int | None = None  # of prompt and answer together; None, and no `max_new_tokens`: 20 new tokens
    min_new_tokens: int = 0
    min_length: int = 0
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50  # 0: all
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0  # taken from a token's score for each time that it is among the new ones
    presence_penalty: float = 0.0  # taken from the score of each token that is among the new ones
    no_repeat_ngram_size: int = 0  # of groups of tokens that may be there once; 0: any
    logit_bias: tuple[tuple[int, float], ...] = ()  # added to the scores of tokens
    bad_words_ids: tuple[tuple[int, ...], ...] = ()  # tokens that may not follow each other
    num_return_sequences: int = 1
    num_beams: int = 1  # above 1: beam search
    length_penalty: float = 1.0  # of beam search: the power of its length that a text's score is divided by
    early_stopping: bool | str = False  # whether beam search ends when it has num_beams texts; or "never": see there
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()  # not as the first new token
    forced_bos_token_id: int | None = None  # as the second token of all
    forced_eos_token_id: tuple[int, ...] = ()  # as the last token, where the length is what ends the text
    eos_token_id: tuple[int, ...] = ()
    stop_strings: tuple[str, ...] = ()
    logprobs: int | None = None  # of each new token, with so many of the likeliest in its place; None: not asked for
    prompt_logprobs: int | None = None  # the same of the prompt's tokens
    seed: int | None = None  # None: another one each time

    def new_tokens(self, prompt: int) -> int:
        """How many tokens may follow a prompt of `prompt` tokens, as far as the options go."""
        if self.max_new_tokens is not None:
            return self.max_new_tokens
        return 20 if self.max_length is None else self.max_length - prompt


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_is_integer(item) and item >= 0 for item in value)


def _is_id_or_ids(value: Any) -> bool:
    return _is_ids(value) or (_is_integer(value) and value >= 0)


def _is_bias(value: Any) -> bool:
    """Numbers by ids, which JSON has as text."""
    return isinstance(value, Mapping) and all(
        ((_is_integer(token) and token >= 0) or (isinstance(token, str) and token.isdecimal()))
        and _is_number(bias)
        and bias == bias
        for token, bias in value.items()
    )


def _is_words(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(_is_ids(word) and word for word in value)


def _is_text(value: Any) -> bool:
    """One string or several, none of them empty."""
    several = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    return (isinstance(value, str) and bool(value)) or (several and all(value))


# What each option may be: the test, and the same in words.
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda value: _is_integer(value) and value >= 1, "an integer of at least 1"),
    "max_length": (lambda value: _is_integer(value) and value >= 1, "an integer of at least 1"),
    "min_new_tokens": (lambda value: _is_integer(value) and value >= 0, "an integer of at least 0"),
    "min_length": (lambda value: _is_integer(value) and value >= 0, "an integer of at least 0"),
    "do_sample": (lambda value: isinstance(value, bool), "True or False"),
    "temperature": (
        lambda value: _is_number(value) and (value == 0 or 1e-6 <= value < float("inf")),
        "0 or a number of at least 1e-6",  # what is divided by less is no float32
    ),
    "top_k": (lambda value: _is_integer(value) and value >= 0, "an integer of at least 0 (0: all tokens)"),
    "top_p": (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "min_p": (lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1"),
    "repetition_penalty": (
        lambda value: _is_number(value) and 0.01 <= value <= 100,
        "a number from 0.01 to 100 (1: no penalty)",
    ),
    "frequency_penalty": (lambda value: _is_number(value) and abs(value) < float("inf"), "a number (0: no penalty)"),
    "presence_penalty": (lambda value: _is_number(value) and abs(value) < float("inf"), "a number (0: no penalty)"),
    "no_repeat_ngram_size": (lambda value: _is_integer(value) and value >= 0, "an integer of at least 0 (0: no limit)"),
    "logit_bias": (_is_bias, "a dict of numbers by token ids"),
    "bad_words_ids": (_is_words, "a list of lists of token ids, none of them empty"),
    "num_beams": (lambda value: _is_integer(value) and value >= 1, "an integer of at least 1 (1: no beam search)"),
    "length_penalty": (lambda value: _is_number(value) and abs(value) < float("inf"), "a number"),
    "early_stopping": (lambda value: isinstance(value, bool) or value == "never", 'True, False or "never"'),
    "num_return_sequences": (lambda value: _is_integer(value) and value >= 1, "an integer of at least 1"),
    "suppress_tokens": (_is_ids, "a list of token ids"),
    "begin_suppress_tokens": (_is_ids, "a list of token ids"),
    "forced_bos_token_id": (lambda value: _is_integer(value) and value >= 0, "a token id"),
    "forced_eos_token_id": (_is_id_or_ids, "a token id or a list of them"),
    "eos_token_id": (_is_id_or_ids, "a token id or a list of them"),
    "stop_strings": (_is_text, "a text or a list of texts, none of them empty"),
    "logprobs": (lambda value: _is_integer(value) and value >= 0, "an integer of at least 0"),
    "prompt_logprobs": (lambda value: _is_integer(value) and value >= 0, "an integer of at least 0"),
    "seed": (lambda value: _is_integer(value) and 0 <= value < 2**63, "an integer of at least 0"),
}

# Options of transformers that change the tokens and that burnish does not have, with the values that change nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "num_beam_groups": (1,),
    "encoder_no_repeat_ngram_size": (0,),
    "encoder_repetition_penalty": (1,),
    "typical_p": (1,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "top_h": (),
    "penalty_alpha": (0,),
    "dola_layers": (),
    "force_words_ids": (),
    "constraints": (),
    "sequence_bias": (),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1,),
    "watermarking_config": (),
    "remove_invalid_values": (False,),
    "diversity_penalty": (0,),
    "max_time": (),
}

_SAMPLING = ("temperature", "top_k", "top_p", "min_p")


def keep_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """What of a model's generation config has a meaning here: to be stored in its artifact.

    Options that only change how transformers computes, or what it returns, are left out; so are unknown ones.
    """
    return {
        name: value
        for name, value in config.items()
        if value is not None and (name in _RULES or (name in _NEUTRAL and value not in _NEUTRAL[name]))
    }


def resolve(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> GenerationOptions:
    """The options `given` (None: not given) over the model's `defaults` over transformers' own.

    Without `do_sample`, a model samples if it does so by default, or if one of temperature (above 0), top_k, top_p and
    min_p is given. Raises InvalidInputError for an unknown option, a bad value, or a default of the model that
    burnish cannot follow.
    """
    given = {name: _plain(value) for name, value in given.items() if value is not None}
    for name in given:
        _check_known(name)
    merged = {**defaults, **given}
    for name, value in merged.items():
        if name in _NEUTRAL and value is not None and value not in _NEUTRAL[name]:
            whose = "" if name in given else " (the model's own default)"
            raise InvalidInputError(
                f"{name}={value!r}{whose} is an option of transformers that burnish does not have"
                + (f": pass {name}={_NEUTRAL[name][0]!r} to generate without it" if _NEUTRAL[name] else "")
            )
    if "max_length" in given and "max_new_tokens" not in given:
        merged.pop("max_new_tokens", None)
    values = {name: _checked(name, value) for name, value in merged.items() if name in _RULES and value is not None}
    values["do_sample"] = _samples(values, given)
    if not values["do_sample"]:
        _warn_unused(given)
    elif values.get("temperature") == 0:
        raise InvalidInputError("temperature=0 leaves nothing to sample: leave do_sample out for the likeliest tokens")
    options = GenerationOptions(**values)
    _check_answers(options)
    return options


def _check_answers(options: GenerationOptions) -> None:
    """Raise InvalidInputError where there are not as many different answers as are asked for."""
    count, beams = options.num_return_sequences, options.num_beams
    if beams > 1 and options.do_sample:
        raise InvalidInputError(
            f"num_beams={beams} looks for the likeliest text, and do_sample=True draws one: pass do_sample=False, or "
            "num_beams=1"
        )
    if count > beams > 1:
        raise InvalidInputError(f"num_return_sequences={count} are more than num_beams={beams} find: pass more beams")
    if count > 1 and not options.do_sample and beams == 1:
        raise InvalidInputError(
            f"num_return_sequences={count} would be the same text each time, as the likeliest token is taken: pass "
            f"do_sample=True, or num_beams={count}"
        )


def _plain(value: Any) -> Any:
    """Numbers of numpy's, and lists and arrays of them, as Python's."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _check_known(name: str) -> None:
    if name in _RULES or name in _NEUTRAL:
        return
    near = difflib.get_close_matches(name, [*_RULES, "stop", "stream"], n=1)
    meant = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(_RULES))}"
    raise InvalidInputError(f"generate has no option {name!r}: {meant}")


def _checked(name: str, value: Any) -> Any:
    test, words = _RULES[name]
    if not test(value):
        raise InvalidInputError(f"{name} is {words}, not {value!r}")
    if name in ("eos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens"):
        return (value,) if isinstance(value, int) else tuple(value)
    if name == "logit_bias":
        return tuple((int(token), float(bias)) for token, bias in value.items())
    if name == "bad_words_ids":
        return tuple(map(tuple, value))
    if name == "stop_strings":
        return (value,) if isinstance(value, str) else tuple(value)
    return value


def _samples(values: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    if "do_sample" in given:
        return bool(given["do_sample"])
    if given.get("temperature") == 0:
        return False
    return bool(values.get("do_sample", False)) or any(name in given for name in _SAMPLING)


def _warn_unused(given: Mapping[str, Any]) -> None:
    unused: Sequence[str] = [name for name in _SAMPLING if given.get(name) and given[name] != 1]
    if unused:
        _log.warning("%s has no effect: do_sample is False, so the likeliest token is taken", ", ".join(unused))
    beams = [name for name in ("length_penalty", "early_stopping") if name in given]
    if beams and given.get("num_beams", 1) == 1:
        _log.warning("%s has no effect without num_beams", ", ".join(beams))
