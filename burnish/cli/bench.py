"""`burnish bench`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from burnish.benchmark.names import PEERS, parse_peers
from burnish.cli.app import ArtifactOrModel, TrustOption, TrustRemoteCode, app, reported
from burnish.cli.console import err, out
from burnish.cli.models import compiled_model, find_model
from burnish.ir.errors import NativeBuildError, UsageError


@app.command()
def bench(
    model: ArtifactOrModel,
    vs: Annotated[str, typer.Option(metavar="NAMES", help=f"Whom to compare with: any of {','.join(PEERS)}.")] = "",
    source: Annotated[
        Path | None, typer.Option("--model", metavar="MODEL", help="What an ARTIFACT was compiled from; --vs needs it.")
    ] = None,
    prompt_length: Annotated[int, typer.Option(min=1, help="Tokens to read: the context of what is written.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to write.")] = 64,
    batch: Annotated[int, typer.Option(min=1, help="Rows that are read and written together.")] = 1,
    repeats: Annotated[int, typer.Option(min=1, help="Undisturbed repetitions of each contender.")] = 9,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each contender.", show_default="all cores")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also add the results to this file of JSON lines.")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
    trust: TrustOption = None,
) -> None:
    """Measure how fast a model reads and writes, beside others if asked, in turns in one run."""
    with reported():
        peers = parse_peers(vs)
        is_artifact = (Path(model) / "manifest.json").exists()
        origin = source if is_artifact or source is not None else Path(model)
        if peers and (origin is None or not origin.exists()):
            raise UsageError("--vs needs the model that others can read, a folder or a .gguf file: say --model MODEL")
        if trust is not None and not is_artifact:
            raise UsageError(f"--trust is for artifacts, and {model} is a model: leave it out")
        from burnish.benchmark.bandwidth import measure_bandwidth
        from burnish.benchmark.compare import compare, records, results_view
        from burnish.benchmark.machine import cores
        from burnish.benchmark.runner import Settings, append

        settings = Settings(prompt_length, new_tokens, repeats, threads or cores(), batch=batch)
        with tempfile.TemporaryDirectory(prefix="burnish-bench-") as folder:
            artifact = Path(model)
            if not is_artifact:
                artifact = Path(folder) / "model.burnish"
                found = find_model(model)
                with compiled_model(found, backend="onnxruntime", trust_remote_code=trust_remote_code) as compiled:
                    compiled.save(artifact)
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            with Progress(*columns, console=err, transient=True) as progress:
                task = progress.add_task("starting", total=repeats)

                def show(what: str, done: int, total: int) -> None:
                    progress.update(task, description=what, completed=done, total=total)

                found = compare(artifact, origin, peers, settings, show, None if trust is None else "native")
                show("measuring the machine", repeats, repeats)
                bandwidth = None
                try:
                    bandwidth = measure_bandwidth(found)
                except (NativeBuildError, UsageError) as error:
                    err.print(f"no share of the read bandwidth, which the native library measures: {error}")
        out.print(results_view(found, bandwidth))
        if results is not None:
            append(results, records(found, Path(model).stem, bandwidth))
