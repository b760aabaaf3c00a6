"""The cheap checks, always on: after each pass a program keeps the rules of the language and of its stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
from torch import fx

from burnish.ir.errors import InvalidProgramError, UnsupportedError, UsageError
from burnish.ir.infer import fake_mode, inferred
from burnish.ir.labels import Along
from burnish.ir.program import Program, Stage, describe, operands
from burnish.ir.signature import STEP_INPUTS
from burnish.ir.spec import CAPTURED, RAISED, RAISED_BY, breaches, clauses_of
from burnish.ir.text import call_text, type_text
from burnish.ir.trace import NodeRecord
from burnish.passes.analyses.axis_labels import AxisLabels
from burnish.passes.base import Log


def check(program: Program, pass_name: str) -> None:
    """InvalidProgramError if the program breaks a rule that holds at every stage: order, types, weights, states."""

    def fail(what: str) -> InvalidProgramError:
        return _broken(pass_name, what)

    if program.stage is not Stage.GRAPH:
        sizes = program.tokens.meta["val"].shape
        for size, name, what in zip(sizes, (program.batch, program.sequence), ("rows", "tokens"), strict=True):
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
    names, given = program.interface.outputs, operands(program.output)[0]
    if len(given) != len(names) + len(program.states):
        raise fail(f"{len(given)} outputs for {', '.join(names)} and {len(program.states)} states")
    for name, dtype, rank in (("ids", torch.int64, 2), ("top", torch.int32, 4)):
        found = program.results[name].meta["val"] if name in names else None
        if found is not None and (found.dtype, found.dim()) != (dtype, rank):
            raise fail(f"the output {name} is {found.dtype} of {found.dim()} axes, not {dtype} of {rank}")
    declared = [*(each.name for each in program.interface.inputs), *(state.name for state in program.states)]
    if list(program.inputs) != declared:
        raise fail(f"the inputs are {', '.join(program.inputs)}, and not those declared: {', '.join(declared)}")
    for each in program.interface.inputs:
        val = program.inputs[each.name].meta["val"]
        if (val.dtype, val.dim()) != (each.dtype, len(each.axes)):
            raise fail(f"the input {each.name} is {val.dtype} of {val.dim()} axes, not {each.dtype}{list(each.axes)}")


def _broken(pass_name: str, what: str) -> InvalidProgramError:
    return InvalidProgramError(f"after the pass {pass_name}: {what}. This is a bug in the pass; please report it")


def _check_weight(program: Program, node: fx.Node, fail: Callable[[str], InvalidProgramError]) -> None:
    if str(node.target) not in program.weights:
        raise fail(f"{node.name} reads the weight {node.target!r}, which does not exist")
    weight, val = program.weights[str(node.target)], node.meta["val"]
    if tuple(weight.shape) != tuple(val.shape) or weight.dtype != val.dtype:
        raise fail(
            f"the weight {node.target!r} is {weight.dtype} {list(weight.shape)}, but the graph reads it as {val.dtype} "
            f"{list(val.shape)}"
        )


def check_captured(program: Program) -> None:
    """UnsupportedError if a program from a frontend is none that passes can work on."""
    if program.stage is not Stage.CAPTURED:
        return
    more = [node.name for node in program.placeholders[1:] if node.name != "logits_index"]
    if more:
        raise UnsupportedError(f"a captured program has one input, the tokens, and this one has {', '.join(more)}, too")
    read = (node for node in program.graph.nodes if node.users)
    for node, clause in breaches(program, read, CAPTURED):
        raise UnsupportedError(
            f"{describe(node)} {clause.told}, and burnish compiles programs whose operations all give new values: "
            "write it with such operations"
        )


def check_clauses(before: Program, after: Program, pass_name: str, log: Log, ended: bool) -> None:
    """InvalidProgramError if a program breaks the specification of its stage, by what a pass left or what it made.

    ended: the pass ran to its end, so that what it takes away is gone. What its `log` refuses may stay.
    """
    refused = {entry.node for entry in log.refusals}
    known = {(node.name, node.target) for node in before.graph.nodes}
    everywhere = [clause for clause in clauses_of(after.stage) if not clause.by]
    raising = () if after.stage.is_step else RAISED
    own = [clause for clause in raising if ended and clause.by == pass_name]
    gone = before.raised_by if before.stage in (Stage.CAPTURED, Stage.GRAPH) else RAISED_BY
    others = [clause for clause in raising if clause.by in gone and clause.by != pass_name]
    made = [node for node in after.graph.nodes if (node.name, node.target) not in known] if others else []
    left = breaches(after, after.graph.nodes, [*everywhere, *own])
    for node, clause in chain(left, breaches(after, made, others)):
        if clause.refusable and node.name in refused:
            continue
        what = f"{describe(node)} {clause.told}"
        if clause.by and clause.by != pass_name:
            what += f", and there are no new ones of these behind the pass {clause.by}"
        elif clause.by:
            what += ", and is left without a reason" if clause.refusable else ", and is left"
        raise _broken(pass_name, what)


def claim(program: Program, pass_name: str) -> None:
    """Note, in place, that a raising pass has run to its end; when all have, the program is raised."""
    if program.stage is Stage.CAPTURED and pass_name in RAISED_BY:
        program.raised_by |= {pass_name}
        if program.raised_by == RAISED_BY:
            program.stage = Stage.RAISED


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
