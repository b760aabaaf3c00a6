"""What export noted of the sizes of its input, evaluated without running text: L['tokens'].size()[0] <= 8."""

from __future__ import annotations

import re

from burnish.ir.conditions import holds

_SIZE = re.compile(r"L\['\w+'\]\.size\(\)\[(\d)\]")


def holds_for_tokens(guard: str, sizes: tuple[int, int]) -> bool:
    """Whether a guard is true of tokens of these sizes. Raises UnreadCondition."""
    text = _SIZE.sub(lambda match: f"size_{match[1]}", guard)
    return holds(text, {"size_0": sizes[0], "size_1": sizes[1]})
