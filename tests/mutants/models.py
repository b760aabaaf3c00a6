"""Models that mutants need beside those of `tests.own_modules`: few, each for what no other shows."""

from __future__ import annotations

from torch import nn

MODELS: tuple[type[nn.Module], ...] = ()
REFUSED: tuple[type[nn.Module], ...] = ()
