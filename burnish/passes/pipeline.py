"""Runs passes in order: copies, times, records and checks, once for all passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any

from torch import fx

from burnish.ir.edit import remove_dead
from burnish.ir.errors import InvalidProgramError
from burnish.ir.program import Program
from burnish.ir.records import node_records
from burnish.ir.text import program_text
from burnish.ir.trace import PassRecord, Trace
from burnish.ir.weights import nbytes
from burnish.passes.base import Effect, Log, OutOfFuel, Pass

Observer = Callable[[PassRecord], None]


def run_passes(
    program: Program, passes: Sequence[Pass], trace: Trace, observer: Observer | None = None, fuel: int | None = None
) -> Program:
    """The program after all of `passes`. Each gets a copy and leaves a record; the first is the input's.

    After `fuel` rewrites in all (None: no limit) the rest of the passes do not run; an atomic pass counts as one.
    """
    if not trace.passes:
        trace.passes.append(_record(0, "captured", {}, Effect.EXACT, Log(), program, program, 0.0))
    for each in passes:
        if fuel is not None and fuel <= 0:
            break
        started = time.perf_counter()
        after, log = run_pass(each, program, len(trace.passes), fuel)
        seconds = time.perf_counter() - started
        record = _record(len(trace.passes), each.name, _options(each), each.effect, log, program, after, seconds)
        trace.passes.append(record)
        if observer is not None:
            observer(record)
        program = after
        if fuel is not None:
            fuel -= fuel_of(each, record)
    return program


def run_pass(each: Pass, program: Program, number: int, fuel: int | None = None) -> tuple[Program, Log]:
    """The program after one pass that may make `fuel` rewrites, checked; and what the pass reports."""
    program = program.copy()
    log = Log(program, number, None if each.atomic else fuel)
    with suppress(OutOfFuel):  # the rewrite that used it up is complete
        program = each.run(program, log)
    log.claim(-1)
    remove_dead(program)
    check(program, each.name)
    return program, log


def fuel_of(each: Pass, record: PassRecord) -> int:
    """How much fuel a pass used."""
    return min(1, len(record.rewrites)) if each.atomic else len(record.rewrites)


def check(program: Program, pass_name: str) -> None:
    """InvalidProgramError if the program breaks a rule of the language: order, types, weights, states."""

    def fail(what: str) -> InvalidProgramError:
        return InvalidProgramError(f"after the pass {pass_name}: {what}. This is a bug in the pass; please report it")

    seen: set[fx.Node] = set()
    for node in program.graph.nodes:
        for argument in node.all_input_nodes:
            if argument not in seen:
                raise fail(f"{node.name} reads {argument.name}, which comes later")
        seen.add(node)
        if node.op == "get_attr" and str(node.target) not in program.weights:
            raise fail(f"{node.name} reads the weight {node.target!r}, which does not exist")
        if node.op not in ("placeholder", "get_attr", "call_function", "output"):
            raise fail(f"{node.name} is a {node.op}, which the language does not have")
        if node.op != "output" and "val" not in node.meta:
            raise fail(f"{node.name} has no type")
    outputs = program.output.args[0]
    assert isinstance(outputs, list | tuple)
    if len(outputs) != 1 + len(program.states):
        raise fail(f"{len(outputs)} outputs for logits and {len(program.states)} states")
    for state, placeholder in zip(program.states, program.placeholders[-len(program.states) :], strict=False):
        if program.states and state.name != placeholder.name:
            raise fail(f"the state {state.name} is not the input {placeholder.name}")


def _options(each: Pass) -> dict[str, str]:
    if not is_dataclass(each):
        return {}
    return {field.name: str(getattr(each, field.name)) for field in fields(each) if _plain(getattr(each, field.name))}


def _plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool)


def _record(
    number: int,
    name: str,
    options: dict[str, str],
    effect: Effect,
    log: Log,
    before: Program,
    after: Program,
    seconds: float,
) -> PassRecord:
    nodes = node_records(after)
    return PassRecord(
        number=number,
        name=name,
        options=options,
        effect=effect.value,
        rewrites=tuple(log.rewrites),
        refusals=tuple(log.refusals),
        notes=tuple(log.notes),
        nodes_before=_ops(before),
        nodes_after=_ops(after),
        seconds=seconds,
        weight_bytes=sum(nbytes(weight) for weight in after.weights.values()),
        bytes_a_token=sum(state.bytes_a_token for state in after.states),
        launches=sum(node.launches for node in nodes),
        bytes_moved=sum(node.bytes_moved for node in nodes),
        text=program_text(after),
        nodes=nodes,
    )


def _ops(program: Program) -> int:
    return sum(node.op == "call_function" for node in program.graph.nodes)
