"""`burnish compile`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from burnish.cli.answering import given
from burnish.cli.app import (
    BackendOption,
    ContextOption,
    Dtype,
    DtypeOption,
    MaxLength,
    ModelArgument,
    QuantizeOption,
    TargetOption,
    TokenizerOption,
    TrustRemoteCode,
    app,
    reported,
)
from burnish.cli.console import err
from burnish.cli.models import chosen_passes, compiled_model, find_model
from burnish.cli.transforms import (
    CalibrationOption,
    DropLayersOption,
    GroupOption,
    HeadOption,
    HealOption,
    KVHeadsOption,
    MethodOption,
    QuantizeCacheOption,
    SizeOption,
    SparsifyOption,
    SymmetricOption,
    check_flags,
    overridden,
    quantize_of,
    transforms_of_flags,
)
from burnish.config import CONFIG_FILE, Config, read_config, transforms_of, write_config
from burnish.ir.errors import UsageError
from burnish.preflight import check_destination, check_heads, check_text_file
from burnish.runtime.target_names import check_means, check_name, check_options

if TYPE_CHECKING:
    from burnish.runtime.model import CompiledModel


@app.command()
def compile(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write, by custom NAME.burnish.")],
    max_length: MaxLength = None,
    target: TargetOption = None,
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
    tokenizer: TokenizerOption = None,
    context: ContextOption = None,
    trust_remote_code: TrustRemoteCode = False,
    tiles: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="For GPUs: tiles of kernels, which burnish tune found.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help="Options from a file; what is given here wins.",
            show_default=f"{CONFIG_FILE}, if it is there",
        ),
    ] = None,
    save_config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write these options as such a file.")
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
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the page of burnish inspect --html, with the time that all took."),
    ] = None,
) -> None:
    """Compile MODEL into an artifact that runs without the model's code."""
    with reported():
        started = time.perf_counter()
        file = config or (Path(CONFIG_FILE) if Path(CONFIG_FILE).is_file() else None)
        read = Config() if file is None else read_config(file)
        flags = given(
            target=target,
            backend=backend and backend.value,
            dtype=dtype and dtype.value,
            max_length=max_length,
            quantize=quantize and quantize.value,
            tokenizer=tokenizer,
            context=context and context.value,
            tiles=tiles,
            calibration=calibration,
            verify="full" if verify_full else "shrunk" if verify else None,
        )
        options = {"target": "cpu", **read.options, **flags}
        if file is not None:
            told = [name for name in [*read.options, *(["transforms"] if read.transforms else [])] if name not in flags]
            err.print(f"{file} says {', '.join(told) or 'nothing'}", style="dim", markup=False, soft_wrap=True)
        numbers, calibrated = options.get("quantize"), "calibration" in options
        check_flags(
            kv_heads,
            heal,
            drop_layers,
            numbers,
            group,
            quantize_method,
            symmetric,
            head,
            size,
            calibrated,
        )
        changed = (kv_heads, drop_layers, sparsify, numbers, quantize_cache, passes)
        if calibrated and not read.transforms and not any(each is not None for each in changed):
            raise UsageError("--calibration FILE is for what changes the model: add --quantize int4, --kv-heads 1, ...")
        if html is not None and not html.absolute().parent.is_dir():
            raise UsageError(f"--html {html} is in a folder that there is not: mkdir -p {html.parent}")
        check_before(options, output)
        found = find_model(model)
        if kv_heads is not None and (isinstance(found, str) or (isinstance(found, Path) and found.is_dir())):
            check_heads(found, kv_heads)

        from burnish.inspect.table import check_lines, pass_table, quality_table
        from burnish.ir.sizes import size_text

        stages = None
        if onnx is not None:
            from burnish.inspect.onnx_dump import OnnxFolder  # imports onnx, which takes most of a second

            stages = OnnxFolder(onnx)
        on_gpu = options["target"].startswith("cuda") or options.get("backend") in ("cuda", "triton-interpret")
        rounded = quantize_of(numbers, on_gpu, group, quantize_method, symmetric, head, size)
        if rounded is not None:
            del options["quantize"]
        named = transforms_of_flags(kv_heads, heal, drop_layers, sparsify, rounded, quantize_cache)
        before = [] if file is None else transforms_of(read.transforms, file)
        transforms = overridden(before, named, quantized="quantize" in flags)
        if save_config is not None:
            write_config(save_config, options, transforms)
        chosen = chosen_passes(passes, skip or [], only_until)
        # No option of the file: one that lies in a folder from elsewhere would trust the code beside it.
        options |= {"observer": stages, "transforms": transforms, "trust_remote_code": trust_remote_code}
        with compiled_model(found, graphs=True, passes=chosen, **options) as compiled:
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
        if html is not None:
            from burnish.inspect.html import write_report
            from burnish.inspect.kernels import kernels_of
            from burnish.runtime.artifact import Artifact

            opened = Artifact.open(output)
            write_report(compiled.trace, opened.manifest.name, html, kernels_of(opened))
            err.print(f"wrote {html}: open it in a browser", markup=False, soft_wrap=True)
        if stages is not None:
            err.print(stages.view(), soft_wrap=True)
        err.print(f"Try it: {use_of(compiled, output)}", style="dim", markup=False, soft_wrap=True)


def use_of(compiled: CompiledModel, output: Path) -> str:
    """What runs an artifact."""
    if compiled.artifact.manifest.graph is not None:
        given = ", ".join(f"{each.called}=..." for each in compiled.artifact.manifest.graph.inputs)
        return f"python -c 'import burnish; print(burnish.load(\"{output}\")({given}))'"
    prompt = "'1 2 3'" if compiled.artifact.manifest.tokenizer is None else "'Why is the sky blue?'"
    return f"burnish run {output} {prompt}"


def check_before(options: Mapping[str, Any], output: Path) -> None:
    """What is wrong with names, files and the destination, before PyTorch is imported."""
    target, backend, dtype = options["target"], options.get("backend"), options.get("dtype")
    check_options(target, backend, options.get("quantize"), options.get("tiles"))
    check_means(target)
    if dtype is not None:
        check_name("number to compute in", dtype, [each.value for each in Dtype])
    if "calibration" in options:
        check_text_file(options["calibration"])
    for name in ("tiles", "tokenizer"):
        if name in options and not options[name].exists():
            raise UsageError(f"there is nothing at {options[name]}, which {name}= names")
    check_destination(output)
