"""Building the library of kernels for an instruction set, with the C++ compiler of this machine.

What is built lies in a folder of the user's (BURNISH_CACHE, or ~/.cache/burnish), named by a hash of its sources, the
flags and the compiler: a change of any builds another.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from burnish.ir.errors import NativeBuildError

SOURCES = Path(__file__).parent / "cpp"

LEVELS: dict[str, tuple[str, ...]] = {
    "x86-64-v4-amx": ("-march=x86-64-v4", "-mavx512vnni", "-mamx-tile", "-mamx-int8"),
    "x86-64-v4": ("-march=x86-64-v4", "-mavx512vnni"),
    "x86-64-v3": ("-march=x86-64-v3",),
    "portable": (),
}
"""Instruction sets, the best first, and what asks a compiler for them."""

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


def compiler() -> str | None:
    """The C++ compiler: what CXX names, g++ or clang++; None if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((found for name in names if (found := shutil.which(name))), None)


@cache
def _hash(compiler: str, flags: tuple[str, ...]) -> str:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    digest = hashlib.sha256(repr((version.split("\\n")[0], flags)).encode())
    for file in sorted(SOURCES.iterdir()):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Where libraries are built."""
    base = os.environ.get("BURNISH_CACHE")
    return Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "burnish"


def build(level: str) -> Path:
    """The library for an instruction set, built now unless it was before.

    Raises NativeBuildError where there is no compiler, or it fails.
    """
    found = compiler()
    if found is None:
        named = os.environ.get("CXX")
        missing = f"CXX names {named!r}, which is no program" if named else "this machine has neither g++ nor clang++"
        raise NativeBuildError(
            f"native kernels are built by a C++ compiler, and {missing}: "
            'install one (on Debian: apt install g++), or use backend="onnxruntime"'
        )
    flags = (*_FLAGS, *LEVELS[level])
    try:
        target = cache_folder() / "native" / f"{level}-{_hash(found, flags)}.so"
    except OSError as error:
        raise NativeBuildError(f"the C++ compiler {found} cannot be started: {error.strerror or error}") from error
    if target.exists():
        return target
    _log.info("building native kernels for %s with %s", level, found)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside it, and moved when it is whole: others may build it at the same time.
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            command = [found, *flags, str(SOURCES / "library.cpp"), "-o", str(made)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise NativeBuildError(_failed(command, done.stderr))
            os.replace(made, target)
    except OSError as error:
        raise NativeBuildError(
            f"native kernels could not be built in {target.parent} ({error.strerror or error}): name another folder in "
            "BURNISH_CACHE"
        ) from error
    return target


def _failed(command: list[str], message: str) -> str:
    lines = message.strip().split("\n")
    return (
        f"the C++ compiler failed: {' '.join(command)}\n"
        + "\n".join(lines[:20])
        + '\nCXX=... names another compiler; backend="onnxruntime" needs none'
    )
