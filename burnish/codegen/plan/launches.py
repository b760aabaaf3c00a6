"""What host functions and the planner agree on: which ops they run, and that they hand their launches to a recorder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from burnish.runtime.plan import Kernel


class Launchable(Protocol):
    """A kernel with all settled that is settled before it runs, in whatever language."""

    @property
    def key(self) -> str:
        """A name for all that decides what it compiles to: equal kernels of different layers have one."""
        ...

    def data(self) -> Kernel:
        """It as a launch plan has it."""
        ...


class Copy(Protocol):
    """The elements of `x` in order, in new memory or in that of `out`, by one launch.

    Raises UnsupportedError for what it cannot copy.
    """

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor: ...


@dataclass(frozen=True)
class HostFunctions:
    """What runs ops by launches. Each takes what its op takes, or raises UnsupportedError: then the op runs by ATen."""

    by_op: Mapping[Any, Callable[..., Any]]
    copy: Copy


class LaunchRecorder(Protocol):
    """Takes launches in place of a device."""

    def launch(self, spec: Launchable, grid: Sequence[Any], arguments: Sequence[Any]) -> None:
        """Note a launch of `spec`."""
        ...

    def counters(self, like: Tensor, shape: Sequence[Any]) -> Tensor:
        """int32[shape] that is zero before and after each kernel."""
        ...


RECORDER: ContextVar[LaunchRecorder | None] = ContextVar("burnish launch recorder", default=None)


def example(size: int | torch.SymInt) -> int:
    """A size, or for a symbol one that it may have: for choices that are right for all, and good for that one."""
    return size if isinstance(size, int) else int(size.node.hint)


def counters(like: Tensor, shape: Sequence[Any]) -> Tensor:
    """int32 zeros[shape] on the device of `like`, for kernels that count and leave zeros behind."""
    recorder = RECORDER.get()
    return recorder.counters(like, shape) if recorder is not None else like.new_zeros(tuple(shape), dtype=torch.int32)
