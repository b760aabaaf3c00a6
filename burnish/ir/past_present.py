"""What the inputs, outputs and metadata of a language model are called that is handed to others as ONNX.

    input_ids               int64[batch_size, sequence_length], the new tokens
    attention_mask          int64[batch_size, past_sequence_length + sequence_length]: 1 for a token, 0 for padding
    position                int64[batch_size], how many tokens came before; only where no cache says it
    past_key_values.N.key   what the N-th attention remembers, float[batch_size, heads, past_sequence_length, size];
    past_key_values.N.value of length 0 before the first token
    past.NAME               any other state: zeros before the first token
    logits                  float32[batch_size, sequence_length, vocabulary]
    present.N.key, present.N.value, present.NAME
                            the same after the new tokens: the pasts of the next call

What remembers tokens one by one grows along its axis; all else keeps its shape. `attention_mask` is there where all of
a model's states grow: what is masked is then as if it were not there, before a row's tokens or behind them. Without it
a row has no padding.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
POSITION = "position"
LOGITS = "logits"
BATCH_SIZE, SEQUENCE_LENGTH, PAST_LENGTH = "batch_size", "sequence_length", "past_sequence_length"

# Keys of the model's metadata. STATES: a JSON list of objects with past, present, kind, axis, shape, dtype, module.
# LIMITS: a JSON object with max_length (tokens of a text), vocabulary (logits), token_limit (ids are below it),
# longer_than (texts of at most so many tokens are computed otherwise by the model that was compiled; 0: none are).
STATES = "burnish.states"
LIMITS = "burnish.limits"
END_TOKENS = "burnish.end_tokens"  # a JSON list of token ids
FLAVOR = "burnish.flavor"
VERSION = "burnish.version"

_CACHE = re.compile(r"(key|value|key_scale|value_scale)_(\d+)")


def state_names(states: Sequence[str]) -> dict[str, tuple[str, str]]:
    """The past and the present of each state, by its name in a step program: key_0, value_0, window_1.

    Attentions are numbered from 0 on, in their order, whatever number each has there.
    """
    found = {name: _CACHE.fullmatch(name) for name in states}
    numbers = sorted({int(match[2]) for match in found.values() if match})
    names: dict[str, tuple[str, str]] = {}
    for name, match in found.items():
        if match is None:
            names[name] = f"past.{name}", f"present.{name}"
        else:
            place = f"{numbers.index(int(match[2]))}.{match[1]}"
            names[name] = f"past_key_values.{place}", f"present.{place}"
    return names
