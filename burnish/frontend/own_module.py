"""A module that somebody wrote -> `Program`."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from burnish.frontend.calling import Call, call_of, tokens_first
from burnish.frontend.capture import capture, evaluating
from burnish.frontend.exported import logits_of
from burnish.ir.errors import BurnishError, CaptureError
from burnish.ir.program import Program

_log = logging.getLogger(__name__)

_PLACE = 2  # of the row, and of the column, that is changed


def capture_own(module: nn.Module, max_length: int | None) -> Program:
    """See `capture`. Of a module that takes tokens as [sequence, batch], as PyTorch's own do, it is called so."""
    call = call_of(module)
    try:
        return capture(module, max_length=max_length, call=call)
    except CaptureError as error:
        if not _mixes_along_the_first_axis(module, call):
            raise
        first = error
    try:
        program = capture(module, max_length=max_length, call=tokens_first(call))
    except BurnishError as error:
        _log.info("nor can it be traced with tokens as [sequence, batch]: %s", error)
        raise first from first.__cause__
    _log.warning("%s takes tokens as [sequence, batch], and is called so", type(module).__name__)
    return program


@torch.no_grad()
def _mixes_along_the_first_axis(module: nn.Module, call: Call) -> bool:
    """Whether it is along their first axis, and not their second, that ids change later logits, and no earlier ones."""
    try:
        with evaluating(module):
            found = [_logits(module, call, change) for change in (None, (_PLACE,), (slice(None), _PLACE))]
    except Exception as error:  # whatever somebody's module raises
        _log.info("it cannot be tried with ids: %s", error)
        return False
    of_row, of_column = ((each - found[0]).abs().amax(-1) > 0 for each in found[1:])
    others = torch.arange(of_column.shape[1]) != _PLACE
    return bool(of_row[_PLACE + 1 :].any()) and not bool(of_row[:_PLACE].any()) and not bool(of_column[:, others].any())


def _logits(module: nn.Module, call: Call, change: tuple[Any, ...] | None) -> torch.Tensor:
    """Logits of ids 0, of which some are 1."""
    ids = torch.zeros(6, 5, dtype=torch.int64)
    if change is not None:
        ids[change] = 1
    logits = logits_of(call(module, ids))
    assert isinstance(logits, torch.Tensor)
    return logits
