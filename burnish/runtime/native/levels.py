"""The instruction sets that kernels are built for. Imports nothing: the names are told before anything is loaded."""

from __future__ import annotations

import platform
from dataclasses import dataclass

_AVX2 = frozenset({"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"})
_AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd", "avx512_vnni"})
_SDOT = frozenset({"asimd", "asimddp", "asimdrdm", "atomics", "crc32"})


@dataclass(frozen=True)
class Level:
    """An instruction set."""

    architecture: str  # as the system calls it
    flags: tuple[str, ...] = ()  # what asks a compiler for it
    needs: frozenset[str] = frozenset()  # what /proc/cpuinfo has to name


BY_TILES = "x86-64-v4-amx"
LEVELS: dict[str, Level] = {
    BY_TILES: Level(
        "x86_64", ("-march=x86-64-v4", "-mavx512vnni", "-mamx-tile", "-mamx-int8"), _AVX512 | {"amx_tile", "amx_int8"}
    ),
    "x86-64-v4": Level("x86_64", ("-march=x86-64-v4", "-mavx512vnni"), _AVX512),
    "x86-64-v3": Level("x86_64", ("-march=x86-64-v3",), _AVX2),
    "x86-64": Level("x86_64"),
    "aarch64-dotprod": Level("aarch64", ("-march=armv8.2-a+dotprod",), _SDOT),
    "aarch64": Level("aarch64"),
}
"""By name, those of an architecture the best first."""

PORTABLE = "portable"
"""Plain C++, for machines of other architectures."""


def level_of(name: str) -> Level:
    """An instruction set by name; of "portable" the architecture is this machine's."""
    return Level(platform.machine()) if name == PORTABLE else LEVELS[name]


def levels_here() -> list[str]:
    """Those of this machine's architecture, the best first, whatever its processor has."""
    return [name for name, each in LEVELS.items() if each.architecture == platform.machine()] or [PORTABLE]
