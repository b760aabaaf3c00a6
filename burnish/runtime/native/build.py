"""Building the library of kernels for an instruction set, with a C++ compiler, where there is none yet.

Libraries lie beside this package, where a wheel may bring them, or in a folder of the user's (BURNISH_CACHE, or
~/.cache/burnish). A hash of sources, flags and architecture is in their names: those of another version are not found.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from burnish.ir.errors import NativeBuildError
from burnish.runtime.native.levels import level_of, levels_here

SOURCES = Path(__file__).parent / "cpp"
BROUGHT = Path(__file__).parent / "lib"
"""Libraries that came with the package."""

_FLAGS = (
    "-std=c++17",
    "-O2",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-fPIC",
    "-shared",
    "-pthread",
    "-Wl,-Bsymbolic",
    "-Wno-psabi",
)

_log = logging.getLogger(__name__)


def _compilers(level: str) -> list[str]:
    """The names of C++ compilers for an instruction set: CXX has the only one, if it is for that architecture."""
    architecture = level_of(level).architecture
    named = os.environ.get("CXX")
    if named and (shutil.which(named) is None or _machine_of(named) in ("", architecture)):
        return [named]
    return ["g++", "clang++", "c++"] if _is_here(architecture) else [f"{architecture}-linux-gnu-g++"]


def _is_here(architecture: str) -> bool:
    """Whether compilers are for it as they come: libraries are for Linux."""
    return (platform.system(), platform.machine()) == ("Linux", architecture)


def compiler(level: str | None = None) -> str | None:
    """The C++ compiler for an instruction set, None if there is none. Without `level` for this machine."""
    names = _compilers(level or levels_here()[-1])
    return next((found for name in names if (found := shutil.which(name))), None)


def _said(compiler: str, option: str) -> str:
    """The first line of what a compiler says of itself. Raises NativeBuildError where it is no program."""
    try:
        said = subprocess.run([compiler, option], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise NativeBuildError(f"the C++ compiler {compiler} cannot be started: {error.strerror or error}") from error
    return said.split("\n")[0]


def _machine_of(compiler: str) -> str:
    """The architecture that a compiler compiles for, on Linux; empty if it does not say."""
    said = _said(compiler, "-dumpmachine")
    return said.split("-")[0] if "linux" in said else said


@cache
def _hash(*facts: object) -> str:
    digest = hashlib.sha256(repr(facts).encode())
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def flags(level: str) -> tuple[str, ...]:
    """What asks a compiler for a library of an instruction set."""
    return (*_FLAGS, *level_of(level).flags)


def cache_folder() -> Path:
    """Where libraries are built."""
    base = os.environ.get("BURNISH_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burnish"


def name_of(level: str) -> str:
    """The file name of the library for an instruction set: with a hash of what it is made of."""
    return f"{level}-{_hash(level_of(level).architecture, flags(level))}.so"


def _cached_name(level: str) -> str:
    """`name_of`, but who names a compiler in CXX gets one by that compiler, of that version."""
    if os.environ.get("CXX") not in _compilers(level):
        return name_of(level)
    version = _said(_compiler_for(level), "--version")
    return f"{level}-{_hash(level_of(level).architecture, flags(level), version)}.so"


def found(level: str) -> Path | None:
    """The library for an instruction set, if there is one: beside this package, or built by this user."""
    name = _cached_name(level)
    return next((folder / name for folder in (BROUGHT, built_folder()) if (folder / name).exists()), None)


def held(level: str) -> list[Path]:
    """All libraries for an instruction set that are here, whatever built them, of whatever version."""
    return [file for folder in (BROUGHT, built_folder()) for file in folder.glob(f"{level}-{'?' * 16}.so")]


def build(level: str) -> Path:
    """The library for an instruction set, of this machine or another: one that is there already, or is built now.

    Raises NativeBuildError where there is no compiler for it, or it fails.
    """
    return found(level) or _compiled(level, _compiler_for(level), built_folder() / _cached_name(level))


def build_ahead(level: str, output: Path) -> Path:
    """A new library, in the folder `output`, under the name by which it is found beside this package or in the cache.

    Raises NativeBuildError where there is no compiler for it, or it fails.
    """
    return _compiled(level, _compiler_for(level), output / name_of(level))


def check_buildable(levels: Iterable[str]) -> None:
    """Raise NativeBuildError unless there is a library, or a compiler, for each of the instruction sets."""
    for level in levels:
        if found(level) is None:
            _compiler_for(level)


def built_folder() -> Path:
    """Where libraries are that this user built, or put there."""
    return cache_folder() / "native"


def _compiler_for(level: str) -> str:
    there = compiler(level)
    if there is not None:
        return there
    names, architecture = _compilers(level), level_of(level).architecture
    missing = f"this machine has none that is called {' or '.join(names)}"
    if names == [os.environ.get("CXX")]:
        missing = f"CXX names {names[0]!r}, which is no program"
    what, package, otherwise = "", "g++", 'compile with backend="onnxruntime"'
    if not _is_here(architecture):
        what, otherwise = f" for {level}", f"leave {level} out"
        package = f"g++-{architecture.replace('_', '-')}-linux-gnu"
    raise NativeBuildError(
        f"native kernels{what} are built by a C++ compiler, and {missing}: install one (on Debian: apt install "
        f"{package}), or {otherwise}"
    )


def _compiled(level: str, compiler: str, target: Path) -> Path:
    _log.info("building native kernels for %s with %s", level, compiler)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside it, and moved when it is whole: others may build it at the same time.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            command = [compiler, *flags(level), str(SOURCES / "library.cpp"), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NativeBuildError(_failed(command, done.stderr))
            os.replace(made, target)
    except OSError as error:
        raise NativeBuildError(
            f"native kernels could not be built in {target.parent} ({error.strerror or error}): name another folder, "
            "of the cache in BURNISH_CACHE"
        ) from error
    return target


def _failed(command: list[str], message: str) -> str:
    lines = message.strip().split("\n")
    return (
        f"the C++ compiler failed: {' '.join(command)}\n"
        + "\n".join(lines[:20])
        + '\nCXX=... names another compiler; backend="onnxruntime" needs none'
    )
