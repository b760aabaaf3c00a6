"""Anything that is no language model -> `Program`, and inputs that it was tried with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.utils import _pytree as pytree

from burnish.frontend import opened_onnx
from burnish.frontend.capture import evaluating
from burnish.frontend.graph_capture import arguments, capture_graph, graph_of
from burnish.ir.errors import (
    BurnishError,
    CaptureError,
    InvalidModelError,
    InvalidProgramError,
    UnsupportedError,
    UsageError,
)
from burnish.ir.graph_inputs import difference_of, inputs_of, several_sizes, told
from burnish.ir.interpreter import run_by_name, without_assertions
from burnish.ir.program import Program

_log = logging.getLogger(__name__)

_TRACES = 3  # of one file, with inputs of other sizes
_TOLERANCE = 1e-3  # of an output's largest number


@dataclass(frozen=True)
class GraphSource:
    """A program, what it is called, and inputs for it, by placeholder."""

    program: Program
    name: str
    examples: Mapping[str, Tensor]


def read_graph(model: Any, examples: Any, dynamic_shapes: Any = None) -> GraphSource:
    """Read a module or an exported program. For the arguments and errors see `burnish.compile`."""
    if isinstance(model, ExportedProgram):
        if dynamic_shapes is not None:
            raise UsageError("the axes of an ExportedProgram are dynamic as it was exported: leave out dynamic_shapes")
        program = graph_of(model)
        if examples is None:
            examples = model.example_inputs
        if examples is None:
            raise UsageError("this ExportedProgram has no example inputs: give example_inputs=")
        given = pytree.tree_leaves(examples)
        return GraphSource(program, "exported", _named(program, given))
    if isinstance(model, str | Path):
        from burnish.frontend.onnx import OnnxModule

        path = Path(model)
        return _read_onnx(OnnxModule.from_file(path), path.stem, examples, dynamic_shapes)
    if (onnx := opened_onnx(model)) is not None:
        try:
            return _read_onnx(onnx.module, onnx.path.stem, examples, dynamic_shapes)
        except UsageError as error:
            raise UsageError(f"{error}. It is no language model, as {onnx.reason}") from error
    if isinstance(model, torch.jit.ScriptModule):
        raise InvalidModelError("a module of TorchScript has no Python to be traced: give the nn.Module that it was")
    if isinstance(model, nn.Module):
        program = capture_graph(model, examples, dynamic_shapes)
        return _checked(program, model, examples, type(model).__name__)
    raise InvalidModelError(
        f"{type(model).__name__} is no module that burnish reads with example_inputs: give an nn.Module or an "
        "ExportedProgram"
    )


def _read_onnx(module: Any, name: str, examples: Any, dynamic_shapes: Any) -> GraphSource:
    """A file's graph: axes that it leaves open stay so, but for those that the graph itself makes numbers."""
    if dynamic_shapes is not None:
        raise UsageError("the axes of an ONNX file are dynamic as it says: leave out dynamic_shapes")
    given, program = _traced(module, None if examples is None else _by_argument(module, examples))
    for declared, spec in zip(program.interface.inputs, module.inputs, strict=True):
        for place, (axis, size) in enumerate(zip(declared.axes, spec.shape or (), strict=False)):
            if isinstance(axis, int) and not isinstance(size, int):
                _log.warning(
                    "axis %d of the input %s is open in the file, and its graph is for %d", place, spec.name, axis
                )
    return _checked(program, module, given, name, of_file=True)


def _traced(module: Any, given: dict[str, Tensor] | None) -> tuple[dict[str, Tensor], Program]:
    """The program of an ONNX model and the inputs that it was traced with: those given, or the first that do."""
    from burnish.frontend.onnx.examples import examples_for

    names = [each.name for each in module.inputs], [each.name for each in module.outputs]
    automatic = {
        spec.argument: {axis: Dim.AUTO for axis, size in enumerate(spec.shape or ()) if not isinstance(size, int)}
        for spec in module.inputs
    }
    failure: BurnishError | None = None
    for each in [given] if given is not None else islice(examples_for(module), _TRACES):
        for shapes in (module.dynamic_shapes(), automatic):
            try:
                return each, capture_graph(module, each, shapes, *names)
            except (CaptureError, UnsupportedError) as error:
                _log.info("a trace of the model failed: %s", error)
                failure = error
    assert failure is not None
    raise failure


def _by_argument(module: Any, examples: Any) -> dict[str, Tensor]:
    """Example inputs of an ONNX model by argument, from a dict by name or a sequence in order."""
    specs = module.inputs
    if not isinstance(examples, Mapping):
        given = [examples] if isinstance(examples, Tensor) else list(examples)
        if len(given) != len(specs):
            raise UsageError(f"example_inputs has {len(given)} tensors, and the model takes {len(specs)}")
        examples = {spec.name: value for spec, value in zip(specs, given, strict=True)}
    known = {spec.name: spec.argument for spec in specs} | {spec.argument: spec.argument for spec in specs}
    if unknown := [name for name in examples if name not in known]:
        takes = ", ".join(map(str, specs))
        raise UsageError(f"example_inputs has {unknown[0]!r}, and the model takes {takes}")
    return {known[name]: torch.as_tensor(value) for name, value in examples.items()}


def _checked(program: Program, module: nn.Module, examples: Any, name: str, of_file: bool = False) -> GraphSource:
    """The source, after comparing the program with the module at the sizes that it has."""
    leaves, structure = pytree.tree_flatten(examples)
    named = _named(program, leaves)

    def call(inputs: Mapping[str, Tensor]) -> Any:
        tensors = iter(inputs.values())
        given = [next(tensors) if isinstance(each, Tensor) else each for each in leaves]
        args, kwargs = arguments(pytree.tree_unflatten(given, structure))
        return module(*args, **kwargs)

    with evaluating(module), torch.no_grad():
        check_sizes(program, call, named, of_file)
    return GraphSource(program, name, named)


def check_sizes(
    program: Program,
    call: Callable[[Mapping[str, Tensor]], Any],
    examples: Mapping[str, Tensor],
    of_file: bool = False,
) -> None:
    """CaptureError unless the trace gives what the model gives at other sizes than the example's.

    Sizes that the model itself does not take are taken out of those that the program has, in place.
    """
    trace = without_assertions(program)
    ranges = program.details["ranges"]
    widened = {name for name, (least, _) in ranges.items() if of_file and least == 2}
    for name, (least, most) in ranges.items():
        ranges[name] = 1 if name in widened else max(least, 1), most  # torch.export leaves 1 out where it chose
    for place, sizes in enumerate(several_sizes(program)):
        inputs = inputs_of(program, sizes, examples)
        if inputs is None:
            continue
        try:
            wanted = [each for each in pytree.tree_leaves(call(inputs)) if isinstance(each, Tensor)]
        except Exception as error:  # whatever the model's own code may raise
            for name, size in sizes.items():
                if size == ranges[name][0] == 1:
                    _log.warning("the module itself does not take %s: %s", told(sizes), error)
                    ranges[name] = 2, ranges[name][1]
            continue
        narrow = [name for name in widened if sizes[name] == 1]
        try:
            found = run_by_name(trace, inputs, program.interface.outputs)
        except InvalidProgramError:
            if not narrow:
                raise
            ranges[narrow[0]] = 2, ranges[narrow[0]][1]
            continue
        for (name, one), other in zip(found.items(), wanted, strict=True):
            if difference_of(one, other) <= _TOLERANCE:
                continue
            if narrow:
                ranges[narrow[0]] = 2, ranges[narrow[0]][1]
                break
            if place == 0:  # of the examples themselves
                raise CaptureError(
                    f"the trace gives another {name} for example_inputs than the module: its forward draws random "
                    "numbers, or gives something else from call to call"
                )
            raise CaptureError(
                f"the forward branches on a size, and the trace has one branch, which gives another {name} for "
                f"{told(sizes)} than the module: say with tensor operations what differs, or leave that axis out "
                "of dynamic_shapes"
            )


def _named(program: Program, leaves: list[Any]) -> dict[str, Tensor]:
    """Example inputs by placeholder."""
    tensors = [each.detach() for each in leaves if isinstance(each, Tensor)]
    names = [each.name for each in program.interface.inputs]
    if len(tensors) != len(names):
        raise UsageError(f"example_inputs has {len(tensors)} tensors, and the program takes {len(names)}")
    return dict(zip(names, tensors, strict=True))
