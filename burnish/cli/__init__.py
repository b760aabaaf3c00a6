"""The `burnish` command: a file a subcommand, imported in the order that --help lists them."""

from burnish.cli import compile, run, inspect, why, bisect, reproduce, bench, evaluate, tune  # noqa: F401, I001
from burnish.cli.app import app
from burnish.cli.models import find_model

__all__ = ["app", "find_model", "main"]


def main() -> None:
    """The entry point."""
    app()
