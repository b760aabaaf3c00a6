"""`burnish bisect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.app import MODEL_HELP, MaxLength, TrustRemoteCode, app, reported
from burnish.cli.console import err, out
from burnish.cli.models import find_model
from burnish.ir.errors import UsageError

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.ir.program import Program
    from burnish.passes.base import Pass


@app.command()
def bisect(
    model: Annotated[
        str, typer.Argument(metavar="MODEL|FOLDER", help=f"A model, or what a failed check left. {MODEL_HELP}")
    ],
    check: Annotated[
        str,
        typer.Option(
            metavar="numbers|COMMAND",
            help="numbers: the logits are those of the model. A command is run with the path of a dump of the program "
            "(in place of {}, or behind it), and fails with another exit code than 0.",
        ),
    ] = "numbers",
    full: Annotated[bool, typer.Option("--full", help="On the whole model, not on two layers of each kind.")] = False,
    backend: Annotated[
        str, typer.Option(metavar="native|onnxruntime|cuda", help="Whose passes to go through; those in float32.")
    ] = "native",
    max_length: MaxLength = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Name the first rewrite after which a check fails. Exit code 1 if there is one."""
    with reported():
        from burnish.inspect.bisect import bisect, command_check, culprit_view, numbers_check
        from burnish.passes.shrink import shrink

        with err.status("capturing the model") as status:
            program, passes = _program(model, max_length, backend, trust_remote_code)
            if not full and not program.states:
                program = shrink(program)

            def show(run: int, good: int, bad: int) -> None:
                status.update(f"{run} checks: the first bad rewrite is one of {bad - good}, from {good + 1} to {bad}")

            checked = numbers_check(program) if check == "numbers" else command_check(check)
            culprit = bisect(program, passes, checked, show)
        if culprit is None:
            where = "" if full else " on two layers of each kind; --full checks the whole model"
            out.print(f"the check holds after every pass{where}")
            return
        out.print(culprit_view(culprit))
        raise typer.Exit(1)


def _program(model: str, max_length: int | None, backend: str, trust: bool) -> tuple[Program, list[Pass]]:
    """What to begin with, and the passes to go through."""
    from burnish.frontend import read
    from burnish.inspect.reproducer import FILE, read_reproducer
    from burnish.passes.pipelines import default_passes

    if backend not in ("native", "onnxruntime", "cuda"):
        raise UsageError(f"there are passes for native, onnxruntime and cuda, none for {backend!r}")
    if (Path(model) / FILE).exists():
        return read_reproducer(Path(model))
    source = read(find_model(model), max_length=max_length, trust_remote_code=trust)
    return source.program, default_passes(backend)
