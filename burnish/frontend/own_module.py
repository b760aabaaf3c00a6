"""A module that somebody wrote -> `Program`."""

from __future__ import annotations

import logging

from torch import nn

from burnish.frontend.calling import call_of, tokens_first
from burnish.frontend.capture import capture
from burnish.ir.errors import BurnishError, CaptureError
from burnish.ir.program import Program

_log = logging.getLogger(__name__)


def capture_own(module: nn.Module, max_length: int | None) -> Program:
    """See `capture`. A module that cannot be traced may take tokens as [sequence, batch], as PyTorch's own do."""
    call = call_of(module)
    try:
        return capture(module, max_length=max_length, call=call)
    except CaptureError as error:
        first = error
    try:
        program = capture(module, max_length=max_length, call=tokens_first(call))
    except BurnishError as error:
        _log.info("nor can it be traced with tokens as [sequence, batch]: %s", error)
        raise first from first.__cause__
    _log.warning("%s takes tokens as [sequence, batch], and is called so", type(module).__name__)
    return program
