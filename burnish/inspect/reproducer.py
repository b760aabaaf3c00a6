"""A failed check as a folder: all that is needed to see it again, without the model.

NAME/
  before.txt             the program that the pass was given, unfolded (burnish.ir.parse reads it)
  weights.safetensors    its weights
  reproducer.json        the passes from there on with their options, the seed and shapes of the check, versions
  README.txt             what failed, and the command that shows it again
"""

from __future__ import annotations

import logging
import platform
import shutil
from pathlib import Path
from typing import Any

import msgspec
import torch

from burnish.inspect.dump import load_dump, save_dump
from burnish.ir.errors import BurnishError, UsageError
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.base import Pass
from burnish.passes.pipeline import Failure, run_passes
from burnish.passes.pipelines import known_passes
from burnish.passes.spelling import read_pass, spelled
from burnish.passes.verify import SHAPES, Verifier
from burnish.version import __version__

_log = logging.getLogger(__name__)

DUMP_FILE = "before.txt"
FILE = "reproducer.json"
_LARGE = 10**9  # bytes of a folder that nobody expects


class _Reproducer(msgspec.Struct):
    error: str
    passes: list[str]  # as they are spelled
    seed: int
    shapes: list[tuple[int, int]]  # rows and tokens of the numeric check
    versions: dict[str, str]


def leave_reproducer(failure: Failure) -> None:
    """Write a reproducer to the current folder, under a name that is free, and say so in the error's notes."""
    name = f"burnish-failure-{failure.passes[0].name}"
    folder = next(path for path in _numbered(Path(name)) if not path.exists())
    try:
        write_reproducer(failure, folder)
    except (OSError, BurnishError) as error:  # told beside the failure, not in place of it
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        shutil.rmtree(folder, ignore_errors=True)
        _log.warning("the failure could not be written to %s: %s", folder, reason)
        failure.error.add_note(f"What shows it again could not be written to {folder} ({reason}).")
        return
    size = sum(file.stat().st_size for file in folder.iterdir())
    failure.error.add_note(
        f"All that is needed to see it again is in {folder}: `burnish reproduce {folder}` runs it, and `burnish bisect "
        f"{folder}` names the rewrite."
    )
    if size >= _LARGE:
        failure.error.add_note(f"It has the model's weights and takes {size / 1e9:.1f} GB.")


def _numbered(path: Path) -> Any:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}")
        number += 1


def write_reproducer(failure: Failure, folder: Path) -> None:
    """Write the folder; OSError where that is not possible."""
    folder.mkdir(parents=True)
    save_dump(failure.before, folder / DUMP_FILE, with_weights=True)
    data = _Reproducer(
        error=str(failure.error),
        passes=[spelled(each) for each in failure.passes],
        seed=0,
        shapes=list(SHAPES),
        versions={"burnish": __version__, "torch": str(torch.__version__), "python": platform.python_version()},
    )
    (folder / FILE).write_bytes(msgspec.json.format(msgspec.json.encode(data), indent=1))
    (folder / "README.txt").write_text(
        f"{failure.error}\n\nburnish reproduce {folder.name}   shows it again\n"
        f"burnish bisect {folder.name}      names the first bad rewrite\n",
        encoding="utf-8",
    )


def read_reproducer(folder: Path) -> tuple[Program, list[Pass]]:
    """The program that the failing pass was given, and the passes from there on.

    Raises UsageError where the folder is no reproducer or names a pass that this burnish does not have.
    """
    try:
        data = msgspec.json.decode((folder / FILE).read_bytes(), type=_Reproducer)
    except OSError as error:
        raise UsageError(f"{folder} is no reproducer: it has no {FILE}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{folder / FILE} is malformed: {error}") from error
    passes = [read_pass(each, known_passes()) for each in data.passes]
    return load_dump(folder / DUMP_FILE), passes


def reproduce(folder: Path) -> Trace:
    """Run the passes of a reproducer with every check; raises what the compilation raised, if it still does."""
    program, passes = read_reproducer(folder)
    trace = Trace()
    run_passes(program, passes, trace, verifier=Verifier(program))
    return trace
