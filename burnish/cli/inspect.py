"""`burnish inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.app import ArtifactArgument, app, reported
from burnish.cli.console import err, out
from burnish.ir.errors import UsageError

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.runtime.artifact import Artifact


@app.command()
def inspect(
    artifact: ArtifactArgument,
    other: Annotated[
        str | None,
        typer.Argument(metavar="OTHER", help="Another artifact, to compare with; after --diff, a second pass."),
    ] = None,
    dump: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the program after each pass there, one text file a pass.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="With --dump: all layers, and the weights, for --run.")] = False,
    run: Annotated[
        bool,
        typer.Option("--run", help="ARTIFACT is such a text: run it, with the weights.safetensors beside it if any."),
    ] = False,
    onnx: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --run: write the program there as ONNX, with its weights.")
    ] = None,
    rewrites: Annotated[bool, typer.Option("--rewrites", help="Also list what each pass rewrote.")] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a page for a browser: the graph after each pass, of one artifact or of two side by side.",
        ),
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option(
            metavar="PASS [PASS]", help="Show what a pass changed, or what changed between two: --diff 06 07."
        ),
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Also compare every file with its checksum.")] = False,
) -> None:
    """Show what an artifact holds and what each pass did to the model; or what is in an ONNX file."""
    with reported():
        if full and dump is None:
            raise UsageError("--full says how --dump writes: add --dump DIR")
        if run:
            if other is not None or dump is not None or html is not None or diff is not None or rewrites or verify:
                raise UsageError("--run takes the text of one program, and none of the options for artifacts")
            run_dump(artifact, onnx)
            return
        if onnx is not None:
            raise UsageError("--onnx takes the text of one program, with --run; burnish compile --onnx writes all")
        if artifact.suffix.lower() == ".onnx" and artifact.is_file():
            if other is not None or diff is not None or rewrites or verify or full:
                raise UsageError(f"{artifact} is not compiled, and has no passes yet: --dump and --html show it")
            show_onnx(artifact, dump, html)
            return
        from burnish.runtime.artifact import Artifact

        opened = Artifact.open(artifact)  # before what shows it, which imports PyTorch
        from burnish.inspect.summary import dump_texts, dump_weights, summary
        from burnish.inspect.table import rewrites_view, trace_view

        if diff is not None or other is not None:
            if dump is not None or rewrites or verify:
                raise UsageError("what differs is shown by itself: leave out --dump, --rewrites and --verify")
            if diff is not None and html is not None:
                raise UsageError(
                    f"a page shows the passes of one artifact, or two artifacts: leave out --diff {diff}, "
                    "or give two artifacts"
                )
            compare(opened, diff, other, html)
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
            from burnish.inspect.kernels import kernels_of

            write_report(trace, opened.manifest.name, html, kernels_of(opened))
            out.print(f"wrote {html}: open it in a browser", soft_wrap=True)
        if dump is not None:
            files = dump_texts(trace, dump, full)
            if full:
                count = dump_weights(opened, files)
                beside = f"beside them the artifact's weights, which are all that {count} of them read; "
                then = f"{beside}run one with: burnish inspect --run {files[-1]}"
            else:
                then = f"compare two with: diff {files[0]} {files[-1]}"
            out.print(f"{len(files)} texts in {dump}; {then}", soft_wrap=True)


def show_onnx(path: Path, dump: Path | None, html: Path | None) -> None:
    """Show what is in an ONNX file, before any compiling."""
    from burnish.inspect.onnx_summary import read_program
    from burnish.inspect.summary import dump_texts
    from burnish.inspect.table import trace_view

    with err.status("reading it"):
        summary, trace = read_program(path)
    out.print(summary)
    out.print(trace_view(trace))
    if html is not None:
        from burnish.inspect.html import write_report

        write_report(trace, path.name, html, {})
        out.print(f"wrote {html}: open it in a browser", soft_wrap=True)
    if dump is not None:
        out.print(f"its text is {dump_texts(trace, dump)[0]}", soft_wrap=True)


def run_dump(path: Path, onnx: Path | None) -> None:
    """Run the program of a text on random tokens and show what comes out; write it as ONNX to the folder `onnx`."""
    from burnish.inspect.dump import load_dump
    from burnish.inspect.run import run_program, runs_table
    from burnish.ir.text import heading

    program = load_dump(path)
    out.print(heading(program).removeprefix("# "))
    with err.status("running it"):
        runs = list(run_program(program))
    out.print(runs_table(runs))
    if onnx is not None:
        from burnish.inspect.onnx_dump import OnnxFolder

        folder = OnnxFolder(onnx)
        folder.add(program, path.stem, with_weights=True)
        out.print(folder.view(), soft_wrap=True)


def compare(artifact: Artifact, first: str | None, other: str | None, html: Path | None) -> None:
    """Show the difference between two passes, or, where `first` is None, between two artifacts: also as a page."""
    from burnish.inspect.diff import diff_artifacts, diff_passes
    from burnish.inspect.diff_view import artifact_diff_view, program_diff_view
    from burnish.runtime.artifact import Artifact

    if first is not None:
        out.print(program_diff_view(diff_passes(artifact.trace(), first, other)), soft_wrap=True)
        return
    second = Artifact.open(str(other))
    view = artifact_diff_view(diff_artifacts(artifact, second), str(artifact.path), str(second.path))
    out.print(view, soft_wrap=True)
    if html is not None:
        from burnish.inspect.html import write_comparison

        write_comparison((artifact.path.name, artifact.trace()), (second.path.name, second.trace()), html)
        out.print(f"wrote {html}: open it in a browser", soft_wrap=True)
