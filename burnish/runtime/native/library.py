"""The native library in this process: its kernels and what they take, and teams of threads that run them."""

from __future__ import annotations

import ctypes
import logging
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from burnish.ir.errors import NativeBuildError, UsageError
from burnish.runtime.native.build import build, found
from burnish.runtime.native.levels import BY_TILES, level_of, levels_here

_ASK_FOR_TILES = (158, 0x1023, 18)
"""arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), of x86-64."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """An argument of a kernel: "p" memory that it reads, "w" that it writes, "i" and "f" numbers, or one of words."""

    name: str
    kind: str
    words: tuple[str, ...] = ()


@dataclass(frozen=True)
class LibraryKernel:
    """A kernel of the library: its number, and its slots in order."""

    number: int
    slots: tuple[Slot, ...]


class Operation(ctypes.Structure):
    """`Op` of library.cpp."""

    _fields_ = (("kernel", ctypes.c_int64), ("arguments", ctypes.c_void_p), ("barrier", ctypes.c_int64))


@dataclass(frozen=True)
class Library:
    """The library for one instruction set."""

    level: str
    functions: Any
    kernels: dict[str, LibraryKernel]


def levels() -> list[str]:
    """The instruction sets of this machine that there are kernels for, the best first. UsageError if it is no Linux."""
    if platform.system() != "Linux":
        raise UsageError(f'native kernels run on Linux, and this is {platform.system()}: use backend="onnxruntime"')
    return [level for level in levels_here() if not lacking(level)]


def best_level() -> str:
    """The best of `levels`."""
    return levels()[0]


def lacking(level: str) -> str:
    """What this machine lacks of an instruction set, in words; empty if it has all of it."""
    wanted = level_of(level)
    if wanted.architecture != platform.machine():
        return f"this machine is {platform.machine()}"
    missing = wanted.needs - features()
    if missing:
        return f"this processor lacks {', '.join(sorted(missing))}"
    refused = level == BY_TILES and not _may_use_tiles()
    return "the system refuses this process the registers of AMX" if refused else ""


@cache
def _may_use_tiles() -> bool:
    """Asks the system for AMX's registers, for this process: who uses them unasked is ended."""
    return int(ctypes.CDLL(None).syscall(*_ASK_FOR_TILES)) == 0


@cache
def features() -> frozenset[str]:
    """What /proc/cpuinfo names of this processor's instructions."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, found = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(found.split())
    return frozenset()


def own_library() -> Library:
    """The kernels of this installation for the best instruction set of this machine.

    Where there are none, and none can be built, those for the next one that there are some for, which is told. Raises
    NativeBuildError where there are none at all, UsageError if it is no Linux.
    """
    best, *others = levels()
    try:
        return library(best)
    except NativeBuildError as error:
        for level in others:
            if found(level) is not None:
                _log.warning("native kernels for %s run, and not for %s: %s", level, best, error)
                return library(level)
        raise


@cache
def library(level: str) -> Library:
    """The library for an instruction set, built if need be. Raises NativeBuildError, UsageError."""
    if lacks := lacking(level):
        raise UsageError(f"there is no {level} here, {lacks}: native kernels can be for {', '.join(levels())}")
    try:
        return opened(level, build(level))
    except OSError as error:  # it was cut short, say, or its folder is on a disk that nothing may be run from
        raise NativeBuildError(
            f"native kernels cannot be loaded ({error}): delete that file, or name another folder in BURNISH_CACHE"
        ) from error


def opened(level: str, path: Path) -> Library:
    """The library in a file. Raises OSError where it cannot be loaded."""
    functions = ctypes.CDLL(str(path))
    functions.burnish_kernel_name.restype = functions.burnish_kernel_slots.restype = ctypes.c_char_p
    functions.burnish_open.restype = ctypes.c_void_p
    functions.burnish_close.argtypes = [ctypes.c_void_p]
    functions.burnish_reach.restype = ctypes.c_char_p
    functions.burnish_reach.argtypes = [ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    functions.burnish_scratch.restype = ctypes.c_int64
    functions.burnish_scratch.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    functions.burnish_run.argtypes = [
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int,
        ctypes.c_void_p,
    ]
    functions.burnish_peak.restype = functions.burnish_reading.restype = ctypes.c_int64
    functions.burnish_peak.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    functions.burnish_reading.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    kernels = {
        functions.burnish_kernel_name(number).decode(): LibraryKernel(
            number, tuple(map(_slot, functions.burnish_kernel_slots(number).decode().split()))
        )
        for number in range(functions.burnish_kernels())
    }
    return Library(level, functions, kernels)


def _slot(text: str) -> Slot:
    name, _, kind = text.partition(":")
    return Slot(name, "word", tuple(kind.split("|"))) if "|" in kind else Slot(name, kind)
