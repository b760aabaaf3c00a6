"""A step program as a launch plan: each node by its kernel, or by its ATen reference, which is reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from burnish.codegen.plan.launches import HostFunctions, Launchable
from burnish.codegen.plan.recorder import Recorder, recording
from burnish.codegen.plan.regimes import Regime, SymbolicSizes
from burnish.ir.cost import is_view
from burnish.ir.errors import InvalidProgramError, UnsupportedError
from burnish.ir.position_table import PositionTable
from burnish.ir.program import Program, describe
from burnish.ir.traits import traits
from burnish.runtime.plan import Call, Launch, Plan, Result, Variant


def plan(program: Program, functions: HostFunctions, regimes: Sequence[Regime]) -> tuple[Plan, dict[str, Launchable]]:
    """The plan of a step program with a variant for each regime, and its kernels by key.

    Raises UnsupportedError where a node can be run neither by a kernel nor by its op from data alone.
    """
    program = _with_late_writes(program)
    specs: dict[str, Launchable] = {}
    variants = []
    for regime in regimes:
        variant, found = _variant(program, functions, regime)
        variants.append(variant)
        specs |= found
    return Plan(variants, {key: spec.data() for key, spec in specs.items()}), specs


def _with_late_writes(program: Program) -> Program:
    """A copy in which a state that nobody reads again in the step is written last, when none needs the old one.

    The order alone is another: what a state is when it is read, and whether it can be written in place, hangs on it.
    """
    program = program.copy()
    output = program.output
    for node in list(program.graph.nodes):
        if traits(node.target).writes and set(node.users) == {output}:
            output.prepend(node)
    return program


def fallbacks(plan: Plan) -> dict[str, str]:
    """The nodes that have no kernel, and why."""
    return {step.node: step.reason for variant in plan.variants for step in variant.all_steps if isinstance(step, Call)}


def _variant(program: Program, functions: HostFunctions, regime: Regime) -> tuple[Variant, dict[str, Launchable]]:
    sizes = SymbolicSizes.of(regime)
    recorder = Recorder(functions.copy, sizes.names, regime.typical)
    with enable_python_dispatcher(), FakeTensorMode(shape_env=sizes.environment), torch.no_grad():
        inputs = _inputs(program, sizes.by_name, recorder)
        values: dict[fx.Node, Any] = dict(inputs)
        wanted = program.results
        last = [node for node in wanted.values() if set(node.users) == {program.output}]
        for node in program.graph.nodes:
            if node.op == "call_function" and node not in last:
                values[node] = _run(node, values, functions, recorder)
        _copy_states(program, inputs, [values[state] for state in program.new_states], recorder)
        steps = list(recorder.steps)
        results = {name: _result(node, values, functions, recorder) for name, node in wanted.items()}
    used = {step.kernel: recorder.specs[step.kernel] for step in recorder.steps if isinstance(step, Launch)}
    return Variant(sizes.ranges, steps, recorder.temporaries(), recorder.zeros, results), used


def _inputs(program: Program, sizes: Mapping[str, Any], recorder: Recorder) -> dict[fx.Node, torch.Tensor]:
    """A fake for each placeholder and weight."""
    values: dict[fx.Node, torch.Tensor] = {}
    inputs = [(f"input {each.name}", each.name, each.axes, each.dtype) for each in program.signature.inputs]
    states = [(f"state {each.name}", each.name, each.shape, each.dtype) for each in program.states]
    for buffer, name, axes, dtype in inputs + states:
        shape = [sizes[size] if isinstance(size, str) else size for size in axes]
        values[program.inputs[name]] = tensor = torch.empty(shape, dtype=dtype)
        recorder.name_buffer(tensor, buffer)
    for node in program.graph.nodes:
        if node.op == "get_attr":
            weight = program.weights[program.weight_of(node)]
            # Of a table of positions there are as many rows as the states have room for tokens.
            table = isinstance(weight, PositionTable)
            shape = [sizes["capacity"], *weight.shape[1:]] if table else list(weight.shape)
            values[node] = torch.empty(shape, dtype=weight.dtype)
            recorder.name_buffer(values[node], f"weight {program.weight_of(node)}")
    return values


def _result(node: fx.Node, values: Mapping[fx.Node, Any], functions: HostFunctions, recorder: Recorder) -> Result:
    """What `node` gives, and the steps that make it if none did yet."""
    start = len(recorder.steps)
    tensor = values[node] if node in values else _run(node, values, functions, recorder)
    return Result(recorder.steps[start:], recorder.reference(tensor))


def _run(node: fx.Node, values: Mapping[fx.Node, Any], functions: HostFunctions, recorder: Recorder) -> Any:
    """The node's fake result, after noting how it is made."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    assert callable(node.target)
    recorder.node = node.name
    if is_view(node) or not any(isinstance(each, torch.Tensor) for each in tree_leaves((args, kwargs))):
        recorder.reason = "what it reads lies in memory in another order"
        return recording(recorder, node.target, *args, **kwargs)
    kernel = functions.by_op.get(node.target)
    if kernel is None:
        return _call(node, args, kwargs, recorder, f"there is no kernel for {node.target}")
    mark = recorder.mark()
    recorder.reason = f"the kernel for {node.target} reads another order in memory"
    try:
        _check_in_place(node)
        return recording(recorder, kernel, *args, **kwargs)
    except UnsupportedError as reason:
        recorder.back_to(mark)
        return _call(node, args, kwargs, recorder, str(reason))


def _call(node: fx.Node, args: Any, kwargs: Any, recorder: Recorder, reason: str) -> Any:
    """By the node's own op."""
    assert callable(node.target)
    try:
        results = node.target(*args, **kwargs)
    except Exception as error:
        raise InvalidProgramError(f"{describe(node)} cannot be planned: {error}") from error
    tensors = [each for each in tree_leaves(results) if isinstance(each, torch.Tensor)]
    if not all(recorder.knows(each) for each in tensors):
        recorder.reason = reason
        recorder.call(node.target, args, kwargs, results)
    return results


def _check_in_place(node: fx.Node) -> None:
    """Raise UnsupportedError if a later node reads a state as it was before `node` writes it."""
    places = traits(node.target).writes
    old = [argument for place in places if isinstance(argument := node.args[place], fx.Node)]
    for reader in old:  # grows: a view of the state is the state
        for user in reader.users:
            if is_view(user):
                old.append(user)
            elif user is not node and node < user:
                raise UnsupportedError(f"{user.name} reads the state as it was before {node.name} writes it")


def _copy_states(
    program: Program, inputs: Mapping[fx.Node, torch.Tensor], outputs: list[torch.Tensor], recorder: Recorder
) -> None:
    """What is not in its state's memory by now goes there, after all else was read."""
    moves: list[tuple[torch.Tensor, torch.Tensor]] = []
    for node, output in zip(program.state_inputs, outputs, strict=True):
        recorder.node, state = node.name, inputs[node]
        if output is state:
            continue
        if recorder.buffer_of(output).startswith("state "):  # another state, that may be overwritten before
            output = recording(recorder, torch.clone, output)
        moves.append((state, output))
    for state, output in moves:
        try:
            recording(recorder, recorder.copy, output, state)
        except UnsupportedError as reason:
            recorder.reason = f"the new state was made elsewhere, and {reason}"
            recorder.call(torch.ops.aten.alias.default, (output,), {}, state)
