"""The `burnish` command itself: what all its commands share, and how errors are told."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from burnish.ir.errors import BurnishError, UsageError

app = typer.Typer(
    name="burnish",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Compile a plain PyTorch language model into a fast, self-contained artifact, and run it.",
    epilog="Start with: `burnish run path/to/model 'Why is the sky blue?'`",
)
_debug = False

MODEL_HELP = (
    "A folder with config.json and safetensors, a .gguf file, or package.module:name of an nn.Module or of a function "
    "that makes one."
)


class Backend(StrEnum):
    """Who executes the step graph."""

    ONNXRUNTIME = "onnxruntime"
    NATIVE = "native"
    REFERENCE = "reference"
    CUDA = "cuda"
    TRITON_INTERPRET = "triton-interpret"


class Accuracy(StrEnum):
    """In what native kernels multiply with weights of integers."""

    EXACT = "exact"
    FAST = "fast"


ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
ArtifactArgument = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A folder that `burnish compile` wrote.")]
MaxLength = Annotated[
    int | None,
    typer.Option(min=1, help="Most tokens of prompt and answer together.", show_default="what the model was made for"),
]
BackendOption = Annotated[
    Backend | None,
    typer.Option(
        help="native, burnish's own kernels, or onnxruntime for CPUs; cuda for NVIDIA GPUs; reference runs the "
        "graph node by node in PyTorch, to compare with; triton-interpret the GPU's kernels on any machine, slowly.",
        show_default="what the target asks for",
    ),
]


class Dtype(StrEnum):
    """What GPUs compute in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"


class Quantization(StrEnum):
    """Weights of products."""

    INT8 = "int8"
    INT4 = "int4"
    FP8 = "fp8"


QuantizeOption = Annotated[
    Quantization | None,
    typer.Option(help="Weights of products in 8 or 4 bits; fp8 with --backend native.", show_default="not"),
]
DtypeOption = Annotated[
    Dtype | None, typer.Option(help="What GPUs compute in.", show_default="what the model's weights are in")
]
TargetOption = Annotated[
    str,
    typer.Option(
        metavar="TARGET",
        help="cpu; cuda for this machine's GPU; or cuda:sm_90 (cuda:sm_80,sm_90), which needs no GPU to compile.",
    ),
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    global _debug
    _debug = debug
    if isinstance(sys.stdout, io.TextIOWrapper):  # of a console or a file that lacks a character, another one stands
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def reported() -> Iterator[None]:
    """Errors as one message on stderr: exit code 2 for a mistake in the command, 1 for everything else."""
    try:
        yield
    except BurnishError as error:
        if _debug:
            raise
        from burnish.cli.console import err, escaped  # an import for errors alone

        err.print(f"[bold red]error:[/bold red] {escaped(str(error))}", soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            err.print(escaped(note), soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # `burnish inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        if _debug or isinstance(error, (typer.Exit, typer.Abort)):
            raise
        from burnish.cli.console import err, escaped

        what = escaped(f"{type(error).__name__}: {error}")
        err.print(f"[bold red]error:[/bold red] {what}", soft_wrap=True)
        err.print("This was not expected. burnish --debug shows where it happened; please report it.", style="dim")
        raise typer.Exit(1) from error
