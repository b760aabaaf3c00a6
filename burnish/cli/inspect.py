"""`burnish inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.app import ArtifactArgument, app, out, reported


@app.command()
def inspect(
    artifact: ArtifactArgument,
    dump: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the program after each pass there, one text file a pass.")
    ] = None,
    rewrites: Annotated[bool, typer.Option("--rewrites", help="Also list what each pass rewrote.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also compare every file with its checksum.")] = False,
) -> None:
    """Show what an artifact holds and what each pass did to the model."""
    with reported():
        from burnish.inspect.summary import dump_texts, summary
        from burnish.inspect.table import rewrites_view, trace_view
        from burnish.runtime.artifact import Artifact

        opened = Artifact.open(artifact)
        if verify:
            opened.verify()
        trace = opened.trace()
        out.print(summary(opened))
        out.print(trace_view(trace))
        if rewrites:
            out.print(rewrites_view(trace))
        if verify:
            out.print("every file is as it was written")
        if dump is not None:
            files = dump_texts(trace, dump)
            out.print(f"{len(files)} texts in {dump}; compare two with: diff {files[0]} {files[-1]}", soft_wrap=True)
