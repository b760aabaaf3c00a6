"""`burnish export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.app import ArtifactArgument, app, one_of, reported
from burnish.cli.console import err
from burnish.ir.sizes import size_text


class Flavor(StrEnum):
    """Whose operators the file has."""

    STANDARD = "standard"
    ORT = "ort"


@app.command()
def export(
    artifact: ArtifactArgument,
    output: Annotated[
        Path, typer.Argument(metavar="OUT.onnx", help="The file to write; with --genai it may be a folder.")
    ],
    flavor: Annotated[
        Flavor,
        typer.Option(
            **one_of(Flavor),
            help="standard: ONNX's own operators, of opset 24; ort: ONNX Runtime's where it has some.",
        ),
    ] = Flavor.STANDARD,
    genai: Annotated[
        bool,
        typer.Option("--genai", help="Write genai_config.json and the tokenizer beside it, for onnxruntime-genai."),
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Compare what ONNX Runtime gives with what ARTIFACT gives.")
    ] = True,
) -> None:
    """Write ARTIFACT as an ONNX file, which plain ONNX Runtime runs from any language.

    The caches of a language model are inputs and outputs of the file.
    """
    with reported():
        from burnish.export import export as exported
        from burnish.loader import load

        with err.status("exporting"), load(artifact) as compiled:
            written = exported(compiled, output, flavor.value, genai, verify)
        data = written.with_name(f"{written.name}.data")
        sizes = [size_text(file.stat().st_size) for file in (written, data) if file.exists()]
        names = [str(written), *([data.name] if data.exists() else [])]
        told = " and ".join(f"{name} ({size})" for name, size in zip(names, sizes, strict=True))
        err.print(f"wrote {told}", markup=False, soft_wrap=True)
