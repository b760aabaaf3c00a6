"""Host functions run on fake tensors: what they would launch, allocate and copy, with sizes as texts.

While a `Recorder` is active, kernels hand their launches to it. Tensors are FakeTensors whose sizes may be
symbols, so that one record is right for all sizes; views keep their storage, which tells buffers apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils._sympy.printers import PythonPrinter

from burnish.codegen.plan.launches import RECORDER, Copy, Launchable
from burnish.ir.errors import InvalidProgramError, UnsupportedError
from burnish.ir.serialize import is_foreign
from burnish.runtime.plan import Argument, Buffer, Call, Launch, Scalar, Size, TensorReference

_ALLOCATIONS = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
    torch.ops.aten.new_empty.default,
    torch.ops.aten.new_empty_strided.default,
}


@dataclass
class _Temporary:
    size: Size
    first: int
    last: int


@dataclass
class Recorder:
    """The steps so far. `names` are those of the symbols of sizes: "s31" -> "batch"; `typical` are usual sizes.

    `copy` is what brings elements in order.
    """

    copy: Copy
    names: dict[str, str]
    typical: Mapping[str, int] = field(default_factory=dict)
    steps: list[Launch | Call] = field(default_factory=list)
    specs: dict[str, Launchable] = field(default_factory=dict)  # by key; of launches that were forgotten, too
    zeros: list[Size] = field(default_factory=list)
    node: str = ""  # that is being recorded
    reason: str = ""  # why it is not by a kernel
    _temporaries: list[_Temporary] = field(default_factory=list)
    _buffers: dict[int, tuple[str, torch.Tensor]] = field(default_factory=dict)  # kept, so that no id comes again

    # ------------------------------------------------------------ buffers

    def name_buffer(self, tensor: torch.Tensor, name: str) -> None:
        """Say what the memory of `tensor` is: "weight model.norm.weight"."""
        self._buffers[_storage(tensor)] = (name, tensor)

    def knows(self, tensor: torch.Tensor) -> bool:
        """Whether it lies in memory that has a name."""
        return _storage(tensor) in self._buffers

    def buffer_of(self, tensor: torch.Tensor) -> str:
        """The name of the memory that `tensor` lies in."""
        return self._buffers[_storage(tensor)][0]

    def allocate(self, tensor: torch.Tensor) -> None:
        """Memory of the step's own, for `tensor`."""
        size = tensor.untyped_storage().nbytes()
        self.name_buffer(tensor, f"temporary {len(self._temporaries)}")
        self._temporaries.append(_Temporary(self.size(size), len(self.steps), len(self.steps)))

    def counters(self, like: torch.Tensor, shape: Sequence[Any]) -> torch.Tensor:
        """int32 zeros that every kernel leaves as zeros."""
        tensor = like.new_empty(tuple(shape), dtype=torch.int32)
        self.name_buffer(tensor, f"zeros {len(self.zeros)}")
        self.zeros.append(self.size(tensor.untyped_storage().nbytes()))
        return tensor

    def temporaries(self) -> list[Buffer]:
        """All that was allocated."""
        return [Buffer(each.size, each.first, each.last) for each in self._temporaries]

    # ------------------------------------------------------------ steps

    def launch(self, spec: Launchable, grid: Sequence[Any], arguments: Sequence[Any]) -> None:
        """Note a launch."""
        key = spec.key
        self.specs[key] = spec
        found: list[Argument] = [
            self.reference(each) if isinstance(each, torch.Tensor) else Scalar(self.number(each)) for each in arguments
        ]
        self.steps.append(Launch(key, [self.size(each) for each in grid], found, self.node))

    def call(self, op: Any, args: Sequence[Any], options: dict[str, Any], results: Any) -> None:
        """Note a call of an op that has no kernel, whose results get memory unless they have it."""
        if is_foreign(op):
            raise UnsupportedError(f"{self.node} needs {op}, which has no kernel and which a launch plan may not call")
        tensors = [each for each in tree_leaves(results) if isinstance(each, torch.Tensor)]
        for tensor in tensors:
            if not self.knows(tensor):
                self.allocate(tensor)
        self.steps.append(
            Call(
                str(op),
                [self.argument(each) for each in args],
                {name: self.argument(each) for name, each in options.items()},
                [self.reference(each) for each in tensors],
                self.node,
                self.reason,
            )
        )

    def mark(self) -> tuple[int, int, int]:
        """How far the record is."""
        return len(self.steps), len(self._temporaries), len(self.zeros)

    def back_to(self, mark: tuple[int, int, int]) -> None:
        """Forget what came after `mark`."""
        steps, temporaries, zeros = mark
        del self.steps[steps:], self._temporaries[temporaries:], self.zeros[zeros:]

    # ------------------------------------------------------------ as data

    def reference(self, tensor: torch.Tensor) -> TensorReference:
        """Where `tensor` lies. Its buffer lives until this step at least."""
        if not self.knows(tensor):
            raise InvalidProgramError(f"{self.node} reads memory that nothing wrote: {tensor}")
        name = self.buffer_of(tensor)
        kind, _, number = name.partition(" ")
        if kind == "temporary":
            self._temporaries[int(number)].last = len(self.steps)
        return TensorReference(
            name,
            str(tensor.dtype).removeprefix("torch."),
            [self.size(each) for each in tensor.shape],
            [self.size(each) for each in tensor.stride()],
            self.size(tensor.storage_offset()),
        )

    def size(self, number: Any) -> Size:
        """A size as data."""
        found = self.number(number)
        if isinstance(found, float):
            raise InvalidProgramError(f"{self.node} has {number} for a size")
        return found

    def number(self, number: Any) -> Size | float:
        """A number as data."""
        if isinstance(number, (bool, int, float)):
            return number
        if isinstance(number, torch.SymInt):
            expression = sympy.sympify(number.node.expr)
            renamed = expression.subs({each: sympy.Symbol(self._name(each)) for each in expression.free_symbols})
            return int(renamed) if renamed.is_Integer else str(PythonPrinter().doprint(renamed))
        raise UnsupportedError(f"{self.node} takes {type(number).__name__}, which a launch plan cannot say")

    def argument(self, value: Any) -> Any:
        """An argument of an op as data: see `burnish.runtime.plan.Call`."""
        if isinstance(value, torch.Tensor):
            return {"tensor": self.reference(value)}
        if isinstance(value, torch.SymInt):
            return {"size": self.size(value)}
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": repr(value)}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, (list, tuple)):
            return [self.argument(each) for each in value]
        if isinstance(value, torch.dtype):
            return {"dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.memory_format):
            return {"memory_format": str(value).removeprefix("torch.")}
        if isinstance(value, (torch.device, torch.layout)):
            return None  # the device is that of the operands, the layout is strided
        raise UnsupportedError(f"{self.node} takes {type(value).__name__}, which a launch plan cannot say")

    def _name(self, symbol: Any) -> str:
        name = self.names.get(str(symbol))
        if name is None:
            raise UnsupportedError(f"{self.node} depends on {symbol}, which is no size of a step's inputs")
        return name


class RecordingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's __init_subclass__
    """ATen ops of host functions: allocations become buffers, views nothing, copies a launch each, all else calls."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run it on fakes, and note it."""
        kwargs = kwargs or {}
        results = func(*args, **kwargs)
        if func is torch.ops.aten.clone.default and results.is_contiguous():
            return self._copy(args, kwargs, results)
        tensors = [each for each in tree_leaves(results) if isinstance(each, torch.Tensor)]
        if func in _ALLOCATIONS:
            self.recorder.allocate(results)
        elif func._schema.is_mutable:
            raise UnsupportedError(f"{func} changes its arguments, which a launch plan cannot say")
        elif not all(self.recorder.knows(each) for each in tensors):
            self.recorder.call(func, args, kwargs, results)
        return results

    def _copy(self, args: tuple[Any, ...], kwargs: dict[str, Any], results: torch.Tensor) -> torch.Tensor:
        mark = self.recorder.mark()
        try:
            with self:
                return self.recorder.copy(args[0])
        except UnsupportedError as reason:
            self.recorder.back_to(mark)
            self.recorder.reason = str(reason)
            self.recorder.call(torch.ops.aten.clone.default, args, kwargs, results)
            return results


def recording(recorder: Recorder, host_function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `host_function` gives; launches and calls are noted."""
    token = RECORDER.set(recorder)
    try:
        with RecordingMode(recorder):
            return host_function(*args, **kwargs)
    finally:
        RECORDER.reset(token)


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
