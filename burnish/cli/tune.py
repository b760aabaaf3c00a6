"""`burnish tune`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from burnish.cli.app import DtypeOption, MaxLength, ModelArgument, QuantizeOption, TrustRemoteCode, app, reported
from burnish.cli.console import err, escaped
from burnish.cli.models import find_model


@app.command()
def tune(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Tiles to write, or to add to those in the file.")
    ],
    max_length: MaxLength = None,
    target: Annotated[str, typer.Option(metavar="TARGET", help="cuda, which is this machine's GPU.")] = "cuda",
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Time the kernels of MODEL on this machine's GPU with other tiles, and write which are fastest."""
    with reported():
        import torch

        from burnish.codegen.triton.tile_file import read_tiles, write_tiles
        from burnish.tuning import tune as tuned

        written = read_tiles(output) if output.exists() else None
        found_model = find_model(model)
        with err.status("starting") as status:
            found = tuned(
                found_model,
                max_length=max_length,
                target=target,
                dtype=None if dtype is None else getattr(torch, dtype.value),
                quantize=None if quantize is None else quantize.value,
                trust_remote_code=trust_remote_code,
                progress=lambda what: status.update(escaped(what)),
            )
        ((name, winners),) = found.architectures.items()
        whole = found if written is None else written.with_winners(int(name.removeprefix("sm_")), winners)
        write_tiles(output, whole)
        table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
        table.add_column("kernel and what it is for", overflow="fold")
        table.add_column("table\nµs", justify="right")
        table.add_column("fastest\nµs", justify="right")
        for key, each in winners.items():
            table.add_row(Text(key), f"{each.table_microseconds:,.1f}", f"{each.microseconds:,.1f}")
        err.print(table)
        err.print(f"{output}: {len(winners)} tiles for {name}", style="bold", markup=False, soft_wrap=True)
        err.print(
            f"Use them: burnish compile {model} --target cuda --tiles {output} -o NAME.burnish",
            style="dim",
            markup=False,
            soft_wrap=True,
        )
