"""A kernel of the native library with all settled that is settled before it runs."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from burnish.codegen.plan.launches import RECORDER
from burnish.runtime.native.launcher import NativeLauncher
from burnish.runtime.native.library import best_level, library
from burnish.runtime.plan import Kernel
from burnish.runtime.plan_runner import BoundLaunch
from burnish.runtime.torch_memory import view_of

MODULE = "burnish.runtime.native"

Constant = int | float | bool | str | None

# How kernels run at once, without a plan: for their tests and timings.
LEVEL: ContextVar[str | None] = ContextVar("instruction set", default=None)
THREADS: ContextVar[int] = ContextVar("threads", default=1)
ROUNDED: ContextVar[bool] = ContextVar("activations become int8", default=False)


@dataclass(frozen=True)
class NativeKernel:
    """A kernel by its name in the library, the kinds of its arguments ("*float32", "i64", "f64"), and its constants."""

    name: str
    arguments: Mapping[str, str]
    constants: Mapping[str, Constant]

    @property
    def key(self) -> str:
        """See `Launchable.key`."""
        facts = (self.name, tuple(self.arguments.items()), tuple(sorted(self.constants.items())))
        return f"{self.name}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}"

    def data(self) -> Kernel:
        """See `Launchable.data`."""
        return Kernel(MODULE, self.name, dict(self.arguments), dict(self.constants), [], 0, 0)


def launch(name: str, **given: Tensor | int | float | bool | str | torch.SymInt | None) -> None:
    """Record a launch of a kernel, or run it at once. Words, None, and numbers that are known now, are its constants.

    Of floats that plans cannot say, "inf", "-inf" and "nan" stand for them.
    """
    arguments = {key: each for key, each in given.items() if isinstance(each, Tensor | torch.SymInt)}
    kinds = {
        key: f"*{str(each.dtype).removeprefix('torch.')}" if isinstance(each, Tensor) else "i64"
        for key, each in arguments.items()
    }
    constants: dict[str, Any] = {key: each for key, each in given.items() if key not in arguments}
    strange = [key for key, each in constants.items() if isinstance(each, float) and not math.isfinite(each)]
    kernel = NativeKernel(name, kinds, constants | {key: repr(constants[key]) for key in strange})
    recorder = RECORDER.get()
    if recorder is not None:
        recorder.launch(kernel, (1, 1, 1), list(arguments.values()))
        return
    launcher = NativeLauncher({kernel.key: kernel.data()}, library(LEVEL.get() or best_level()), THREADS.get())
    launcher.rounded = ROUNDED.get()
    views = [view_of(each) if isinstance(each, Tensor) else each for each in arguments.values()]
    launcher.prepare([BoundLaunch(kernel.key, (1, 1, 1), views)])()
    launcher.close()
