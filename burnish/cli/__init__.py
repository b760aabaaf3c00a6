"""The `burnish` command: a file a subcommand, of which one alone is imported where it is named."""

from __future__ import annotations

import sys
from importlib import import_module

COMMANDS = ("compile", "run", "chat", "export", "inspect", "why", "bisect", "reproduce", "bench", "evaluate", "tune")
"""In the order that --help lists them."""


def main() -> None:
    """The entry point."""
    named = next((each for each in sys.argv[1:] if not each.startswith("-")), None)
    import_module(f"burnish.cli.{named}" if named in COMMANDS else "burnish.cli.commands")
    from burnish.cli.app import app

    app()
