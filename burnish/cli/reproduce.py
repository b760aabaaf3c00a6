"""`burnish reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.app import app, reported
from burnish.cli.console import err, out


@app.command()
def reproduce(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What a failed check left: burnish-failure-PASS.")],
) -> None:
    """Run a failed check again, from what it left behind alone."""
    with reported():
        from burnish.inspect.reproducer import reproduce
        from burnish.inspect.table import pass_table

        with err.status("running the passes, with every check"):
            trace = reproduce(folder)
        out.print(pass_table(trace))
        out.print("every check holds: this burnish does not fail here any more")
