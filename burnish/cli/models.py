"""MODEL and ARTIFACT arguments as what they stand for."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.cli.app import MODEL_HELP, Accuracy, Backend, Trust
from burnish.frontend.folder_checks import check_folder
from burnish.hub import snapshot
from burnish.ir.errors import InvalidModelError, UsageError

if TYPE_CHECKING:  # importing torch takes a second or more: not for --help
    from burnish.passes.base import Pass
    from burnish.runtime.model import CompiledModel


def find_model(text: str) -> Any:
    """What `compile` takes, for what a user types: a path, or the object that `package.module:name` names.

    Raises UsageError if there is no such path or name, or an artifact there.
    """
    path = Path(text)
    if (path / "manifest.json").is_file() and not (path / "config.json").exists():
        raise UsageError(f"{text} is an artifact, which is compiled already: give the model that it was made from")
    folder = path if path.exists() else _in_cache(text)
    if folder is not None and folder.is_dir():
        check_folder(folder)
    if folder is not None:
        return path if path.exists() else text
    named = re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_][\w.]*)", text)
    if named is None:
        raise UsageError(f"there is nothing at {text!r}. MODEL is {MODEL_HELP[0].lower()}{MODEL_HELP[1:]}")
    if "" not in sys.path:
        sys.path.insert(0, "")  # as `python -m` does: modules of the folder that the user is in
    try:
        found: Any = importlib.import_module(named[1])
    except ModuleNotFoundError as error:
        if error.name is not None and not named[1].startswith(error.name):
            raise InvalidModelError(f"importing {named[1]} fails: {error}; burnish --debug shows where") from error
        raise UsageError(
            f"there is no module {named[1]!r}: is its folder the current one, or on PYTHONPATH?"
        ) from error
    except Exception as error:  # the user's own code
        raise InvalidModelError(
            f"importing {named[1]} fails: {type(error).__name__}: {error}; burnish --debug shows where"
        ) from error
    for part in named[2].split("."):
        if not hasattr(found, part):
            raise UsageError(f"{named[1]!r} has nothing named {named[2]!r}")
        found = getattr(found, part)
    from torch import nn

    model = found if isinstance(found, nn.Module) or not callable(found) else _called(found, text)
    if not isinstance(model, nn.Module):
        raise InvalidModelError(f"{text} gives {type(model).__name__}, not an nn.Module")
    return model


def _in_cache(text: str) -> Path | None:
    """The folder of a model of the Hub; UsageError, with what fetches it, for one that is not there."""
    try:
        return snapshot(text)
    except InvalidModelError as error:
        raise UsageError(str(error)) from error


def _called(make: Callable[[], Any], text: str) -> Any:
    """What a class or a function makes, which is the user's own code. UsageError where it wants arguments."""
    try:
        signature = inspect.signature(make)
        signature.bind()
    except ValueError:  # one of C: it says itself what it wants
        pass
    except TypeError as error:
        module, _, name = text.partition(":")
        raise UsageError(
            f"{text} {error}: {name}{signature} is called without any. Name a function that makes the model, "
            f"such as `make` of:\n\ndef make():\n    return {name}(...)\n\nand give {module}:make"
        ) from error
    try:
        return make()
    except Exception as error:
        raise InvalidModelError(
            f"{text}() fails: {type(error).__name__}: {error}; burnish --debug shows where"
        ) from error


def chosen_passes(
    listed: str | None, skipped: Sequence[str], until: str | None
) -> Sequence[Pass] | Callable[[list[Pass]], Sequence[Pass]] | None:
    """What `compile` takes as `passes`, as options say it; None if they say nothing."""
    if listed is None and not skipped and until is None:
        return None
    from burnish.passes.pipelines import known_passes
    from burnish.passes.spelling import read_passes, without

    if listed is not None:
        return without(read_passes(listed, known_passes()), skipped, until)
    return lambda passes: without(passes, skipped, until)


@contextmanager
def compiled_model(model: Any, graphs: bool = False, **options: Any) -> Iterator[CompiledModel]:
    """What `find_model` found, compiled, its progress shown. Options as `compile` has them, a dtype by its name.

    Raises UsageError for what is no language model, unless `graphs`, too, are taken.
    """
    import torch

    import burnish
    from burnish.cli.progress import progress

    dtype = options.pop("dtype", None)
    with progress() as begin:
        compiled = burnish.compile(
            model, dtype=None if dtype is None else getattr(torch, dtype), progress=begin, **options
        )
    with compiled:
        if not graphs:
            _ = compiled.artifact.signature
        yield compiled


@contextmanager
def loaded_model(
    model: str,
    max_length: int | None,
    backend: Backend | None,
    threads: int | None = None,
    accuracy: Accuracy | None = None,
    tokenizer: Path | None = None,
    trust_remote_code: bool = False,
    trust: Trust | None = None,
) -> Iterator[CompiledModel]:
    """The artifact or, compiled into a temporary one, the model."""
    path = Path(model)
    if not (path / "manifest.json").exists() and path.suffix != ".burnish":
        if any(each is not None for each in (threads, accuracy, trust)):
            raise UsageError(
                f"--threads, --accuracy and --trust are for artifacts: `burnish compile {model} -o NAME.burnish` first"
            )
        with compiled_model(
            find_model(model),
            max_length=max_length,
            backend=None if backend is None else backend.value,
            tokenizer=tokenizer,
            trust_remote_code=trust_remote_code,
        ) as compiled:
            yield compiled
        return
    if tokenizer is not None:
        raise UsageError("--tokenizer goes into an artifact when a model is compiled; this is an artifact")
    if max_length is not None:
        raise UsageError("--max-length is chosen when a model is compiled; this is an artifact")
    import burnish

    with burnish.load(
        path,
        backend=None if backend is None else backend.value,
        threads=threads,
        accuracy=None if accuracy is None else accuracy.value,
        trust=None if trust is None else "native",
    ) as compiled:
        _ = compiled.artifact.signature  # of a language model: all commands are for these
        yield compiled
