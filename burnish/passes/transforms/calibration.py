"""Text as token ids in windows: some to calibrate transforms by, and some, held out, to say what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.ir.errors import InvalidInputError

_LENGTH = 512  # tokens of a window
_SHORTEST = 64
_WINDOWS = 64
_LEAST = 9  # windows: eight to calibrate by, one held out
_HELD_OUT = 16


@dataclass(frozen=True, eq=False)
class Calibration:
    """Windows of text; none of `held_out` is in `tokens`."""

    tokens: Tensor  # int64[windows, length]
    held_out: Tensor  # int64[windows, length]


def calibration_of(ids: Sequence[int], max_length: int, first: Sequence[int] = ()) -> Calibration:
    """The windows that `ids`, one text, give: of 512 tokens, or of fewer down to 64 where it is short.

    At most 64 windows to calibrate by, and of all windows an eighth, at most 16, held out: the end of the text. Each
    window begins with the tokens `first`. Raises InvalidInputError for a text of fewer than nine windows.
    """
    longest = min(_LENGTH, max_length)
    length = min(longest, (len(ids) // _LEAST) + len(first))
    if length < min(_SHORTEST, longest):
        needed = _LEAST * (min(_SHORTEST, longest) - len(first))
        raise InvalidInputError(
            f"the calibration text has {len(ids)} tokens, and at least {needed} are needed: "
            f"some tens of thousands are a good number ({_WINDOWS} windows of {_LENGTH})"
        )
    all_windows = windows(ids, length, first)
    held = max(1, min(_HELD_OUT, len(all_windows) // 8))
    return Calibration(all_windows[:-held][:_WINDOWS], all_windows[-held:])


def windows(ids: Sequence[int], length: int, first: Sequence[int] = ()) -> Tensor:
    """All whole windows, int64[windows, length], each of which begins with the tokens `first`."""
    step = length - len(first)
    count = len(ids) // step
    body = torch.tensor(ids[: count * step], dtype=torch.int64).view(count, step)
    return torch.cat([torch.tensor(first, dtype=torch.int64).expand(count, -1), body], dim=1)
