"""PyTorch's constants as texts write them: `f32`, `torch.contiguous_format`, `device(type='cpu')`."""

from __future__ import annotations

from typing import Any

import torch

from burnish.ir.dtypes import SHORT

_NAME_OF = {short: name for name, short in SHORT.items()}


def dtype_of(word: str) -> torch.dtype | None:
    """The dtype that a word stands for: one without a short name prints without its module, too."""
    found = getattr(torch, _NAME_OF.get(word, word), None)
    return found if isinstance(found, torch.dtype) else None


def constant(word: str) -> Any:
    """What a word stands for; None if it is none that an argument can be."""
    if word == "device(type='cpu')":
        return torch.device("cpu")
    if not word.startswith("torch."):
        return dtype_of(word)
    found = getattr(torch, word.removeprefix("torch."), None)
    return found if isinstance(found, torch.layout | torch.memory_format) else None
