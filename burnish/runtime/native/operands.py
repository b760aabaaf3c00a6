"""The memory of a kernel's operands: whether it is there, and what has to be done before it may be read or written."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from burnish.ir.errors import ArtifactError
from burnish.runtime.memory import View
from burnish.runtime.native.library import Library, LibraryKernel

_UNTOUCHED = -1


@dataclass(frozen=True)
class Operand:
    """A tensor in a slot of a kernel, by its number; the addresses from and up to which it is."""

    slot: int
    view: View
    extent: tuple[int, int]
    written: bool


def operands_of(kernel: LibraryKernel, values: Mapping[str, object]) -> list[Operand]:
    """Those that a launch gives."""
    return [
        Operand(number, view, view.extent, slot.kind == "w")
        for number, slot in enumerate(kernel.slots)
        if isinstance(view := values[slot.name], View)
    ]


def check(
    what: str,
    library: Library,
    kernel: LibraryKernel,
    operands: Sequence[Operand],
    arguments: ctypes.Array[ctypes.c_char],
) -> None:
    """Raise ArtifactError where the kernel would go outside of its operands, or take them for something else.

    What is written has to be apart from all else: kernels check places that they read, and they have to stay so.
    """
    count = len(kernel.slots)
    reach, types = (ctypes.c_int64 * count)(*[_UNTOUCHED] * count), (ctypes.c_char_p * count)()
    wrong = library.functions.burnish_reach(kernel.number, ctypes.addressof(arguments), reach, types)
    if wrong is not None:
        raise ArtifactError(f"{what} needs {wrong.decode()}, which the plan does not give")
    given = {each.slot: each for each in operands}
    for number, slot in enumerate(kernel.slots):
        operand, name = given.get(number), types[number]
        if operand is not None and reach[number] == _UNTOUCHED:
            raise ArtifactError(f"{what} is given {slot.name}, which it does not take beside its other arguments")
        if operand is not None and name is not None and name.decode() != operand.view.dtype:
            found = operand.view.dtype
            raise ArtifactError(f"{what} takes {name.decode()} for {slot.name}, and the plan gives {found}")
        start, end = operand.extent if operand else (0, 0)
        if reach[number] > end - start:
            raise ArtifactError(
                f"{what} takes {reach[number]:,} bytes for {slot.name}, and the plan gives {end - start:,}"
            )
        beside = [each.extent for each in operands if each is not operand]
        if operand is not None and operand.written and _overlap([operand.extent], beside):
            raise ArtifactError(f"{what} writes {slot.name}, and the plan gives the same memory for something else")


class Hazards:
    """What was read and written since the last barrier, by addresses."""

    def __init__(self) -> None:
        self._read: list[tuple[int, int]] = []
        self._written: list[tuple[int, int]] = []

    def need_barrier(self, operands: Sequence[Operand]) -> bool:
        """Whether an op on these has to wait for those before; they are noted."""
        read = [each.extent for each in operands if not each.written]
        written = [each.extent for each in operands if each.written]
        needed = _overlap(read, self._written) or _overlap(written, self._written) or _overlap(written, self._read)
        if needed:
            self._read, self._written = [], []
        self._read += read
        self._written += written
        return needed


def _overlap(ones: Sequence[tuple[int, int]], others: Sequence[tuple[int, int]]) -> bool:
    return any(start < end and begin < stop for start, stop in ones for begin, end in others if begin < end)
