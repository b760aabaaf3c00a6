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
from functools import cache
from pathlib import Path

from burnish.ir.errors import NativeBuildError

SOURCES = Path(__file__).parent / "cpp"
BROUGHT = Path(__file__).parent / "lib"
"""Libraries that came with the package."""

LEVELS: dict[str, tuple[str, ...]] = {
    "x86-64-v4-amx": ("-march=x86-64-v4", "-mavx512vnni", "-mamx-tile", "-mamx-int8"),
    "x86-64-v4": ("-march=x86-64-v4", "-mavx512vnni"),
    "x86-64-v3": ("-march=x86-64-v3",),
    "aarch64-dotprod": ("-march=armv8.2-a+dotprod",),
    "portable": (),
}
"""Instruction sets, those of an architecture the best first, and what asks a compiler for them."""

_ARCHITECTURES = {"x86-64": "x86_64", "aarch64": "aarch64"}
"""What the system calls an architecture, by what the names of its instruction sets begin with."""

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


def architecture_of(level: str) -> str:
    """The architecture of an instruction set, as the system calls it: of "portable" the one that this machine has."""
    return next((name for prefix, name in _ARCHITECTURES.items() if level.startswith(prefix)), platform.machine())


def _compilers(level: str) -> list[str]:
    """The names of C++ compilers for an instruction set: CXX has the only one, if it is there."""
    if named := os.environ.get("CXX"):
        return [named]
    architecture = architecture_of(level)
    return ["g++", "clang++", "c++"] if architecture == platform.machine() else [f"{architecture}-linux-gnu-g++"]


def compiler(level: str = "portable") -> str | None:
    """The C++ compiler for an instruction set, None if there is none."""
    return next((found for name in _compilers(level) if (found := shutil.which(name))), None)


def _said(compiler: str, option: str) -> str:
    """The first line of what a compiler says of itself. Raises NativeBuildError where it is no program."""
    try:
        said = subprocess.run([compiler, option], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise NativeBuildError(f"the C++ compiler {compiler} cannot be started: {error.strerror or error}") from error
    return said.split("\n")[0]


@cache
def _hash(*facts: object) -> str:
    digest = hashlib.sha256(repr(facts).encode())
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def flags(level: str) -> tuple[str, ...]:
    """What asks a compiler for a library of an instruction set."""
    return (*_FLAGS, *LEVELS[level])


def cache_folder() -> Path:
    """Where libraries are built."""
    base = os.environ.get("BURNISH_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burnish"


def build(level: str) -> Path:
    """The library for an instruction set of this machine: one that is there already, or is built now.

    Who names a compiler in CXX gets one by that compiler. Raises NativeBuildError where there is none, or it fails.
    """
    facts: tuple[object, ...] = (platform.machine(), flags(level))
    if os.environ.get("CXX"):
        facts = (*facts, _said(_compiler_for(level), "--version"))
    name, built = f"{level}-{_hash(*facts)}.so", cache_folder() / "native"
    for folder in (BROUGHT, built):
        if (folder / name).exists():
            return folder / name
    return _compiled(level, _compiler_for(level), built / name)


def build_ahead(level: str, output: Path) -> Path:
    """The library for an instruction set of this machine or another, under the name by which `build` finds it there.

    Raises NativeBuildError where there is no compiler for it, or it fails.
    """
    found = _compiler_for(level)
    architecture = _said(found, "-dumpmachine").split("-")[0]
    return _compiled(level, found, output / f"{level}-{_hash(architecture, flags(level))}.so")


def _compiler_for(level: str) -> str:
    found = compiler(level)
    if found is None:
        named = os.environ.get("CXX")
        missing = f"this machine has none that is called {' or '.join(_compilers(level))}"
        if named:
            missing = f"CXX names {named!r}, which is no program"
        architecture = architecture_of(level)
        package = "g++" if architecture == platform.machine() else f"g++-{architecture.replace('_', '-')}-linux-gnu"
        raise NativeBuildError(
            f"native kernels are built by a C++ compiler, and {missing}: install one (on Debian: apt "
            f'install {package}), or use backend="onnxruntime"'
        )
    return found


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
