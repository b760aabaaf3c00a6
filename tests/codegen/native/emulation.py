"""Kernels for aarch64 on this machine: built by a cross compiler, and run by qemu, launch by launch."""

from __future__ import annotations

import ctypes
import re
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from burnish.codegen.native import spec
from burnish.runtime.memory import View
from burnish.runtime.native.build import SOURCES, build_ahead
from burnish.runtime.native.launcher import _packed
from burnish.runtime.native.library import Library
from burnish.runtime.plan import Kernel
from burnish.runtime.plan_runner import BoundLaunch

CROSS, EMULATOR, OBJDUMP = "aarch64-linux-gnu-g++", "qemu-aarch64", "aarch64-linux-gnu-objdump"
MISSING = [name for name in (CROSS, EMULATOR, OBJDUMP) if shutil.which(name) is None]

_DRIVER = Path(__file__).parent / "emulated.cpp"
_ROOT = "/usr/aarch64-linux-gnu"  # where cross compilers have that system's libraries


@dataclass(frozen=True)
class Machine:
    """A processor, as qemu names it, and a library that was built for it."""

    processor: str
    library: Path
    driver: Path

    @contextmanager
    def runs(self) -> Iterator[None]:
        """Kernels run there within it."""

        def launcher(kernels: Mapping[str, Kernel], library: Library, threads: int) -> _Launcher:
            return _Launcher(self, kernels, library, threads)

        with mock.patch.object(spec, "NativeLauncher", launcher):
            yield

    def run(self, given: bytes) -> bytes:
        """What the driver gives back for what it is given."""
        case, found = self.driver.parent / "case", self.driver.parent / "found"
        case.write_bytes(given)
        command = [EMULATOR, "-L", _ROOT, "-cpu", self.processor, str(self.driver), str(case), str(found)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.returncode}: {done.stderr[:4000]}"
        return found.read_bytes()


def machine(level: str, processor: str, folder: Path) -> Machine:
    """One with the library for an instruction set, which is built now, into that empty folder."""
    return machine_with(build_ahead(level, folder), processor, folder)


def machine_with(library: Path, processor: str, folder: Path) -> Machine:
    """One with that library, and in the folder what else it takes."""
    driver = folder / "driver"
    options = ["-std=c++17", "-O1", "-I", str(SOURCES), f"-Wl,-rpath,{library.parent}"]
    subprocess.run([CROSS, *options, str(_DRIVER), str(library), "-o", str(driver)], check=True)
    return Machine(processor, library, driver)


def instructions(library: Path) -> dict[str, set[str]]:
    """Those of each function."""
    command = [OBJDUMP, "-d", "-C", "--no-show-raw-insn", str(library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found: dict[str, set[str]] = {}
    for part in re.split(r"\n(?=[0-9a-f]{16} <)", listing)[1:]:
        name = part[part.index("<") + 1 : part.index(">:\n")]
        found[name] = set(re.findall(r"^ *[0-9a-f]+:\t(\S+)", part, re.MULTILINE))
    return found


class _Launcher:
    """As `NativeLauncher`, for a single launch."""

    def __init__(self, machine: Machine, kernels: Mapping[str, Kernel], library: Library, threads: int) -> None:
        self.machine, self.kernels, self.library, self.threads = machine, kernels, library, threads
        self.rounded = True

    def prepare(self, launches: Sequence[BoundLaunch]) -> Callable[[], None]:
        (each,) = launches
        kernel = self.kernels[each.kernel]
        known = self.library.kernels[kernel.function]  # the same number in both: they have one table
        values = {**kernel.constants, **dict(zip(kernel.arguments, each.arguments, strict=True))}
        views: list[View] = []
        given = struct.pack("4q", known.number, self.rounded, self.threads, len(known.slots))
        for slot in known.slots:
            value = values[slot.name]
            if not isinstance(value, View):
                given += struct.pack("q", -1) + _packed("a test", slot, value)
                continue
            start, end = value.extent
            given += struct.pack("q", end - start) + ctypes.string_at(start, end - start)
            views.append(value)

        def run() -> None:
            found, at = self.machine.run(given), 0
            for view in views:
                start, end = view.extent
                ctypes.memmove(start, found[at : at + end - start], end - start)
                at += end - start
            assert at == len(found)

        return run

    def close(self) -> None:
        """Nothing is open."""
