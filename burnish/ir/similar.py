"""What somebody may have meant."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(text: str, names: Iterable[str]) -> str:
    """` (did you mean A or B?)` if some of the names are like the text, else nothing."""
    near = get_close_matches(text, list(dict.fromkeys(names)), n=3, cutoff=0.7)
    return f" (did you mean {' or '.join(near)}?)" if near else ""
