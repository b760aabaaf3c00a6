"""A compiled module that is no language model: tensors in, tensors out, by position or by name."""

from __future__ import annotations

import contextlib
import shutil
import weakref
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from burnish.ir.conditions import holds, names, number, solved
from burnish.ir.dtypes import name_of
from burnish.ir.errors import InvalidInputError, UsageError
from burnish.ir.sizes import size_text
from burnish.ir.torch_types import torch_dtype
from burnish.runtime.artifact import Artifact
from burnish.runtime.exportable import Exportable
from burnish.runtime.manifest import GraphEntry, TensorEntry
from burnish.runtime.torch_memory import array_of

if TYPE_CHECKING:
    from burnish.ir.trace import Trace
    from burnish.runtime.backends import Backend


class GraphExecutor(Protocol):
    """Runs a graph."""

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs by what they are called, of inputs by the names of their placeholders, contiguous on the CPU."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class CompiledModule(Exportable):
    """What `burnish.compile(model, example_inputs)` gives, and `burnish.load` of what it saved."""

    def __init__(self, artifact: Artifact, executor: GraphExecutor, backend: Backend) -> None:
        graph = artifact.manifest.graph
        assert graph is not None, "an artifact of a graph"
        self.artifact = artifact
        self.backend = backend
        self.executor: GraphExecutor | None = executor
        self._graph: GraphEntry = graph
        self._folder: weakref.finalize[Any, Any] | None = None

    @property
    def inputs(self) -> dict[str, str]:
        """What it takes, in order: "float32[batch, 3, 224, 224]" by name."""
        return {each.called: str(each) for each in self._graph.inputs}

    @property
    def outputs(self) -> dict[str, str]:
        """What it gives, in order, as `inputs` says it."""
        return {each.called: str(each) for each in self._graph.outputs}

    @cached_property
    def trace(self) -> Trace:
        """What each pass of the compilation did."""
        return self.artifact.trace()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives: a tensor where it gives one, or a dict of them by name.

        Inputs come in their order, or by their names; a name that is no identifier of Python comes in a dict, as the
        only argument. They are tensors, arrays or lists of numbers; if none is a tensor of PyTorch's, and one is an
        array of numpy's, arrays are given.

        Raises InvalidInputError for inputs that do not fit `inputs`.
        """
        if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
            named = self._named((), args[0])
        else:
            named = self._named(args, kwargs)
        arrays = not any(isinstance(each, Tensor) for each in named.values()) and any(
            isinstance(each, np.ndarray | np.generic) for each in named.values()
        )
        found = self.run(named)
        results: dict[str, Any] = {name: array_of(each) for name, each in found.items()} if arrays else dict(found)
        return next(iter(results.values())) if len(results) == 1 else results

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """All outputs by name, of all inputs by name. For errors see `__call__`."""
        if self.executor is None:
            raise UsageError("this compiled module was closed")
        if not isinstance(inputs, Mapping):
            raise InvalidInputError(f"inputs is a dict of tensors by their names, not {type(inputs).__name__}")
        given = self._named((), inputs)
        entries = {each.called: each for each in self._graph.inputs}
        tensors = {name: _tensor(each, given[name]) for name, each in entries.items()}
        self._check_sizes(tensors)
        return self.executor.run({entries[name].name: tensor for name, tensor in tensors.items()})

    def _named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        known = [each.called for each in self._graph.inputs]
        takes = ", ".join(f"{name}: {kind}" for name, kind in self.inputs.items())
        if len(args) > len(known):
            raise InvalidInputError(f"it takes {len(known)} inputs ({takes}), and was given {len(args)}")
        found = dict(zip(known, args, strict=False))
        for name, value in kwargs.items():
            if name not in known:
                raise InvalidInputError(f"it has no input {name!r}: it takes {takes}")
            if name in found:
                raise InvalidInputError(f"the input {name} was given twice")
            found[name] = value
        if missing := [name for name in known if name not in found]:
            raise InvalidInputError(f"the input {missing[0]} is missing: it takes {takes}")
        return found

    def _check_sizes(self, tensors: Mapping[str, Tensor]) -> None:
        """InvalidInputError unless the shapes agree with each other and with what the trace is for."""
        sizes: dict[str, int] = {}
        places: dict[str, str] = {}
        axes = [
            (each, axis, found, place)
            for each in self._graph.inputs
            for place, (axis, found) in enumerate(zip(each.axes, tensors[each.called].shape, strict=True))
        ]
        for each, axis, found, place in axes:
            if isinstance(axis, str) and axis in self._graph.sizes and sizes.setdefault(axis, found) != found:
                raise InvalidInputError(
                    f"{each.called} has {found} on axis {place}, its {axis}, and {places[axis]} has {sizes[axis]}"
                )
            if isinstance(axis, str):
                places.setdefault(axis, each.called)
        for name, (least, most) in self._graph.sizes.items():
            if name not in sizes:
                each, axis, found, place = next(at for at in axes if names(str(at[1]), name))
                solution = solved(str(axis), name, found)
                if solution is None:
                    raise InvalidInputError(
                        f"{each.called} has {found} on axis {place}, which has to be {axis} for some {name}"
                    )
                sizes[name], places[name] = solution, each.called
            if sizes[name] < least or (most is not None and sizes[name] > most):
                limits = f"from {least} on" if most is None else f"from {least} to {most}"
                raise InvalidInputError(f"{places[name]} has {sizes[name]} for {name}, which can be {limits}")
        for each, axis, found, place in axes:
            expected = axis if isinstance(axis, int) else number(axis, sizes)
            if expected != found:
                shape = list(tensors[each.called].shape)
                raise InvalidInputError(
                    f"{each.called} is {shape}, and has to be {each}: axis {place} is {found}, not {expected}"
                )
        for condition in self._graph.conditions:
            if not holds(condition, sizes):
                told = ", ".join(f"{name} {size}" for name, size in sizes.items())
                raise InvalidInputError(f"the module was traced for sizes with {condition}, and these are {told}")

    def save(self, path: Path | str) -> None:
        """Write the artifact to the folder `path`, all of it or nothing. For errors see `CompiledModel.save`."""
        self.artifact.copy(path)

    def close(self) -> None:
        """Free memory, and the files of a module that was never saved. It cannot run afterwards."""
        if self.executor is not None:
            self.executor.close()
            self.executor = None
        if self._folder is not None:
            self._folder()

    def own(self, folder: Path) -> None:
        """Delete `folder`, and the one around it if that is then empty, with the module."""
        self._folder = weakref.finalize(self, _discard, folder)

    def __enter__(self) -> CompiledModule:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        takes = ", ".join(f"{name}: {kind}" for name, kind in self.inputs.items())
        gives = ", ".join(f"{name}: {kind}" for name, kind in self.outputs.items())
        manifest = self.artifact.manifest
        return (
            f"CompiledModule({manifest.name!r}, backend={self.backend!r}, ({takes}) -> ({gives}), "
            f"weights={size_text(manifest.weight_bytes)})"
        )


def _tensor(entry: TensorEntry, value: Any) -> Tensor:
    """A value as a contiguous tensor on the CPU. Raises InvalidInputError where dtype or rank are others."""
    wanted = torch_dtype(entry.dtype)
    try:
        tensor = value if isinstance(value, Tensor) else torch.as_tensor(_plain(np.asarray(value, order="C")))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidInputError(f"{entry.called} is no tensor: {error}") from error
    if not isinstance(value, Tensor | np.ndarray) and tensor.is_floating_point() == wanted.is_floating_point:
        given, tensor = tensor, tensor.to(wanted)  # numbers of Python, which have no width
        if not wanted.is_floating_point and not torch.equal(given, tensor.to(given.dtype)):
            raise InvalidInputError(f"{entry.called} has numbers that are none of {entry.dtype}")
    if tensor.dtype != wanted:
        raise InvalidInputError(
            f"{entry.called} is {name_of(tensor.dtype)}, and has to be {entry.dtype}: give it as "
            f".to(torch.{entry.dtype})"
        )
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
        kind = "meta" if tensor.is_meta else "nested" if tensor.is_nested else str(tensor.layout)
        raise InvalidInputError(f"{entry.called} is a tensor of the kind {kind}, and has to have its numbers in memory")
    if tensor.dim() != len(entry.axes):
        raise InvalidInputError(f"{entry.called} is {list(tensor.shape)}, and has to be {entry}")
    return tensor.detach().to("cpu").contiguous()


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """In this machine's order of bytes, which is the only one that PyTorch has."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _discard(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):  # not empty: others use it
        folder.parent.rmdir()
