"""`burnish evaluate`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from burnish.cli.app import MODEL_HELP, BackendOption, TrustOption, TrustRemoteCode, app, reported
from burnish.cli.console import err, out
from burnish.cli.models import loaded_model


@app.command()
def evaluate(
    first: Annotated[str, typer.Argument(metavar="A", help=f"An artifact, or a model. {MODEL_HELP}")],
    text: Annotated[Path, typer.Option("--text", metavar="FILE", help="The text, which no calibration has seen.")],
    second: Annotated[
        str | None, typer.Argument(metavar="[B]", help="Another one, whose predictions are compared with A's.")
    ] = None,
    most: Annotated[
        int | None, typer.Option("--windows", min=1, help="Use at most so many windows of 512 tokens.")
    ] = None,
    backend: BackendOption = None,
    trust_remote_code: TrustRemoteCode = False,
    trust: TrustOption = None,
) -> None:
    """Measure on a text how well a model predicts it, and how far another one's predictions are from its own."""
    with reported(), ExitStack() as stack:
        from burnish.evaluation import evaluate as evaluated
        from burnish.ir.sizes import size_text

        names = [first] if second is None else [first, second]
        models = [
            stack.enter_context(loaded_model(name, None, backend, trust_remote_code=trust_remote_code, trust=trust))
            for name in names
        ]
        with err.status(f"reading {text}"):
            found = evaluated(models, text, most)
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        table.add_column("model", overflow="fold")
        for heading in ("weights", "cache\nB/token", "perplexity", "KL\nnats", "same top\ntoken", "tokens/s"):
            table.add_column(heading, justify="right")
        for name, each in zip(names, found, strict=True):
            quality = each.quality
            table.add_row(
                Text(name),
                size_text(each.weight_bytes),
                f"{each.cache_bytes_a_token:,}",
                f"{quality.perplexity:,.3f}",
                f"{quality.divergence:.4f}",
                f"{100 * quality.agreement:.1f}%",
                f"{each.tokens_per_second:,.1f}",
            )
        out.print(table)
        out.print(f"over {found[0].quality.tokens:,} tokens of {text}; tokens/s: of writing, one row", soft_wrap=True)
