"""How much a command tells: of what burnish logs, and of its progress. -v, -q and BURNISH_LOG say it."""

from __future__ import annotations

import logging
import os
import sys

from burnish.ir.errors import UsageError
from burnish.ir.similar import did_you_mean

VARIABLE = "BURNISH_LOG"
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_logger = logging.getLogger("burnish")
_quiet = False


class _ToStandardError(logging.Handler):
    """To what is standard error now: a progress bar takes its place for a while."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(f"{record.levelname.lower()}: {self.format(record)}\n")


def set_verbosity(verbose: int, quiet: bool) -> None:
    """Log what is asked for; quiet leaves out progress and tables, too. UsageError for an unknown BURNISH_LOG."""
    global _quiet
    _quiet = quiet
    named = os.environ.get(VARIABLE, "").lower()
    if named and named not in _LEVELS:
        raise UsageError(f"{VARIABLE} is {named!r}{did_you_mean(named, _LEVELS)}: there are {', '.join(_LEVELS)}")
    asked = (logging.INFO, logging.DEBUG)[min(verbose, 2) - 1] if verbose else None
    level = logging.ERROR if quiet else asked or _LEVELS.get(named, logging.WARNING)
    _logger.setLevel(level)
    for handler in [each for each in _logger.handlers if isinstance(each, _ToStandardError)]:
        _logger.removeHandler(handler)
    _logger.addHandler(_ToStandardError())


def is_quiet() -> bool:
    """Whether progress and tables are left out."""
    return _quiet
