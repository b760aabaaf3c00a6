"""`burnish why`."""

from __future__ import annotations

from typing import Annotated

import typer

from burnish.cli.app import MaxLength, ModelArgument, TrustRemoteCode, app, reported
from burnish.cli.console import err, out
from burnish.cli.models import find_model


@app.command()
def why(
    model: ModelArgument,
    name: Annotated[str, typer.Argument(metavar="PASS", help="A pass, by name or number: raise-norms.")],
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="WHERE",
            help="A module or part of its path (`layers.*.mlp`), an op, a node, or file:line of the model's source.",
            show_default="the whole model",
        ),
    ] = None,
    max_length: MaxLength = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Show what a pass rewrote in MODEL, and why it did not rewrite what is nearest to that."""
    with reported():
        found = find_model(model)
        with err.status("capturing the model and running the passes"):
            from burnish.inspect.why import why
            from burnish.inspect.why_view import why_view

            told = why(found, name, where, max_length=max_length, trust_remote_code=trust_remote_code)
        out.print(why_view(told))
