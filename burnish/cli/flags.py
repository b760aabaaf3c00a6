"""Messages about Python's names, in the spelling of the command line."""

from __future__ import annotations

import re

_NAMES = (
    *("accuracy", "backend", "calibration", "context", "dtype", "flavor", "genai", "heal", "kv_heads", "max_length"),
    *("max_new_tokens", "min_p", "quantize", "repetition_penalty", "seed", "target", "temperature", "threads"),
    *("tiles", "tokenizer", "top_k", "top_p", "trust", "trust_remote_code"),
)
_VALUE = r"\"[^\"\s]*\"|'[^'\s]*'|torch\.\w+|\d[\w.]*|True"
_GIVEN = re.compile(rf"\b({'|'.join(_NAMES)})=({_VALUE})?")
_BARE = re.compile(rf"\b({'|'.join(name for name in _NAMES if '_' in name)})\b")
_AS_PYTHON = re.compile(r"(\b\w+\([^()]*\))")  # a transform, say: ConvertToGQA(kv_heads=1)
_PLACES = {"calibration": "FILE", "tiles": "FILE", "tokenizer": "FOLDER"}


def flag(name: str) -> str:
    """`--max-length` for max_length."""
    return f"--{name.replace('_', '-')}"


def in_flags(message: str) -> str:
    """A message with the options that it names as a shell takes them: `--target cuda:sm_90` for target='cuda:sm_90'."""

    def given(found: re.Match[str]) -> str:
        value = (found[2] or _PLACES.get(found[1], "")).strip("\"'").removeprefix("torch.").replace("True", "")
        return f"{flag(found[1])} {value}".strip()

    parts = _AS_PYTHON.split(message)
    parts[::2] = [_BARE.sub(lambda found: flag(found[1]), _GIVEN.sub(given, part)) for part in parts[::2]]
    return "".join(parts)
