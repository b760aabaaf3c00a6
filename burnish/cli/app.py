"""The `burnish` command itself: what all its commands share, and how errors are told."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from burnish.cli.verbosity import set_verbosity
from burnish.ir.errors import BurnishError, UsageError
from burnish.ir.similar import did_you_mean
from burnish.runtime.native.levels import LEVELS
from burnish.version import __version__

_SHARED = "Of every command"


class _Group(TyperGroup):
    """What is an option of every command stands in front of a command's name or behind it."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        shared = [each for each in self.params if getattr(each, "rich_help_panel", None) == _SHARED]
        for command in self.commands.values():
            command.params += shared


app = typer.Typer(
    name="burnish",
    cls=_Group,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Compile a plain PyTorch language model into a fast, self-contained artifact, and run it.",
    epilog="Start with: `burnish run path/to/model 'Why is the sky blue?'`",
)
_shared = {"debug": 0, "verbose": 0, "quiet": 0}

MODEL_HELP = (
    "A folder with config.json and safetensors, org/name of one in the local Hugging Face cache, a .gguf or "
    ".onnx file, or package.module:name of an nn.Module or of a function that makes one."
)


def one_of(kind: type[StrEnum]) -> dict[str, Any]:
    """For options whose values have names: what typer takes, with what may have been meant."""

    def read(text: str) -> StrEnum:
        try:
            return kind(text)
        except ValueError:
            names = [each.value for each in kind]
            raise typer.BadParameter(f"{text!r}{did_you_mean(text, names)} is none of {', '.join(names)}") from None

    def complete(begun: str) -> list[str]:
        return [each.value for each in kind if each.value.startswith(begun)]

    return {"parser": read, "metavar": "|".join(kind), "autocompletion": complete}


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


class Trust(StrEnum):
    """What an artifact brings that runs, whoever made it."""

    NATIVE = "native"


TrustOption = Annotated[
    Trust | None,
    typer.Option(
        **one_of(Trust),
        help="Run the machine code of native kernels that an artifact brings, whoever built it.",
        show_default="what you built",
    ),
]


def complete_path(begun: str) -> list[str]:
    """The paths that begin so, for shells: what is typed as text may be no path at all."""
    folder = Path(begun) if begun.endswith("/") else Path(begun).parent
    found = (f"{path}/" if path.is_dir() else str(path) for path in folder.glob("*"))
    return sorted(path for path in found if path.startswith(begun))


ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=complete_path)]
ArtifactOrModel = Annotated[
    str,
    typer.Argument(
        metavar="ARTIFACT|MODEL", help=f"An artifact, or a model. {MODEL_HELP}", autocompletion=complete_path
    ),
]
ArtifactArgument = Annotated[Path, typer.Argument(metavar="ARTIFACT", help="A folder that `burnish compile` wrote.")]
MaxLength = Annotated[
    int | None,
    typer.Option(min=1, help="Most tokens of prompt and answer together.", show_default="what the model was made for"),
]
BackendOption = Annotated[
    Backend | None,
    typer.Option(
        **one_of(Backend),
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


class Context(StrEnum):
    """Texts for which rotary frequencies are, where these change at a length."""

    SHORT = "short"
    LONG = "long"


ContextOption = Annotated[
    Context | None,
    typer.Option(
        **one_of(Context),
        help="For models with longrope or dynamic NTK: for texts up to where their frequencies change, or for longer "
        "ones.",
        show_default="by --max-length",
    ),
]
QuantizeOption = Annotated[
    Quantization | None,
    typer.Option(
        **one_of(Quantization),
        help="Weights of products in 8 or 4 bits; fp8 with --backend native.",
        show_default="not",
    ),
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option(**one_of(Dtype), help="What GPUs compute in.", show_default="what the model's weights are in"),
]
TargetOption = Annotated[
    str | None,
    typer.Option(
        metavar="TARGET",
        help="cpu; cpu:x86-64-v4,cpu:aarch64 (any of "
        f"{', '.join(LEVELS)}), with native kernels for these, for machines without a compiler; cuda for this "
        "machine's GPU; or cuda:sm_90 (cuda:sm_80,sm_90), which needs no GPU to compile.",
        show_default="cpu",
    ),
]
TokenizerOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        exists=True,
        file_okay=False,
        help="A tokenizer for a MODEL that brings none, as transformers' save_pretrained writes one.",
        show_default="the model's own",
    ),
]

TrustRemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run the code that comes with MODEL, if it is no class of transformers."),
]


def _share(context: typer.Context, parameter: typer.CallbackParam, value: int) -> None:
    """Take an option of every command: in front of the command's name first, then behind it."""
    name = str(parameter.name)
    _shared[name] = int(value) + (_shared[name] if context.parent is not None else 0)
    with reported():
        set_verbosity(_shared["verbose"], bool(_shared["quiet"]))


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"burnish {__version__}")
        raise typer.Exit


def _shared_option(*names: str, help: str, count: bool = False) -> Any:
    return typer.Option(*names, help=help, count=count, callback=_share, expose_value=False, rich_help_panel=_SHARED)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Say which burnish this is.", callback=_show_version, is_eager=True)
    ] = False,
    verbose: Annotated[
        int,
        _shared_option("-v", "--verbose", count=True, help="Tell what is done; -vv in detail. BURNISH_LOG=info|debug."),
    ] = 0,
    quiet: Annotated[bool, _shared_option("-q", "--quiet", help="Neither progress nor tables: errors alone.")] = False,
    debug: Annotated[bool, _shared_option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # of a console or a file that lacks a character, another one stands
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def reported() -> Iterator[None]:
    """Errors as one message on stderr: exit code 2 for a mistake in the command, 1 for everything else."""
    try:
        yield
    except BurnishError as error:
        if _shared["debug"]:
            raise
        from burnish.cli.console import errors, escaped  # imports for errors alone
        from burnish.cli.flags import in_flags

        errors.print(f"[bold red]error:[/bold red] {escaped(in_flags(str(error)))}", soft_wrap=True)
        for note in getattr(error, "__notes__", ()):
            errors.print(escaped(note), soft_wrap=True)
        raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except BrokenPipeError:  # `burnish inspect ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(1) from None
    except Exception as error:
        if _shared["debug"] or isinstance(error, (typer.Exit, typer.Abort)):
            raise
        from burnish.cli.console import errors, escaped

        what = escaped(f"{type(error).__name__}: {error}")
        errors.print(f"[bold red]error:[/bold red] {what}", soft_wrap=True)
        errors.print("This was not expected. burnish --debug shows where it happened; please report it.", style="dim")
        raise typer.Exit(1) from error
