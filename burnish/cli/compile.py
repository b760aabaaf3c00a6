"""`burnish compile`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.app import (
    BackendOption,
    DtypeOption,
    MaxLength,
    ModelArgument,
    QuantizeOption,
    TargetOption,
    app,
    reported,
)
from burnish.cli.console import err
from burnish.cli.models import chosen_passes, compiled_model
from burnish.cli.transforms import (
    CalibrationOption,
    DropLayersOption,
    GroupOption,
    HeadOption,
    HealOption,
    KVHeadsOption,
    MethodOption,
    QuantizeCacheOption,
    RecipeOption,
    SaveRecipeOption,
    SizeOption,
    SparsifyOption,
    SymmetricOption,
    quantize_of,
    recipe_of,
)

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.compiler import Verify


@app.command()
def compile(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write, by custom NAME.burnish.")],
    max_length: MaxLength = None,
    target: TargetOption = "cpu",
    backend: BackendOption = None,
    dtype: DtypeOption = None,
    quantize: QuantizeOption = None,
    drop_layers: DropLayersOption = None,
    kv_heads: KVHeadsOption = None,
    heal: HealOption = 0,
    sparsify: SparsifyOption = None,
    group: GroupOption = None,
    quantize_method: MethodOption = None,
    symmetric: SymmetricOption = False,
    head: HeadOption = None,
    size: SizeOption = None,
    quantize_cache: QuantizeCacheOption = None,
    calibration: CalibrationOption = None,
    recipe: RecipeOption = None,
    save_recipe: SaveRecipeOption = None,
    tiles: Annotated[
        Path | None, typer.Option(metavar="FILE", help="For GPUs: tiles of kernels, which burnish tune found.")
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every pass's before and after, on two layers of each kind.")
    ] = False,
    verify_full: Annotated[
        bool, typer.Option("--verify-full", help="Compare every pass's before and after, on the whole model.")
    ] = False,
    passes: Annotated[
        str | None,
        typer.Option(
            metavar="PASS,...",
            help="All passes, in order, as they are spelled: clean,join-writes,...,narrow-floats{dtype=float16}.",
        ),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="PASS", help="Leave this pass out. Can be repeated.")
    ] = None,
    only_until: Annotated[
        str | None, typer.Option(metavar="PASS", help="Leave out what comes behind this pass.")
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the program after each pass there as ONNX, without weights, for Netron."
        ),
    ] = None,
) -> None:
    """Compile MODEL into an artifact that runs without the model's code."""
    with reported():
        from burnish.inspect.onnx_dump import OnnxFolder
        from burnish.inspect.summary import size_text
        from burnish.inspect.table import check_lines, pass_table, quality_table

        checked: Verify = "full" if verify_full else "shrunk" if verify else True
        started = time.perf_counter()
        stages = None if onnx is None else OnnxFolder(onnx)
        on_gpu = target != "cpu" or (backend is not None and backend.value in ("cuda", "triton-interpret"))
        rounded = quantize_of(quantize, on_gpu, group, quantize_method, symmetric, head, size)
        changes = recipe_of(kv_heads, heal, drop_layers, sparsify, rounded, quantize_cache, calibration, recipe)
        if save_recipe is not None:
            from burnish.recipe import write_recipe

            write_recipe(save_recipe, changes.transforms, changes.calibration)
        passed = quantize if rounded is None else None
        chosen = chosen_passes(passes, skip or [], only_until)
        with compiled_model(
            model, max_length, backend, checked, stages, target, dtype, passed, changes, tiles, chosen
        ) as compiled:
            compiled.save(output)
            seconds = time.perf_counter() - started
            err.print(pass_table(compiled.trace))
            if compiled.trace.quality:
                err.print(quality_table(compiled.trace.quality))
            for line in check_lines(compiled.trace.checks):
                err.print(line, style="dim", markup=False)
            written = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
        err.print(
            f"{output}: {size_text(written)}, compiled in {seconds:.1f} s", style="bold", markup=False, soft_wrap=True
        )
        if stages is not None:
            err.print(stages.view(), soft_wrap=True)
        prompt = "'1 2 3'" if compiled.tokenizer is None else "'Why is the sky blue?'"
        err.print(f"Try it: burnish run {output} {prompt}", style="dim", markup=False, soft_wrap=True)
