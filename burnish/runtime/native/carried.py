"""Kernels that an artifact brings, in native/: which of them run here, and what runs where none does.

Machine code of an artifact runs where this user built it, which its bytes show, or says that it is trusted.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from burnish.ir.errors import NativeBuildError
from burnish.runtime.native.build import built_folder, held, name_of
from burnish.runtime.native.library import Library, best_level, lacking, levels, opened, own_library

if TYPE_CHECKING:
    from burnish.runtime.artifact import Artifact

_LIBRARY = re.compile(r"native/([\w-]+)-[0-9a-f]{16}\.so")
_log = logging.getLogger(__name__)


def library_for(artifact: Artifact, trusted: bool) -> Library:
    """The kernels that an artifact runs by: the best that it brings for this processor, if they may, else our own.

    Raises NativeBuildError where there are neither, UsageError if this is no Linux.
    """
    brought = {match[1]: name for name in artifact.manifest.files if (match := _LIBRARY.fullmatch(name))}
    if not brought:
        return own_library()
    try:
        return _of_artifact(artifact, brought, trusted)
    except _RefusedError as error:
        refused = error
    try:
        own = own_library()
    except NativeBuildError as error:
        raise NativeBuildError(_no_kernels(artifact, refused, error)) from error
    told = "this installation's native kernels for %s run %s, and not what it brings: %s"
    _log.warning(told, own.level, artifact.path, refused)
    return own


class _RefusedError(Exception):
    """Why what an artifact brings does not run."""

    def __init__(self, why: str, foreign: bool = False) -> None:
        super().__init__(why)
        self.foreign = foreign  # it would, if it were trusted


def _of_artifact(artifact: Artifact, brought: Mapping[str, str], trusted: bool) -> Library:
    """The best of the libraries, by level."""
    level = next((each for each in levels() if each in brought), None)
    if level is None:
        raise _RefusedError("; ".join(f"{each}, and {lacking(each)}" for each in brought))
    file = artifact.file(brought[level])
    if file.name != name_of(level):
        raise _RefusedError(f"{level}, of other sources (burnish {artifact.manifest.burnish})")
    ours = next((each for each in held(level) if _same(each, file)), None)
    if ours is None and not trusted:
        raise _RefusedError(f'{level}, built by somebody else (trust="native" runs it)', foreign=True)
    try:
        found = opened(level, ours or file)
    except OSError as error:  # it wants a newer system, say, or nothing may be run from its disk
        raise _RefusedError(f"{level}, which cannot be loaded ({error})") from error
    _log.info("native kernels for %s are those that %s brings", level, artifact.path)
    return found


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()


def _no_kernels(artifact: Artifact, refused: _RefusedError, error: NativeBuildError) -> str:
    ways = [
        "a C++ compiler here (on Debian: apt install g++)",
        f"a library that `python -m burnish.runtime.native --level {best_level()} --output DIR` builds elsewhere, put "
        f"into {built_folder()}, or a wheel with it (make wheel)",
        *(['trust="native", where you trust who made the artifact'] if refused.foreign else []),
    ]
    return (
        f"there are no kernels to run {artifact.path} by. It brings {refused}; this installation has none. What works: "
        f"{'; '.join(ways)}. {error}"
    )
