"""The `burnish` command."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from burnish.ir.errors import ArtifactError, BurnishError, InvalidModelError, UsageError

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.runtime.generation import Generation
    from burnish.runtime.model import CompiledModel

app = typer.Typer(
    name="burnish",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Compile a plain PyTorch language model into a fast, self-contained artifact, and run it.",
    epilog="Start with: `burnish run path/to/model 'Why is the sky blue?'`",
)
# Tables are as wide as the terminal, and 100 columns where there is none.
_WIDTH = None if sys.stdout.isatty() else shutil.get_terminal_size((100, 24)).columns
_out = Console(width=_WIDTH, highlight=False, markup=False)
_err = Console(width=_WIDTH, stderr=True, highlight=False)
_debug = False
_PHASES = ("capture", "passes", "verify", "lower", "write", "load")

MODEL_HELP = (
    "A folder with config.json and safetensors, a .gguf file, or package.module:name of an nn.Module or of a function "
    "that makes one."
)


class Backend(StrEnum):
    """Who executes the step graph."""

    ONNXRUNTIME = "onnxruntime"
    REFERENCE = "reference"


ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
ArtifactArgument = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A folder that `burnish compile` wrote.")]
MaxLength = Annotated[
    int | None,
    typer.Option(min=1, help="Most tokens of prompt and answer together.", show_default="what the model was made for"),
]
BackendOption = Annotated[
    Backend,
    typer.Option(help="onnxruntime is fast; reference runs the graph node by node in PyTorch, to compare with."),
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    global _debug
    _debug = debug


@app.command()
def compile(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write, by custom NAME.burnish.")],
    max_length: MaxLength = None,
    backend: BackendOption = Backend.ONNXRUNTIME,
) -> None:
    """Compile MODEL into an artifact that runs without the model's code."""
    with _reported():
        from burnish.inspect.summary import size_text
        from burnish.inspect.table import pass_table

        started = time.perf_counter()
        with _compiled(model, max_length, backend) as compiled:
            compiled.save(output)
            seconds = time.perf_counter() - started
            _err.print(pass_table(compiled.trace))
            size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
        _err.print(
            f"{output}: {size_text(size)}, compiled in {seconds:.1f} s", style="bold", markup=False, soft_wrap=True
        )
        _err.print(f"Try it: burnish run {output} 'Why is the sky blue?'", style="dim", markup=False, soft_wrap=True)


@app.command()
def run(
    model: Annotated[str, typer.Argument(metavar="ARTIFACT|MODEL", help=f"An artifact, or a model. {MODEL_HELP}")],
    prompt: Annotated[str, typer.Argument(help="What to say to the model; - reads it from standard input.")],
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="Most tokens to answer.")] = 256,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help="0 always takes the likeliest token; 1 samples as the model was trained."),
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=0, help="Sample from the k likeliest tokens only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Sample from the likeliest tokens that add up to p.")
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Sample from tokens at least p times as likely as the likeliest.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(min=0, help="Above 1 makes tokens that were said before less likely.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes sampling repeatable.")] = None,
    system: Annotated[str | None, typer.Option(help="A system message, ahead of the prompt.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as it is: no chat template.")] = False,
    max_length: MaxLength = None,
    backend: BackendOption = Backend.ONNXRUNTIME,
) -> None:
    """Answer PROMPT, word by word. A MODEL is compiled first, and not kept."""
    with _reported():
        text = sys.stdin.read() if prompt == "-" else prompt
        with _loaded(model, max_length, backend) as compiled:
            inputs = _inputs(compiled, text, system, raw)
            settings = {
                "temperature": temperature,
                "top_k": top_k,
                "top_p": top_p,
                "min_p": min_p,
                "repetition_penalty": repetition_penalty,
                "seed": seed,
            }
            chosen = {name: value for name, value in settings.items() if value is not None}
            generation = _stream(compiled, inputs, max_new_tokens, chosen)
        _err.print(_speed(generation), style="dim")


@app.command()
def inspect(
    artifact: ArtifactArgument,
    dump: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the program after each pass there, one text file a pass.")
    ] = None,
    rewrites: Annotated[bool, typer.Option("--rewrites", help="Also list what each pass rewrote.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Also compare every file with its checksum.")] = False,
) -> None:
    """Show what an artifact holds and what each pass did to the model."""
    with _reported():
        from burnish.inspect.summary import dump_texts, summary
        from burnish.inspect.table import rewrites_view, trace_view
        from burnish.runtime.artifact import Artifact

        opened = Artifact.open(artifact)
        if verify:
            opened.verify()
        trace = opened.trace()
        _out.print(summary(opened))
        _out.print(trace_view(trace))
        if rewrites:
            _out.print(rewrites_view(trace))
        if verify:
            _out.print("every file is as it was written")
        if dump is not None:
            files = dump_texts(trace, dump)
            _out.print(f"{len(files)} texts in {dump}; compare two with: diff {files[0]} {files[-1]}", soft_wrap=True)


@app.command()
def bench(
    model: Annotated[str, typer.Argument(metavar="ARTIFACT|MODEL", help=f"An artifact, or a model. {MODEL_HELP}")],
    vs: Annotated[
        str, typer.Option(metavar="NAMES", help="Whom to compare with: any of eager,inductor,ort-genai.")
    ] = "",
    source: Annotated[
        Path | None, typer.Option("--model", metavar="MODEL", help="What an ARTIFACT was compiled from; --vs needs it.")
    ] = None,
    prompt_length: Annotated[int, typer.Option(min=1, help="Tokens to read: the context of what is written.")] = 512,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens to write.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Undisturbed repetitions of each contender.")] = 9,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads of each contender.", show_default="all cores")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also add the results to this file of JSON lines.")
    ] = None,
) -> None:
    """Measure how fast a model reads and writes, beside others if asked, in turns in one run."""
    with _reported():
        from burnish.benchmark.compare import compare, results_view
        from burnish.benchmark.machine import cores
        from burnish.benchmark.peers import parse_peers
        from burnish.benchmark.runner import Settings, append, record

        peers = parse_peers(vs)
        is_artifact = (Path(model) / "manifest.json").exists()
        origin = source if is_artifact or source is not None else Path(model)
        if peers and (origin is None or not origin.exists()):
            raise UsageError("--vs needs the model that others can read, a folder or a .gguf file: say --model MODEL")
        settings = Settings(prompt_length, new_tokens, repeats, threads or cores())
        with tempfile.TemporaryDirectory(prefix="burnish-bench-") as folder:
            artifact = Path(model)
            if not is_artifact:
                artifact = Path(folder) / "model.burnish"
                with _compiled(model, None, Backend.ONNXRUNTIME) as compiled:
                    compiled.save(artifact)
            columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
            with Progress(*columns, console=_err, transient=True) as progress:
                task = progress.add_task("starting", total=repeats)

                def show(what: str, done: int, total: int) -> None:
                    progress.update(task, description=what, completed=done, total=total)

                found = compare(artifact, origin, peers, settings, show)
        _out.print(results_view(found))
        if results is not None:
            append(results, [record(result, found[0], Path(model).stem) for result in found])


@contextmanager
def _reported() -> Iterator[None]:
    """Errors as one message on stderr: exit code 2 for a mistake in the command, 1 for everything else."""
    try:
        yield
    except BurnishError as error:
        if _debug:
            raise
        _err.print(f"[bold red]error:[/bold red] {_escaped(str(error))}", soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # `burnish inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        if _debug or isinstance(error, (typer.Exit, typer.Abort)):
            raise
        what = _escaped(f"{type(error).__name__}: {error}")
        _err.print(f"[bold red]error:[/bold red] {what}", soft_wrap=True)
        _err.print("This was not expected. burnish --debug shows where it happened; please report it.", style="dim")
        raise typer.Exit(1) from error


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def find_model(text: str) -> Any:
    """What `compile` takes, for what a user types: a path, or the object that `package.module:name` names.

    Raises UsageError if there is no such path or name.
    """
    path = Path(text)
    if path.exists():
        return path
    named = re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)", text)
    if named is None:
        raise UsageError(f"there is nothing at {text!r}. MODEL is {MODEL_HELP[0].lower()}{MODEL_HELP[1:]}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: modules of the folder that the user is in
    try:
        found: Any = importlib.import_module(named[1])
    except ModuleNotFoundError as error:
        if error.name is not None and not named[1].startswith(error.name):
            raise
        raise UsageError(
            f"there is no module {named[1]!r}: is its folder the current one, or on PYTHONPATH?"
        ) from error
    for part in named[2].split("."):
        if not hasattr(found, part):
            raise UsageError(f"{named[1]!r} has nothing named {named[2]!r}")
        found = getattr(found, part)
    from torch import nn

    model = found if isinstance(found, nn.Module) or not callable(found) else found()
    if not isinstance(model, nn.Module):
        raise InvalidModelError(f"{text} gives {type(model).__name__}, not an nn.Module")
    return model


@contextmanager
def _compiled(model: str, max_length: int | None, backend: Backend) -> Iterator[CompiledModel]:
    """The model, compiled, with a progress bar."""
    found = find_model(model)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_err, transient=True) as progress:
        task = progress.add_task("starting", total=len(_PHASES))

        def begin(phase: str) -> None:
            done = _PHASES.index(phase) if phase in _PHASES else None
            progress.update(task, description=phase, completed=done)

        import burnish

        compiled = burnish.compile(found, max_length=max_length, backend=backend.value, progress=begin)
    with compiled:
        yield compiled


@contextmanager
def _loaded(model: str, max_length: int | None, backend: Backend) -> Iterator[CompiledModel]:
    """The artifact or, compiled into a temporary one, the model."""
    path = Path(model)
    if not (path / "manifest.json").exists():
        if path.suffix == ".burnish":
            raise ArtifactError(f"there is no artifact at {path}")
        with _compiled(model, max_length, backend) as compiled:
            yield compiled
        return
    if max_length is not None:
        raise UsageError("--max-length is chosen when a model is compiled; this is an artifact")
    import burnish

    with burnish.load(path, backend=backend.value) as compiled:
        yield compiled


def _inputs(compiled: CompiledModel, text: str, system: str | None, raw: bool) -> str | list[int]:
    """What to generate from: a conversation where the model has a template for it, the text, or the ids in it."""
    tokenizer = compiled.tokenizer
    if tokenizer is not None and tokenizer.data.chat_template is not None and not raw:
        messages = [{"role": "system", "content": system}] if system is not None else []
        ids: list[int] = compiled.chat_ids([*messages, {"role": "user", "content": text}])
        return ids
    if system is not None:
        raise UsageError("--system needs a chat template, which " + ("--raw turns off" if raw else "is not there"))
    if tokenizer is not None:
        return text
    if re.fullmatch(r"\s*\d+(\s+\d+)*\s*", text) is None:
        raise UsageError("this model has no tokenizer: the prompt has to be token ids, such as '1 17 4'")
    return [int(number) for number in text.split()]


def _stream(
    compiled: CompiledModel, inputs: str | list[int], max_new_tokens: int, settings: dict[str, Any]
) -> Generation:
    """Print the answer as it comes; what was generated."""

    def show(piece: str) -> None:
        sys.stdout.write(piece)
        sys.stdout.flush()

    if compiled.tokenizer is None:
        generation = compiled.generate(inputs, max_new_tokens=max_new_tokens, **settings)
        show(" ".join(str(token) for token in generation.tokens[0]))
    else:
        generation = compiled.generate(inputs, max_new_tokens=max_new_tokens, stream=show, **settings)
    show("\n")
    return generation


def _speed(generation: Generation) -> str:
    tokens = len(generation.tokens[0])
    return (
        f"{generation.prompt_tokens[0]} tokens read at {generation.prefill_tokens_per_second:.0f} a second, "
        f"{tokens} written at {generation.tokens_per_second:.1f} a second"
    )


def main() -> None:
    """The entry point."""
    app()


if __name__ == "__main__":
    main()
