"""`burnish inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.app import ArtifactArgument, app, out, reported

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.runtime.artifact import Artifact


@app.command()
def inspect(
    artifact: ArtifactArgument,
    other: Annotated[
        str | None,
        typer.Argument(metavar="[OTHER]", help="Another artifact, to compare with; after --diff, a second pass."),
    ] = None,
    dump: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the program after each pass there, one text file a pass.")
    ] = None,
    rewrites: Annotated[bool, typer.Option("--rewrites", help="Also list what each pass rewrote.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a page with the graph after each pass, to open in a browser."),
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option(
            metavar="PASS [PASS]", help="Show what a pass changed, or what changed between two: --diff 06 07."
        ),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Also compare every file with its checksum.")] = False,
) -> None:
    """Show what an artifact holds and what each pass did to the model."""
    with reported():
        from burnish.inspect.summary import dump_texts, summary
        from burnish.inspect.table import rewrites_view, trace_view
        from burnish.runtime.artifact import Artifact

        opened = Artifact.open(artifact)
        if diff is not None or other is not None:
            compare(opened, diff, other)
            return
        if verify:
            opened.verify()
        trace = opened.trace()
        out.print(summary(opened))
        out.print(trace_view(trace))
        if rewrites:
            out.print(rewrites_view(trace))
        if verify:
            out.print("every file is as it was written")
        if html is not None:
            from burnish.inspect.html import write_report

            write_report(trace, opened.manifest.name, html)
            out.print(f"wrote {html}: open it in a browser", soft_wrap=True)
        if dump is not None:
            files = dump_texts(trace, dump)
            out.print(f"{len(files)} texts in {dump}; compare two with: diff {files[0]} {files[-1]}", soft_wrap=True)


def compare(artifact: Artifact, first: str | None, other: str | None) -> None:
    """Show the difference between two passes, or, where `first` is None, between two artifacts."""
    from burnish.inspect.diff import diff_artifacts, diff_passes
    from burnish.inspect.diff_view import artifact_diff_view, program_diff_view
    from burnish.runtime.artifact import Artifact

    if first is not None:
        view = program_diff_view(diff_passes(artifact.trace(), first, other))
    else:
        second = Artifact.open(str(other))
        view = artifact_diff_view(diff_artifacts(artifact, second), str(artifact.path), str(second.path))
    out.print(view, soft_wrap=True)
