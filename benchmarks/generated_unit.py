"""What compiling a step to C++ of its own would gain over its plan, run by prebuilt kernels.

    python benchmarks/generated_unit.py ARTIFACT [--threads N] [--accuracy fast]

Prints a unit for the steps of one token: each kernel of the plan once more for each set of its numbers, with sizes,
strides, formats, options and what is absent as constants, so that the compiler unrolls loops and drops branches as if
it had been written for this model. The team, the order of steps and the barriers stay. Compiles it for this machine,
checks that both give the same tokens, and times 64 tokens behind a prompt of 512 by either in turns.
"""

from __future__ import annotations

import argparse
import ctypes
import re
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import burnish
from burnish.runtime.model import CompiledModel
from burnish.runtime.native import build, carried, library

PROMPT, NEW, ROUNDS = 512, 64, 9

Numbers = tuple[bytes, ...]  # of a kernel's slots, 8 bytes each; of a pointer empty, but for null
Key = tuple[int, Numbers]

NULL = bytes(8)


class Functions:
    """The functions of a library, of which one is told of each program that is prepared."""

    def __init__(self, functions: Any) -> None:
        self._functions = functions
        self.prepared: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._functions, name)

    def burnish_scratch(self, operations: Any, count: int) -> Any:
        """As the library's."""
        self.prepared = list(operations)
        self.change(self.prepared)
        return self._functions.burnish_scratch(operations, count)

    def change(self, operations: list[Any]) -> None:
        """Puts other kernels in the place of some."""


def key_of(operation: Any, slots: tuple[library.Slot, ...]) -> Key:
    """The kernel of an operation and its numbers."""
    packed = ctypes.string_at(operation.arguments, 8 * len(slots))
    words = [packed[at : at + 8] for at in range(0, len(packed), 8)]
    return operation.kernel, tuple(
        b"" if slot.kind in "pw" and word != NULL else word for slot, word in zip(slots, words, strict=True)
    )


@contextmanager
def running_by(found: library.Library) -> Iterator[None]:
    """Models that are loaded within it run by this library."""
    with mock.patch.object(carried, "library_for", return_value=found):
        yield


def printed(keys: list[Key], names: list[str], slots: dict[str, tuple[library.Slot, ...]], rounded: bool) -> str:
    """The library's source with a kernel more for each key, called unit_0, unit_1, ..."""
    source = (build.SOURCES / "library.cpp").read_text()
    functions, entries = [], []
    for number, (kernel, numbers) in enumerate(keys):
        name = names[kernel]
        entry = re.search(rf'    kernel<(\w+), (\w+),[^"]*"{name}".*\),\n', source)
        assert entry is not None, name
        lines = []
        for slot, word in zip(slots[name], numbers, strict=True):
            if word == NULL and slot.kind in "pw":
                lines.append(f"  a.{slot.name} = nullptr;")
            elif word and slot.kind == "f":
                lines.append(f"  a.{slot.name} = {float.hex(struct.unpack('d', word)[0])};")
            elif word:
                lines.append(f"  a.{slot.name} = {struct.unpack('q', word)[0]}ll;")
        functions.append(
            "__attribute__((flatten)) static void "
            f"unit_{number}(const {entry[1]}& given, Worker& w, i64 begin, i64 end) {{\n"
            f"  if (w.rounded != {int(rounded)}) __builtin_unreachable();\n  {entry[1]} a = given;\n"
            + "\n".join(lines)
            + f"\n  {entry[2]}(a, w, begin, end);\n}}\n"
        )
        entries.append(entry[0].replace(f"{entry[2]},", f"unit_{number},", 1).replace(f'"{name}"', f'"unit_{number}"'))
    table = "static const Kernel KERNELS[] = {\n"
    return source.replace(table, "\n".join(functions) + table + "".join(entries))


def compiled(source: str, level: str, folder: Path) -> tuple[library.Library, float]:
    """The library of that source, and the seconds that compiling took."""
    for file in build.SOURCES.iterdir():
        shutil.copy(file, folder)
    (folder / "library.cpp").write_text(source)
    began = time.perf_counter()
    command = [
        str(build.compiler(level)),
        *build.flags(level),
        str(folder / "library.cpp"),
        "-o",
        str(folder / "unit.so"),
    ]
    subprocess.run(command, check=True)
    seconds = time.perf_counter() - began
    with mock.patch.object(library, "build", return_value=folder / "unit.so"):
        return library.library.__wrapped__(level), seconds


def answered(model: CompiledModel) -> burnish.Generation:
    """64 tokens behind a prompt of 512."""
    prompt = [(7919 * place) % min(model.signature.vocabulary, 40000) for place in range(PROMPT)]
    return model.generate(prompt, max_new_tokens=NEW, min_new_tokens=NEW)


def main() -> None:
    """Print what was measured."""
    arguments = argparse.ArgumentParser(description="what compiling a step to C++ of its own would gain")
    arguments.add_argument("artifact", type=Path)
    arguments.add_argument("--threads", type=int)
    arguments.add_argument("--accuracy", choices=("exact", "fast"), default="fast")
    asked = arguments.parse_args()
    level = library.best_level()
    prebuilt = library.library(level)
    names, slots = list(prebuilt.kernels), {name: each.slots for name, each in prebuilt.kernels.items()}

    def loaded(functions: Functions) -> CompiledModel:
        with running_by(replace(prebuilt, functions=functions)):
            return burnish.load(asked.artifact, threads=asked.threads, accuracy=asked.accuracy)

    plain = Functions(prebuilt.functions)
    model = loaded(plain)
    tokens = answered(model).tokens
    keys = list(dict.fromkeys(key_of(each, slots[names[each.kernel]]) for each in plain.prepared))
    with tempfile.TemporaryDirectory() as folder:
        source = printed(keys, names, slots, asked.accuracy == "fast")
        unit, seconds = compiled(source, level, Path(folder))
        ours = dict(zip(keys, range(len(keys)), strict=True))

        class Changed(Functions):
            def change(self, operations: list[library.Operation]) -> None:
                self.taken = 0
                for each in operations:
                    each.kernel -= len(keys)  # those of the plan are numbered behind the unit's
                    number = ours.get(key_of(each, slots[names[each.kernel]]))
                    each.kernel = each.kernel + len(keys) if number is None else number
                    self.taken += number is not None

        changed = Changed(unit.functions)
        with running_by(replace(unit, functions=changed)):
            other = burnish.load(asked.artifact, threads=asked.threads, accuracy=asked.accuracy)
        if answered(other).tokens != tokens:
            sys.exit("the unit gives other tokens")
        speeds: dict[str, list[float]] = {"plan": [], "unit": []}
        for _ in range(ROUNDS):
            for name, each in (("plan", model), ("unit", other)):
                speeds[name].append(answered(each).tokens_per_second)
    plan, own = (statistics.median(each) for each in speeds.values())
    print(
        f"{len(keys)} kernels for {changed.taken} of {len(plain.prepared)} launches, built in {seconds:.1f} s, {level}"
    )
    print(f"tokens a second, medians of {ROUNDS} in turns: plan {plan:.1f}, unit {own:.1f}: {own / plan:.3f} times")
    print({name: [round(value, 1) for value in each] for name, each in speeds.items()})


if __name__ == "__main__":
    main()
