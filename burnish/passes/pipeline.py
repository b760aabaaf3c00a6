"""Runs passes in order: copies, times, records and checks, once for all passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from burnish.ir.cost import CostCounter
from burnish.ir.edit import remove_dead
from burnish.ir.errors import BurnishError, InvalidProgramError, NotCausalError, VerificationError
from burnish.ir.full_text import declarations
from burnish.ir.position_table import stored_bytes
from burnish.ir.program import Program, Stage
from burnish.ir.records import node_records
from burnish.ir.states import context_of
from burnish.ir.text import program_text, symbol_names
from burnish.ir.trace import Entry, PassRecord, Trace
from burnish.passes.base import Effect, Log, OutOfFuel, Pass
from burnish.passes.check import check, check_captured, check_clauses, check_stage, check_types, claim
from burnish.passes.raise_.attention import RaiseAttention
from burnish.passes.spelling import options_of
from burnish.passes.verify import Verifier

Observer = Callable[[PassRecord, Program], None]


@dataclass(frozen=True)
class Failure:
    """A pass that broke a rule or changed the numbers: all that is needed to see it again."""

    before: Program  # what the pass was given
    passes: tuple[Pass, ...]  # it, and those that were to come
    error: BurnishError
    rewrites: tuple[Entry, ...]  # that the pass made before


def run_passes(
    program: Program,
    passes: Sequence[Pass],
    trace: Trace,
    observer: Observer | None = None,
    *,
    verifier: Verifier | None = None,
    on_failure: Callable[[Failure], None] | None = None,
    fuel: int | None = None,
) -> Program:
    """The program after all of `passes`. Each gets a copy and leaves a record; the first is the input's.

    `observer` is told of each record, with its program. `verifier` compares each pass's before and after. `on_failure`
    is told of a failed check, or of a pass that ended in an error of its own, before that is raised. After `fuel`
    rewrites in all (None: no limit) the rest of the passes do not run; an atomic pass counts as one.
    """
    if not trace.passes:
        check_captured(program)
        graph = program.stage is Stage.GRAPH
        trace.context = 0 if graph else context_of(program.signature.max_length)
        trace.passes.append(_record(0, "captured", {}, Effect.EXACT, Log(), program, program, 0.0))
        if observer is not None:
            observer(trace.passes[0], program)
    for place, each in enumerate(passes):
        if fuel is not None and fuel <= 0:
            break
        copy = program.copy()
        log = Log(copy, len(trace.passes), None if each.atomic else fuel)
        try:
            after, record = _run_pass(each, program, copy, log, trace.passes[-1])
            if verifier is not None and each.effect is not Effect.LOSSY:
                record = replace(record, verification=verifier.compare(program, after, each))
        except (InvalidProgramError, VerificationError) as error:
            if on_failure is not None:
                on_failure(Failure(program, tuple(passes[place:]), error, tuple(log.rewrites)))
            raise
        except NotCausalError as error:
            raise NotCausalError(f"{error}{_unread_attention(trace)}") from error
        trace.passes.append(record)
        if observer is not None:
            observer(record, after)
        program = after
        if fuel is not None:
            fuel -= fuel_of(each, record)
    return program


def _run_pass(each: Pass, before: Program, program: Program, log: Log, last: PassRecord) -> tuple[Program, PassRecord]:
    """What a pass makes of `program`, a copy of `before`, checked; and its record."""
    started = time.perf_counter()
    number = last.number + 1
    ended = False
    try:
        with suppress(OutOfFuel):  # the rewrite that used it up is complete
            program = each.run(program, log)
            ended = True
    except BurnishError:
        raise
    except Exception as error:
        raise InvalidProgramError(
            f"the pass {each.name} failed: {type(error).__name__}: {error}. This is a bug in the pass; please report it"
        ) from error
    log.claim(-1)
    remove_dead(program)
    check(program, each.name)
    check_clauses(before, program, each.name, log, ended)
    if ended:
        claim(program, each.name)
    if program.stage is not before.stage:
        check_stage(program)
    seconds = time.perf_counter() - started
    record = _record(number, each.name, options_of(each), each.effect, log, before, program, seconds)
    check_types(program, each.name, last.nodes, record.nodes, symbol_names(program))
    return program, record


def _unread_attention(trace: Trace) -> str:
    """Why the first attention that was not read as one was not: what comes of that is seen later, and elsewhere."""
    for record in trace.passes:
        for entry in record.refusals if record.name == RaiseAttention.name else ():
            return f"\nWhat came first: {entry.where} was not read as attention: {entry.text}"
    return ""


def fuel_of(each: Pass, record: PassRecord) -> int:
    """How much fuel a pass used."""
    return min(1, len(record.rewrites)) if each.atomic else len(record.rewrites)


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
        weight_bytes=sum(stored_bytes(weight) for weight in after.weights.values()),
        bytes_a_token=sum(state.bytes_a_token for state in after.states),
        launches=sum(node.launches for node in nodes),
        bytes_moved=sum(node.bytes_moved for node in nodes),
        text=program_text(after),
        nodes=nodes,
        floor_bytes=CostCounter(after).floor(),
        declarations=declarations(after),
        stage=after.stage.value,
    )


def _ops(program: Program) -> int:
    return sum(node.op == "call_function" for node in program.graph.nodes)
