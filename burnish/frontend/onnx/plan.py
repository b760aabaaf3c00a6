"""A model as steps: attributes decoded, what is constant computed, branches that are never taken left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from burnish.frontend.onnx.call import Call, Graph, Step, Value
from burnish.frontend.onnx.checks import STANDARD
from burnish.frontend.onnx.numbers import MOST, Numbers
from burnish.frontend.onnx.operators import known, operator_of
from burnish.frontend.onnx.operators.shape import constant
from burnish.frontend.onnx.origins import origin_of
from burnish.frontend.onnx.spelling import safe_softmaxes
from burnish.frontend.onnx.tensors import Reader, as_tensor
from burnish.ir.errors import BurnishError, InvalidModelError, UnsupportedError

_SCALARS = (ir.AttributeType.INT, ir.AttributeType.FLOAT, ir.AttributeType.STRING)
_LISTS = (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS)
_MOST_STEPS = 1_000_000


class Planner:
    """Makes a `Graph` of a model; weights are read as they are met."""

    def __init__(self, model: ir.Model, fixed: Mapping[str, torch.Tensor]) -> None:
        self._opsets = {
            "" if domain in STANDARD else domain: version for domain, version in model.graph.opset_imports.items()
        }
        self._reader = Reader()
        self._names: dict[int, str] = {}
        self._taken: set[str] = set()
        self._fixed = fixed
        self.constants: dict[str, Value] = {}
        self._model = model

    def plan(self) -> Graph:
        """The model's graph, without what nothing needs. Raises UnsupportedError for an operator that is not taken."""
        graph = self._model.graph
        for value in graph.inputs:  # whose names stay what they are
            self._name(value)
        for value in graph.initializers.values():
            self._name(value)
        whole = self._graph(graph)
        steps = safe_softmaxes(whole.steps, self.constants)
        kept = _needed(steps, whole.outputs)
        used = {name for step in kept for name in _reads(step)} | set(whole.outputs)
        for step in _all_steps(kept):
            if operator_of(step.domain, step.operator) is None:
                version = f" of version {step.version}" if step.version else ""
                raise UnsupportedError(f"{step.label}: this operator{version} is not supported")
        constants = {name: value for name, value in self.constants.items() if name in used}
        return replace(whole, steps=kept, constants=constants)

    # ---------------------------------------------------------------- values

    def _name(self, value: ir.Value | None) -> str:
        """A name that no other value has."""
        if value is None or (value.name == "" and value.producer() is None):
            return ""
        found = self._names.get(id(value))
        if found is None:
            plain = value.name or "value"
            found, number = plain, 1
            while found in self._taken:
                number += 1
                found = f"{plain}#{number}"
            self._taken.add(found)
            self._names[id(value)] = found
        return found

    def _initializers(self, graph: ir.Graph) -> None:
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None:
                raise InvalidModelError(f"the tensor {value.name!r} has no value")
            where = f"the tensor {value.name!r}"
            self.constants[self._name(value)] = self._constant(tensor, where)

    def _constant(self, tensor: ir.TensorProtocol, where: str) -> Value:
        array, dtype = self._reader.array(tensor, where)
        if array.size <= MOST and array.dtype.kind in "biuf":
            return Numbers(np.array(array), dtype)
        return as_tensor(array, dtype)

    # ---------------------------------------------------------------- graphs

    def _graph(self, graph: ir.Graph) -> Graph:
        self._initializers(graph)
        for value in graph.inputs:
            tensor = self._fixed.get(value.name or "")
            if tensor is not None and graph is self._model.graph:
                self.constants[self._name(value)] = constant(tensor)
        initialized = {id(value) for value in graph.initializers.values()}
        inputs = tuple(
            self._name(value)
            for value in graph.inputs
            if id(value) not in initialized and self._name(value) not in self.constants
        )
        steps: list[Step] = []
        for node in _in_order(graph):
            self._add(node, steps)
        outputs = tuple(self._name(value) for value in graph.outputs)
        return Graph(graph.name or "", inputs, outputs, tuple(steps), {})

    def _add(self, node: ir.Node, steps: list[Step]) -> None:
        """The steps that a node is: none if it is a constant, those of its branch if that is known."""
        domain = "" if node.domain in STANDARD else node.domain
        inputs = tuple(self._name(value) for value in node.inputs)
        outputs = tuple(self._name(value) if value.name != "" else "" for value in node.outputs)
        name = node.name or next((each for each in outputs if each), "")
        if len(self._taken) > _MOST_STEPS:
            raise InvalidModelError(f"the graph has more than {_MOST_STEPS} values")
        branch = self._branch(node, inputs)
        if branch is not None:
            found = self._graph(branch)
            steps += found.steps
            for source, target in zip(found.outputs, outputs, strict=False):
                self._alias(source, target, name, steps)
            return
        kinds = tuple(value.dtype if value is not None else None for value in node.inputs)
        step = Step(
            name,
            domain,
            node.op_type,
            self._opsets.get(domain, 1),
            inputs,
            outputs,
            {},
            origin_of(node),
            kinds,
        )
        attributes = {each.name: self._attribute(each, step) for each in node.attributes.values()}
        step = replace(step, attributes={key: value for key, value in attributes.items() if value is not None})
        if not self._fold(step):
            steps.append(step)

    def _alias(self, source: str, target: str, name: str, steps: list[Step]) -> None:
        if source in self.constants:
            self.constants[target] = self.constants[source]
        else:
            steps.append(Step(name, "", "Identity", 1, (source,), (target,), {}, ("", "", "", 0, name)))

    def _branch(self, node: ir.Node, inputs: tuple[str, ...]) -> ir.Graph | None:
        """The body of an If whose condition is a constant."""
        if node.op_type != "If" or node.domain not in STANDARD or not inputs:
            return None
        condition = self.constants.get(inputs[0])
        if not isinstance(condition, Numbers) or condition.array.size != 1:
            return None
        body = node.attributes.get("then_branch" if bool(condition.list[0]) else "else_branch")
        if body is None or body.type is not ir.AttributeType.GRAPH:
            return None
        graph = body.as_graph()
        return graph if len(graph.outputs) == len(node.outputs) else None

    def _attribute(self, attribute: ir.Attr, step: Step) -> Any:
        kind = attribute.type
        value = attribute.value
        if attribute.is_ref():
            return None  # of a function's parameter that was not given
        if kind in _SCALARS:
            return value
        if kind in _LISTS:
            return list(value)
        if kind is ir.AttributeType.TENSOR:
            where = f"the tensor {attribute.name!r} of {step.label}"
            if value.dtype is ir.DataType.STRING:
                raise UnsupportedError(f"{where}: texts are not supported")
            found = self._constant(value, where)
            return found if isinstance(found, Numbers) else Numbers(np.asarray(found), found.dtype, found)
        if kind is ir.AttributeType.GRAPH:
            return self._graph(value)
        raise UnsupportedError(f"{step.label}: its attribute {attribute.name} is of the kind {kind.name}")

    def _fold(self, step: Step) -> bool:
        """Whether what a step makes is known; then it is a constant from here on."""
        operands = [self.constants.get(name) if name else None for name in step.inputs]
        if step.operator == "Constant" and step.domain == "" and len(step.outputs) == 1:
            function = operator_of("", "Constant")
            assert function is not None
            found: Any = function(Call(step, (), _no_body))
            self.constants[step.outputs[0]] = found.stored if found.array.size > MOST else found
            return True
        if not step.inputs or any(
            name and not isinstance(x, Numbers) for name, x in zip(step.inputs, operands, strict=True)
        ):
            return False
        numbers = [x for x in operands if isinstance(x, Numbers)]
        try:
            with np.errstate(all="ignore"):
                found = known.fold(Call(step, tuple(operands), _no_body), numbers) if numbers else None
        except BurnishError:
            raise
        except (ValueError, TypeError, IndexError, OverflowError) as error:
            raise InvalidModelError(f"{step.label} cannot be computed: {error}") from error
        if found is None:
            return False
        results = found if isinstance(found, list) else [found]
        if len(results) < len(step.outputs):
            return False
        for name, value in zip(step.outputs, results, strict=False):
            if name:
                self.constants[name] = value
        return True


def _no_body(graph: Graph, values: Any) -> list[Value]:
    raise AssertionError("constants have no bodies")


def _in_order(graph: ir.Graph) -> Iterable[ir.Node]:
    """Nodes after what they read. The checks found no cycle."""
    nodes = list(graph)
    place = {id(value): index for index, node in enumerate(nodes) for value in node.outputs}
    if all(
        place.get(id(value), -1) < index
        for index, node in enumerate(nodes)
        for value in (*node.inputs, *_captured(node))
        if value is not None
    ):
        return nodes
    graph.sort()
    return list(graph)


def _captured(node: ir.Node) -> Iterable[ir.Value]:
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            for inner in attribute.as_graph().all_nodes():
                yield from (value for value in inner.inputs if value is not None)
            yield from attribute.as_graph().outputs


def _bodies(step: Step) -> Iterable[Graph]:
    return (each for each in step.attributes.values() if isinstance(each, Graph))


def _reads(step: Step) -> set[str]:
    """What a step and its bodies read, of what is outside of it."""
    found = {name for name in step.inputs if name}
    for body in _bodies(step):
        found |= {name for inner in body.steps for name in _reads(inner)} | set(body.outputs)
    return found


def _all_steps(steps: Iterable[Step]) -> Iterable[Step]:
    for step in steps:
        yield step
        for body in _bodies(step):
            yield from _all_steps(body.steps)


def _needed(steps: tuple[Step, ...], outputs: Iterable[str]) -> tuple[Step, ...]:
    """The steps that lead to the outputs."""
    wanted, kept = set(outputs), []
    for step in reversed(steps):
        if wanted & set(step.outputs):
            kept.append(step)
            wanted |= _reads(step)
    return tuple(reversed(kept))


def last_uses(graph: Graph) -> list[list[str]]:
    """For each step the values that nothing reads after it."""
    seen, found = set(graph.outputs), []
    for step in reversed(graph.steps):
        names = (_reads(step) | set(step.outputs)) - seen - {""}
        seen |= names
        found.append([name for name in names if name not in graph.constants])
    return found[::-1]
