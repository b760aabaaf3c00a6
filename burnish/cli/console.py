"""What the command prints on."""

from __future__ import annotations

import shutil
import sys

from rich.console import Console

from burnish.cli.verbosity import is_quiet

# Tables are as wide as the terminal, and 100 columns where there is none.
_WIDTH = None if sys.stdout.isatty() else shutil.get_terminal_size((100, 24)).columns


class _Told(Console):
    """What is told beside the answer, unless --quiet."""

    @property
    def quiet(self) -> bool:
        return is_quiet()

    @quiet.setter
    def quiet(self, value: bool) -> None: ...  # Console sets it


out = Console(width=_WIDTH, highlight=False, markup=False)
err = _Told(width=_WIDTH, stderr=True, highlight=False)
errors = Console(width=_WIDTH, stderr=True, highlight=False)


def escaped(text: str) -> str:
    """Text that rich prints as it is."""
    return text.replace("[", r"\[")
