"""Anything that is no language model -> `Program`, and inputs that it was tried with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from burnish.frontend.capture import evaluating
from burnish.frontend.graph_capture import arguments, capture_graph, graph_of
from burnish.ir.errors import CaptureError, InvalidModelError, UsageError
from burnish.ir.graph_inputs import difference_of, inputs_of, several_sizes, told
from burnish.ir.interpreter import run_by_name, without_assertions
from burnish.ir.program import Program

_log = logging.getLogger(__name__)

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
    if isinstance(model, nn.Module):
        program = capture_graph(model, examples, dynamic_shapes)
        leaves, structure = pytree.tree_flatten(examples)
        named = _named(program, leaves)

        def call(inputs: Mapping[str, Tensor]) -> Any:
            tensors = iter(inputs.values())
            given = [next(tensors) if isinstance(each, Tensor) else each for each in leaves]
            args, kwargs = arguments(pytree.tree_unflatten(given, structure))
            return model(*args, **kwargs)

        with evaluating(model), torch.no_grad():
            check_sizes(program, call, named)
        return GraphSource(program, type(model).__name__, named)
    raise InvalidModelError(
        f"{type(model).__name__} is no module that burnish reads with example_inputs: give an nn.Module or an "
        "ExportedProgram"
    )


def check_sizes(program: Program, call: Callable[[Mapping[str, Tensor]], Any], examples: Mapping[str, Tensor]) -> None:
    """CaptureError unless the trace gives what the model gives at other sizes than the example's.

    Sizes that the model itself does not take are taken out of those that the program has, in place.
    """
    trace = without_assertions(program)
    ranges = program.details["ranges"]
    for name, (least, most) in ranges.items():
        ranges[name] = max(least, 1), most
    for sizes in several_sizes(program):
        inputs = inputs_of(program, sizes, examples)
        if inputs is None:
            continue
        found = run_by_name(trace, inputs, program.interface.outputs)
        try:
            wanted = [each for each in pytree.tree_leaves(call(inputs)) if isinstance(each, Tensor)]
        except Exception as error:  # whatever the model's own code may raise
            for name, size in sizes.items():
                if size == ranges[name][0] == 1:
                    _log.warning("the module itself does not take %s: %s", told(sizes), error)
                    ranges[name] = 2, ranges[name][1]
            continue
        for (name, one), other in zip(found.items(), wanted, strict=True):
            if not difference_of(one, other) <= _TOLERANCE:
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
