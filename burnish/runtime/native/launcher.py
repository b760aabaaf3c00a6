"""Launches of native kernels as programs: arguments in memory as C++ reads them, and barriers where they are needed."""

from __future__ import annotations

import ctypes
import struct
import weakref
from collections.abc import Callable, Mapping, Sequence

from burnish.ir.errors import ArtifactError, InvalidInputError, UsageError
from burnish.runtime.memory import View
from burnish.runtime.native.library import Library, LibraryKernel, Operation, Slot
from burnish.runtime.native.operands import Hazards, check, operands_of
from burnish.runtime.plan import Kernel
from burnish.runtime.plan_runner import BoundLaunch

MODULE = "burnish.runtime.native"

_NO_MEMORY, _RUNNING = 1, 2  # `Outcome` of library.cpp; 0 is done
_NOT_FINITE = ("inf", "-inf", "nan")  # as plans say them


class NativeLauncher:
    """Runs kernels of a library on a team of threads. `rounded`: activations become int8 or bfloat16, as weights do."""

    def __init__(self, kernels: Mapping[str, Kernel], library: Library, threads: int) -> None:
        """Raises ArtifactError for kernels that the library does not have, or that take something else there."""
        self._library = library
        self._kernels = {key: (kernel, _known(key, kernel, library)) for key, kernel in kernels.items()}
        self._pool = library.functions.burnish_open(threads)
        self.rounded = False
        self.barriers = 0  # of the program that was prepared last
        self.times: dict[str, list[float]] | None = None  # if a dict: seconds that each kernel waited and worked
        self.close = weakref.finalize(self, library.functions.burnish_close, self._pool)

    def prepare(self, launches: Sequence[BoundLaunch]) -> Callable[[], None]:
        """See `Launcher.prepare`."""
        functions, pool = self._library.functions, self._pool
        operations = (Operation * len(launches))()
        kept: list[object] = []
        hazards = Hazards()
        self.barriers = 0
        for operation, each in zip(operations, launches, strict=True):
            kernel, known = self._kernels[each.kernel]
            values = {**kernel.constants, **dict(zip(kernel.arguments, each.arguments, strict=True))}
            what = f"the launch plan's kernel {each.kernel}"
            packed = b"".join(_packed(what, slot, values[slot.name]) for slot in known.slots)
            arguments = ctypes.create_string_buffer(packed, len(packed))
            kept += [arguments, list(each.arguments)]
            operation.kernel = known.number
            operation.arguments = ctypes.addressof(arguments)
            operands = operands_of(known, values)
            check(what, self._library, known, operands, arguments)
            operation.barrier = hazards.need_barrier(operands)
            self.barriers += operation.barrier
        scratch = functions.burnish_scratch(operations, len(launches))
        count = len(launches)

        def run() -> None:
            times = None if self.times is None else (ctypes.c_int64 * (2 * count))()
            outcome = functions.burnish_run(pool, operations, count, scratch, self.rounded, times)
            if outcome == _RUNNING:
                raise UsageError("another thread runs this model at this moment: load it once for each thread")
            if outcome == _NO_MEMORY:
                raise InvalidInputError(
                    f"there is no memory for {scratch:,} bytes a thread: feed fewer tokens at a time"
                )
            if self.times is not None and times is not None:
                for number, each in enumerate(launches):
                    known = self.times.setdefault(self._kernels[each.kernel][0].function, [0.0, 0.0])
                    known[0] += times[2 * number] * 1e-9
                    known[1] += times[2 * number + 1] * 1e-9

        run.kept = kept  # type: ignore[attr-defined]  # whose addresses are passed: they must not go
        return run


def _packed(what: str, slot: Slot, value: object) -> bytes:
    """8 bytes, as the kernel reads them."""
    if isinstance(value, View):
        return struct.pack("q", value.address)
    if slot.words:
        return struct.pack("q", slot.words.index(str(value)))
    if slot.kind == "f":
        return struct.pack("d", float(value))  # type: ignore[arg-type]
    if slot.kind != "i":
        return struct.pack("q", 0)  # nothing is given
    if not isinstance(value, int) or not -(2**63) <= value < 2**63:
        raise ArtifactError(f"{what} takes a 64-bit integer for {slot.name}, and the plan gives {value!r}")
    return struct.pack("q", value)


def _known(key: str, kernel: Kernel, library: Library) -> LibraryKernel:
    """The kernel of the library, after comparing what it takes with what a plan gives."""
    what = f"the launch plan's kernel {key}"
    found = library.kernels.get(kernel.function)
    if kernel.module != MODULE or found is None:
        raise ArtifactError(f"{what} is {kernel.function} of {kernel.module}, which is none of the native kernels")
    given = kernel.arguments.keys() | kernel.constants.keys()
    names = {slot.name for slot in found.slots}
    if given != names or kernel.arguments.keys() & kernel.constants.keys():
        raise ArtifactError(f"{what} takes {', '.join(sorted(given ^ names))} here, or there, and not both")
    for slot in found.slots:
        kind, constant = kernel.arguments.get(slot.name), kernel.constants.get(slot.name)
        if not _fits(slot, kind, constant):
            raise ArtifactError(f"{what} gives {slot.name} as {kind or constant!r}, which the kernel does not take")
    return found


def _fits(slot: Slot, kind: str | None, constant: object) -> bool:
    if slot.words:
        return kind is None and constant in slot.words
    if slot.kind in ("p", "w"):
        return constant is None and (kind is None or kind.startswith("*"))
    if slot.kind == "i":
        return kind == "i64" if kind is not None else isinstance(constant, int)
    return kind is None and (isinstance(constant, float) or constant in _NOT_FINITE)
