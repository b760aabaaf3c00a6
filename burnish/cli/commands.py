"""The command with all its subcommands."""

from __future__ import annotations

from importlib import import_module

from burnish.cli import COMMANDS
from burnish.cli.app import app

__all__ = ["app"]

for name in COMMANDS:
    import_module(f"burnish.cli.{name}")
