"""The native library in this process: its kernels and what they take, and teams of threads that run them."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from burnish.ir.errors import NativeBuildError, UsageError
from burnish.runtime.native.build import LEVELS, architecture_of, build

_AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni"}
_BY_TILES = "x86-64-v4-amx"
_NEEDED = {
    _BY_TILES: {*_AVX512, "amx_tile", "amx_int8"},
    "x86-64-v4": _AVX512,
    "x86-64-v3": {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"},
    "aarch64-dotprod": {"asimd", "asimddp", "asimdrdm", "atomics", "crc32"},
}
"""What /proc/cpuinfo has to name for an instruction set."""

_ASK_FOR_TILES = (158, 0x1023, 18)
"""arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA), of x86-64."""


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
    here = features()
    ours = [level for level in LEVELS if architecture_of(level) == platform.machine()]
    found = [level for level in ours if _NEEDED.get(level, set()) <= here]
    return found if "amx_tile" not in here or _may_use_tiles() else [each for each in found if each != _BY_TILES]


def best_level() -> str:
    """The best of `levels`."""
    return levels()[0]


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


@cache
def library(level: str) -> Library:
    """The library for an instruction set, built if need be. Raises NativeBuildError, UsageError."""
    if level not in levels():
        raise UsageError(f"there is no {level} here: native kernels can be for {', '.join(levels())}")
    functions = _loaded(build(level))
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


def _loaded(path: Path) -> Any:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:  # it was cut short, say, or its folder is on a disk that nothing may be run from
        raise NativeBuildError(
            f"native kernels cannot be loaded ({error}): delete that file, or name another folder in BURNISH_CACHE"
        ) from error


def _slot(text: str) -> Slot:
    name, _, kind = text.partition(":")
    return Slot(name, "word", tuple(kind.split("|"))) if "|" in kind else Slot(name, kind)
