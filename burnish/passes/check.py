"""The cheap checks, always on: a program keeps the rules of the language after each pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from burnish.ir.errors import InvalidProgramError, UsageError
from burnish.ir.infer import fake_mode, inferred
from burnish.ir.labels import Along
from burnish.ir.program import STEP_INPUTS, Program, Stage, describe, operands
from burnish.ir.serialize import check_target
from burnish.ir.states import StateKind
from burnish.ir.text import call_text, type_text
from burnish.ir.trace import NodeRecord
from burnish.ir.traits import traits
from burnish.passes.analyses.axis_labels import AxisLabels

aten = torch.ops.aten


def check(program: Program, pass_name: str) -> None:
    """InvalidProgramError if the program breaks a rule: order, types, weights, states, the ops of its stage."""

    def fail(what: str) -> InvalidProgramError:
        return InvalidProgramError(f"after the pass {pass_name}: {what}. This is a bug in the pass; please report it")

    for size, name, what in zip(
        program.tokens.meta["val"].shape, (program.batch, program.sequence), ("rows", "tokens"), strict=True
    ):
        if str(size) != name:
            raise fail(f"the number of {what} is no longer any number, but {size}")
    seen: set[fx.Node] = set()
    for node in program.graph.nodes:
        for argument in node.all_input_nodes:
            if argument not in seen:
                raise fail(f"{describe(node)} reads {argument.name}, which comes later")
        seen.add(node)
        if node.op == "get_attr":
            _check_weight(program, node, fail)
        elif node.op not in ("placeholder", "call_function", "output"):
            raise fail(f"{node.name} is a {node.op}, which the language does not have")
        if node.op != "output" and "val" not in node.meta:
            raise fail(f"{describe(node)} has no type")
    names, given = program.signature.outputs, operands(program.output)[0]
    if len(given) != len(names) + len(program.states):
        raise fail(f"{len(given)} outputs for {', '.join(names)} and {len(program.states)} states")
    for name, dtype, rank in (("ids", torch.int64, 2), ("top", torch.int32, 4)):
        found = program.results[name].meta["val"] if name in names else None
        if found is not None and (found.dtype, found.dim()) != (dtype, rank):
            raise fail(f"the output {name} is {found.dtype} of {found.dim()} axes, not {dtype} of {rank}")
    declared = [*(each.name for each in program.signature.inputs), *(state.name for state in program.states)]
    if list(program.inputs) != declared:
        raise fail(f"the inputs are {', '.join(program.inputs)}, and not those declared: {', '.join(declared)}")
    for each in program.signature.inputs:
        val = program.inputs[each.name].meta["val"]
        if (val.dtype, val.dim()) != (each.dtype, len(each.axes)):
            raise fail(f"the input {each.name} is {val.dtype} of {val.dim()} axes, not {each.dtype}{list(each.axes)}")
    if program.stage is Stage.INCREMENTAL:
        for node in program.graph.nodes:
            if node.op == "call_function":
                _check_step(node, fail)


def _check_weight(program: Program, node: fx.Node, fail: Any) -> None:
    if str(node.target) not in program.weights:
        raise fail(f"{node.name} reads the weight {node.target!r}, which does not exist")
    weight, val = program.weights[str(node.target)], node.meta["val"]
    if tuple(weight.shape) != tuple(val.shape) or weight.dtype != val.dtype:
        raise fail(
            f"the weight {node.target!r} is {weight.dtype} {list(weight.shape)}, but the graph reads it as {val.dtype} "
            f"{list(val.shape)}"
        )


def _check_step(node: fx.Node, fail: Any) -> None:
    check_target(node)
    known = traits(node.target)
    whole_only = known.state is not None and known.state.kind is StateKind.WINDOW
    if whole_only or node.target is aten.scaled_dot_product_attention.default:
        raise fail(f"{describe(node)} is left, which a step cannot run on the new tokens alone")
    place = known.position
    if place is not None and (len(node.args) <= place or not isinstance(node.args[place], fx.Node)):
        raise fail(f"{describe(node)} does not know the position of the new tokens")


def check_stage(program: Program) -> None:
    """UsageError if the passes that brought a program to its stage left one out that makes what the stage promises."""
    if program.stage is Stage.INCREMENTAL:
        missing = [each.name for each in STEP_INPUTS if each not in program.signature.inputs]
        if missing:
            names = ", ".join(each.name for each in STEP_INPUTS)
            raise UsageError(
                f"a step program has the inputs {names}, and this one has no {missing[0]}: fold-positions, "
                "select-logits and insert-states make one of a whole program, in this order"
            )
        AxisLabels(program, Along.KEPT)  # nothing behind the tokens that are picked needs their neighbours


def check_types(
    program: Program, pass_name: str, before: Sequence[NodeRecord], after: Sequence[NodeRecord], symbols: dict[str, str]
) -> None:
    """InvalidProgramError if a node that the pass gave other arguments no longer has the type that it is said to have.

    New nodes are typed as they are made; the rest is as it was.
    """
    calls = {record.name: record.call for record in before}
    changed = {
        record.name
        for record in after
        if record.op == "call_function" and calls.get(record.name, record.call) != record.call
    }
    if not changed:
        return
    types = {record.name: record.type for record in after}
    mode = fake_mode(program)
    known: set[tuple[str, str]] = set()  # layers are alike: what holds for one holds for the others
    for node in program.graph.nodes:
        if node.name not in changed:
            continue
        key = call_text(node, lambda read: types[read.name]), types[node.name]
        if key in known:
            continue
        known.add(key)
        found, said = inferred(node, mode), node.meta["val"]
        if not _same_type(found, said):
            raise InvalidProgramError(
                f"after the pass {pass_name}: {describe(node)} gives {type_text(found, symbols)}, but is said to give "
                f"{type_text(said, symbols)}. This is a bug in the pass; please report it"
            )


def _same_type(found: Any, said: Any) -> bool:
    """Whether two fake values agree in dtype, rank and every size that is a number in both."""
    if isinstance(found, tuple | list) and isinstance(said, tuple | list):
        return len(found) == len(said) and all(_same_type(*pair) for pair in zip(found, said, strict=True))
    if not (isinstance(found, torch.Tensor) and isinstance(said, torch.Tensor)):
        return True  # sizes
    sizes = zip(found.shape, said.shape, strict=False)
    differ = any(isinstance(one, int) and isinstance(two, int) and one != two for one, two in sizes)
    return found.dtype == said.dtype and found.dim() == said.dim() and not differ
