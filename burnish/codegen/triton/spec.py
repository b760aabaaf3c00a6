"""A kernel with all settled that is settled before it runs: what the interpreter, the JIT and the compiler all take."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

from burnish.codegen.plan.launches import RECORDER, Launchable
from burnish.runtime.plan import Kernel

# Triton's names of element types.
TYPES: dict[torch.dtype, str] = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
}

Constant = int | float | bool | str | None


@dataclass(frozen=True)
class KernelSpec:
    """One `@triton.jit` function, specialised.

    `arguments` gives the type of each argument that is no constant, in the function's order: "*fp16" for a pointer,
    "i32", "fp32". `aligned` names those that are multiples of 16 (bytes, for a pointer): without that promise, loads
    are 4 bytes wide; a launch has to keep it.
    """

    function: Any
    arguments: Mapping[str, str]
    constants: Mapping[str, Constant]
    aligned: frozenset[str] = field(default_factory=frozenset)
    num_warps: int = 4
    num_stages: int = 2

    @property
    def name(self) -> str:
        """The function's name."""
        return str(self.function.__name__)

    @property
    def key(self) -> str:
        """See `Launchable.key`."""
        facts = (
            self.name,
            source_hash(self.function),
            tuple(self.arguments.items()),
            tuple(sorted(self.constants.items())),
            tuple(sorted(self.aligned)),
            self.num_warps,
            self.num_stages,
        )
        return f"{self.name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"

    def data(self) -> Kernel:
        """See `Launchable.data`."""
        return Kernel(
            self.function.fn.__module__,
            self.name,
            dict(self.arguments),
            dict(self.constants),
            sorted(self.aligned),
            self.num_warps,
            self.num_stages,
        )

    def launch(self, grid: tuple[int, int, int], *arguments: torch.Tensor | int | float) -> None:
        """Run on tensors, by Triton's interpreter or its JIT, whichever this process has; or be recorded."""
        recorder = RECORDER.get()
        if recorder is not None:
            recorder.launch(self, grid, arguments)
            return
        names = list(self.arguments)
        if len(arguments) != len(names):
            raise TypeError(f"{self.name} takes {len(names)} arguments ({', '.join(names)}), not {len(arguments)}")
        given = dict(zip(names, arguments, strict=True))
        self.function[grid](**given, **self.constants, num_warps=self.num_warps, num_stages=self.num_stages)


def pointer(dtype: torch.dtype) -> str:
    """Triton's type of a pointer to elements of `dtype`."""
    return f"*{TYPES[dtype]}"


@cache
def source_hash(function: Any) -> str:
    """Of the modules of a kernel and of the functions that it calls: all source that it is compiled from."""
    found = [function]
    for each in found:  # grows
        called = (each.fn.__globals__.get(name) for name in each.fn.__code__.co_names)
        found += [other for other in called if isinstance(other, type(function)) and other not in found]
    sources = [inspect.getsource(sys.modules[name]) for name in sorted({each.fn.__module__ for each in found})]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:16]


def kernels_of(specs: Mapping[str, Launchable]) -> dict[str, KernelSpec]:
    """What was recorded, where all host functions are Triton's."""
    return {key: spec for key, spec in specs.items() if isinstance(spec, KernelSpec)}
