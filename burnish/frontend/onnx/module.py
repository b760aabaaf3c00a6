"""An ONNX model as a module: its nodes, run one by one as torch operations."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
import torch.fx.traceback as fx_traceback
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from burnish.frontend.onnx.call import Call, Graph, Step, Value
from burnish.frontend.onnx.dtypes import torch_dtype
from burnish.frontend.onnx.numbers import Numbers
from burnish.frontend.onnx.operators import known, operator_of
from burnish.frontend.onnx.packed_weights import packed_weights
from burnish.frontend.onnx.plan import Planner, last_uses
from burnish.frontend.onnx.read import read_file
from burnish.frontend.onnx.spelling import turned
from burnish.frontend.source_lines import ORIGIN
from burnish.ir.errors import BurnishError, CaptureError, InvalidInputError, InvalidModelError, UnsupportedError
from burnish.ir.weights import Weight


@dataclass(frozen=True)
class TensorSpec:
    """An input or output as the file declares it."""

    name: str  # as the file has it
    argument: str  # the same as a name of Python's
    dtype: torch.dtype  # what carries it
    kind: ir.DataType
    shape: tuple[int | str | None, ...] | None  # sizes, names of sizes, None for any; None if not even the rank is said

    def __str__(self) -> str:
        sizes = "..." if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name}: {self.kind.name.lower()}[{sizes}]"


class OnnxModule(nn.Module):
    """The graph of a model.

    Weights are parameters and buffers under their names in the file. Called with its inputs by position or by name,
    it gives a tuple of its outputs. Sizes of axes are carried as numbers, so that `torch.export` keeps them symbolic.

    Args:
        model: from `read_file`.
        fixed: values of inputs that are constants from here on, by name; these are no inputs then.

    Raises:
        UnsupportedError: an operator, or a type, that is not supported; the node is named.
        InvalidModelError: an attribute or a constant is not what its operator takes.
    """

    def __init__(self, model: ir.Model, fixed: Mapping[str, torch.Tensor] | None = None) -> None:
        super().__init__()
        fixed = fixed or {}
        unknown = set(fixed) - {value.name for value in model.graph.inputs}
        if unknown:
            raise InvalidInputError(f"the model has no input {', '.join(sorted(unknown))}")
        self._graph = Planner(model, fixed).plan()
        names = set(self._graph.inputs)
        values = [value for value in model.graph.inputs if value.name in names]
        taken: set[str] = set()
        self.inputs = tuple(_spec(value, taken) for value in values)
        taken = set()
        self.outputs = tuple(_spec(value, taken) for value in model.graph.outputs)
        self._places: dict[str, tuple[nn.Module, str]] = {}
        self.weight_names: dict[str, str] = {}  # of parameters and buffers here -> in the file
        for name, value in self._graph.constants.items():
            if not isinstance(value, Numbers) or name in model.graph.initializers or value.array.size > 1:
                self._keep(name, value.tensor() if isinstance(value, Numbers) else value)
        self._widened: dict[str, tuple[nn.Module, str]] = {}
        self._last_uses = last_uses(self._graph)
        self.forward = self._with_signature()

    @classmethod
    def from_file(cls, path: Path, fixed: Mapping[str, torch.Tensor] | None = None) -> OnnxModule:
        """The module of an ONNX file. Raises as `read_file` and the class do."""
        return cls(read_file(path), fixed)

    def dynamic_shapes(self) -> dict[str, Any]:
        """The axes that the file leaves open, as `torch.export` takes them: equal names are equal sizes."""
        named: dict[str, Any] = {}

        def size(name: int | str | None) -> Any:
            if isinstance(name, int):
                return None
            if name is None or not name.isidentifier() or keyword.iskeyword(name):
                return torch.export.Dim.AUTO
            return named.setdefault(name, torch.export.Dim(name))

        return {
            spec.argument: {axis: size(each) for axis, each in enumerate(spec.shape or ()) if not isinstance(each, int)}
            for spec in self.inputs
        }

    # ---------------------------------------------------------------- weights

    def _keep(self, name: str, tensor: torch.Tensor) -> None:
        """A tensor under the path that its name is, or the nearest one that is free."""
        module: nn.Module = self
        *path, leaf = [re.sub(r"\W", "_", part) or "_" for part in name.split(".")]
        if len(path) > 32:
            path, leaf = [], re.sub(r"\W", "_", name)
        for index, part in enumerate(path):
            child = module._modules.get(part)
            if child is None:
                if hasattr(module, part):
                    leaf = "_".join([*path[index:], leaf])
                    break
                child = nn.Module()
                module.add_module(part, child)
            module = child
        while not leaf or hasattr(module, leaf):
            leaf += "_"
        if tensor.is_floating_point():
            module.register_parameter(leaf, nn.Parameter(tensor, requires_grad=False))
        else:
            module.register_buffer(leaf, tensor)
        self._places[name] = (module, leaf)

    def _weight(self, name: str, value: Value) -> Value:
        """A constant as it is now: export puts other tensors in the places of weights."""
        place = self._places.get(name)
        if place is None:
            return value
        tensor: torch.Tensor = getattr(*place)
        return Numbers(value.array, value.dtype, tensor) if isinstance(value, Numbers) else tensor

    def widen_packed(self) -> dict[str, Weight]:
        """The weights that are packed in a few bits; traces have parameters without values for them from here on.

        By the paths of these parameters, whose floats the weights are.
        """
        found: dict[str, Weight] = {}
        for name, weight in packed_weights(self._graph).items():
            self._keep(f"{name}.floats", torch.zeros(()).expand(weight.shape))
            module, leaf = self._places[f"{name}.floats"]
            path = next(path for path, each in self.named_modules() if each is module)
            found[f"{path}.{leaf}" if path else leaf] = weight
            self._widened[name] = module, leaf
        return found

    def operators(self) -> list[str]:
        """The operators of its nodes, those of its bodies left out."""
        return [step.operator for step in self._graph.steps]

    def embedded(self, name: str) -> int | None:
        """How many ids the table has that the input `name` picks rows of; None if it picks none of a weight."""
        for step in self._graph.steps:
            table = self._graph.constants.get(step.inputs[0]) if step.inputs else None
            if step.operator == "Gather" and step.inputs[1] == name and isinstance(table, torch.Tensor):
                return int(table.shape[0])
        return None

    # ---------------------------------------------------------------- running

    def _with_signature(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """`forward`, which says its arguments' names: these become the names of what an exported program takes."""

        def forward(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
            return self._run(args, kwargs)

        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [inspect.Parameter(spec.argument, kind) for spec in self.inputs]
        forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        return forward

    def _run(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[torch.Tensor, ...]:
        inputs = self._bound(args, kwargs)
        exporting = torch.compiler.is_exporting() or any(isinstance(each, FakeTensor) for each in inputs)
        values: dict[str, Value] = {name: self._weight(name, value) for name, value in self._graph.constants.items()}
        if exporting:
            values |= {name: getattr(*place) for name, place in self._widened.items()}
        run = _Run(values, exporting)
        with fx_traceback.preserve_node_meta(exporting):
            found = run.graph(self._graph, inputs, self._last_uses)
            return tuple(each.tensor() if isinstance(each, Numbers) else each for each in found)

    def _bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        """The inputs in order. Raises InvalidInputError for what is missing, too many, or of another kind."""
        if len(args) > len(self.inputs):
            raise InvalidInputError(f"the model takes {len(self.inputs)} inputs, and {len(args)} are given")
        given = dict(zip((spec.name for spec in self.inputs), args, strict=False))
        names = {spec.argument: spec.name for spec in self.inputs} | {spec.name: spec.name for spec in self.inputs}
        for key, value in kwargs.items():
            name = names.get(key)
            if name is None or name in given:
                raise InvalidInputError(f"{key!r} is no input of the model, or given twice: it takes {self._takes()}")
            given[name] = value
        sizes: dict[str, int] = {}
        for spec in self.inputs:
            if spec.name not in given:
                raise InvalidInputError(f"the input {spec.name!r} is missing: the model takes {self._takes()}")
            _check_input(spec, given[spec.name], sizes)
        return [given[spec.name] for spec in self.inputs]

    def _takes(self) -> str:
        return "; ".join(map(str, self.inputs)) or "no inputs"


def _check_input(spec: TensorSpec, given: Any, sizes: dict[str, int]) -> None:
    if not isinstance(given, torch.Tensor):
        raise InvalidInputError(f"the input {spec.name!r} is {type(given).__name__}, and a tensor is expected: {spec}")
    if given.dtype is not spec.dtype or (spec.shape is not None and given.dim() != len(spec.shape)):
        raise InvalidInputError(f"the input {spec.name!r} is {given.dtype}{list(given.shape)}: {spec} is expected")
    for size, wanted in zip(given.shape, spec.shape or (), strict=False):
        if not isinstance(size, int) or wanted is None:
            continue
        expected = wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size)
        if size != expected:
            where = f" where {wanted} is {expected}" if isinstance(wanted, str) else ""
            raise InvalidInputError(f"the input {spec.name!r} is of the shape {list(given.shape)}: {spec}{where}")


def _spec(value: ir.Value, taken: set[str]) -> TensorSpec:
    name = value.name or ""
    argument = re.sub(r"\W", "_", name, flags=re.ASCII)
    if not argument or argument[0].isdigit() or keyword.iskeyword(argument) or argument == "self":
        argument = f"input_{argument}"
    while argument in taken:
        argument += "_"
    taken.add(argument)
    kind = value.dtype
    if not isinstance(value.type, ir.TensorType) or kind is None:
        raise UnsupportedError(f"{name!r} is no tensor, or of no type that the file says: tensors are supported")
    shape = None
    if value.shape is not None:
        sizes = (size if isinstance(size, int) else size.value for size in value.shape)
        shape = tuple(_known(size) for size in sizes)
    return TensorSpec(name, argument, torch_dtype(kind, f"{name!r}"), kind, shape)


# What torch and numpy raise for operands that do not go together.
_RAISED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    RuntimeError,
    TypeError,
    ValueError,
)


def _known(size: int | str | None) -> int | str | None:
    """A size, or its name. Exporters write -1, or "?", for one that is not known."""
    if isinstance(size, int):
        return size if size >= 0 else None
    return size if size and re.search(r"[^\W_]", size) else None


class _Run:
    """One run of a graph: values by name, and what each step does to them."""

    def __init__(self, values: dict[str, Value], exporting: bool) -> None:
        self.values = values
        self.exporting = exporting
        self.makers: dict[str, Step] = {}

    def graph(
        self, graph: Graph, inputs: Sequence[Value], last_uses: Sequence[Sequence[str]] | None = None
    ) -> list[Value]:
        """What a graph gives; what nothing reads any more is let go where that is known."""
        if len(inputs) != len(graph.inputs):
            raise InvalidModelError(f"a body {graph.name!r} takes {len(graph.inputs)} inputs, not {len(inputs)}")
        for name, value in zip(graph.inputs, inputs, strict=True):
            self.values[name] = value
        for index, step in enumerate(graph.steps):
            self._step(step)
            self.makers.update(dict.fromkeys(step.outputs, step))
            # While a graph is traced its values take no memory, and what made them is looked for.
            for name in last_uses[index] if last_uses is not None and not self.exporting else ():
                self.values.pop(name, None)
        return [self.values[name] for name in graph.outputs]

    def _step(self, step: Step) -> None:
        operands = tuple(self.values[name] if name else None for name in step.inputs)
        call = Call(step, operands, self.graph, self.exporting, self._is_weight(step))
        if not self.exporting:
            found = self._results(call)
        else:
            with fx_traceback.annotate({ORIGIN: step.origin}):
                view = turned(step, self.makers, self.values)
                found = self._results(call) if view is None else [view]
        if len(found) < sum(1 for name in step.outputs if name) and len(found) < len(step.outputs):
            raise call.unsupported(f"it gives {len(found)} outputs, and {len(step.outputs)} are asked for")
        for name, value in zip(step.outputs, found, strict=False):
            if name and value is not None:
                self.values[name] = value

    def _is_weight(self, step: Step) -> bool:
        """Whether the first operand is one of the file's weights, as it is or turned."""
        name = step.inputs[0] if step.inputs else ""
        maker = self.makers.get(name)
        if maker is not None and maker.operator == "Transpose":
            name = maker.inputs[0]
        value = self.values.get(name)
        tensor = value.tensor() if isinstance(value, Numbers) else value
        return name not in self.makers and isinstance(tensor, nn.Parameter)

    def _results(self, call: Call) -> Sequence[Value | None]:
        step = call.step
        try:
            given = [each for each in call.operands if each is not None]
            if given and all(isinstance(each, Numbers) for each in given):
                with np.errstate(all="ignore"):
                    folded = known.fold(call, given)  # type: ignore[arg-type]
                if folded is not None:
                    return folded if isinstance(folded, list) else [folded]
            function = operator_of(step.domain, step.operator)
            assert function is not None
            found = function(call)
        except BurnishError:
            raise
        except _RAISED as error:
            kind = CaptureError if self.exporting else InvalidModelError
            line = str(error).strip().split("\n", 1)[0] or type(error).__name__
            raise kind(f"{step.label} cannot be computed: {line}") from error
        return list(found) if isinstance(found, tuple | list) else [found]
