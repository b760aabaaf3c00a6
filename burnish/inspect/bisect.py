"""The first rewrite after which a check fails, found by halving: in about log2(rewrites) checks."""

from __future__ import annotations

import difflib
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from burnish.inspect.dump import save_dump
from burnish.inspect.stale_state import first_wrong_state
from burnish.ir.errors import BurnishError, UsageError
from burnish.ir.full_text import full_text
from burnish.ir.parse import parse_program
from burnish.ir.program import Program
from burnish.ir.text import node_text, symbol_names
from burnish.ir.trace import Entry, PassRecord, Trace
from burnish.passes.base import Effect, Pass
from burnish.passes.pipeline import Failure, fuel_of, run_passes
from burnish.passes.verify import TOLERANCES, Verifier, check_numbers, relative_difference

Check = Callable[[Program], str | None]  # what is wrong with a program; None if nothing is
Progress = Callable[[int, int, int], None]  # checks made, rewrites known to be good, rewrites known to be bad


@dataclass(frozen=True)
class Culprit:
    """The first bad rewrite."""

    pass_number: int
    pass_name: str
    rewrite: Entry
    place: int  # the first rewrite of all has place 1
    of: int  # how many there are
    reason: str  # what the check says after it
    difference: str  # the program before and after that one rewrite, as a diff of its nodes
    checks: int  # how often the check was asked


def numbers_check(captured: Program) -> Check:
    """Whether a program gives the logits of the one that was captured, up to the order of additions."""
    verifier = Verifier(captured)
    expected = list(verifier.logits(captured))
    for one in expected:
        check_numbers(one)
    tolerance = TOLERANCES[Effect.REASSOCIATES]

    def check(program: Program) -> str | None:
        if verifier.lengthen(program):
            expected[:] = verifier.logits(captured)
        for tokens, one, other in zip(verifier.tokens, verifier.logits(program), expected, strict=True):
            difference = relative_difference(one, other)
            if not bool((difference <= tolerance).all()):  # also true for NaN
                first = int((~(difference <= tolerance)).nonzero()[0])
                return (
                    f"the logits of {tokens.shape[0]} x {tokens.shape[1]} tokens are off by "
                    f"{float(difference.max()):.1e} of the largest (allowed: {tolerance:.0e}), first at token {first}"
                )
        return None

    return check


def command_check(command: str) -> Check:
    """Whether `command` ends with exit code 0, given the path of a dump of the program, its weights beside it."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UsageError(f"the command {command!r} cannot be split into words: {error}") from error
    if not words:
        raise UsageError("the command is empty")

    def check(program: Program) -> str | None:
        with tempfile.TemporaryDirectory(prefix="burnish-bisect-") as folder:
            dump = Path(folder) / "program.txt"
            save_dump(program, dump, with_weights=True)
            placed = [word.replace("{}", str(dump)) for word in words]
            if placed == words:
                placed.append(str(dump))
            try:
                ended = subprocess.run(placed, capture_output=True, text=True, check=False)
            except OSError as error:
                raise UsageError(f"the command {words[0]!r} cannot be run: {error.strerror or error}") from error
        if ended.returncode == 0:
            return None
        said = (ended.stderr or ended.stdout).strip().splitlines()
        return f"the command ended with exit code {ended.returncode}" + (f": {said[-1]}" if said else "")

    return check


def bisect(captured: Program, passes: Sequence[Pass], check: Check, progress: Progress | None = None) -> Culprit | None:
    """The first of all rewrites that `passes` make of `captured` after which `check` fails; None if it never does.

    First the pass is found among the programs after each, then the rewrite among those of the pass, which is stopped
    by its fuel. A pass that ends in an error counts as a failed check.
    """
    search = _Search(passes, check, progress)
    search.walk(captured)
    return search.culprit()


@dataclass(frozen=True)
class _Stop:
    """A program between two passes. Its text was written before later passes ran: these share what is known of the
    symbols of the sizes, and a bad one may settle them.
    """

    program: Program
    text: str
    rewrites: int  # made so far, in all passes

    def again(self) -> Program:
        """The same program with symbols of its own."""
        return parse_program(self.text, self.program.weights)


@dataclass(frozen=True)
class _Run:
    """One pass on one program, stopped after some rewrites."""

    program: Program | None  # None if it ended in an error
    record: PassRecord | None
    rewrites: tuple[Entry, ...]
    reason: str | None  # why it is bad; None if it is not


class _Search:
    def __init__(self, passes: Sequence[Pass], check: Check, progress: Progress | None) -> None:
        self.passes = list(passes)
        self.check = check
        self.progress = progress
        self.stops: list[_Stop] = []
        self.checks = 0

    def walk(self, captured: Program) -> None:
        """Run the passes, as far as they go, and keep the program after each."""
        self.stops = [_Stop(captured, full_text(captured), 0)]
        for each in self.passes:
            last = self.stops[-1]
            run = self._run(each, last.program, None)
            if run.program is None or run.record is None:
                break
            self.stops.append(_Stop(run.program, full_text(run.program), last.rewrites + fuel_of(each, run.record)))

    def culprit(self) -> Culprit | None:
        """The first bad rewrite of the first bad pass."""
        bad = self._first_bad_stop()
        if bad is None:
            return None
        each, before = self.passes[bad - 1], self.stops[bad - 1]
        whole = self._checked(self._run(each, before.again(), None))
        count = 1 if each.atomic else max(1, len(whole.rewrites))
        first, after = self._first_bad_rewrite(each, before, count, whole)
        if bad == 1 and first == 1:  # nothing was found to be good yet
            reason = self._reason(before.program)
            if reason is not None:
                raise UsageError(f"the check fails for the program as captured, before any pass: {reason}")
        start = before.program if first == 1 else self._run(each, before.again(), first - 1).program
        entry, difference = self._told(each, start, after)
        return Culprit(
            pass_number=bad,
            pass_name=each.name,
            rewrite=entry,
            place=before.rewrites + first,
            of=self.stops[-1].rewrites if bad < len(self.stops) else before.rewrites + count,
            reason=after.reason or "",
            difference=difference,
            checks=self.checks,
        )

    def _first_bad_stop(self) -> int | None:
        """The place of the first program for which the check fails; one more than there are if it is the error."""
        ended = len(self.stops) == len(self.passes) + 1
        good, bad = 0, len(self.stops)
        if ended:
            bad -= 1
            if self._reason(self.stops[bad].program) is None:
                return None
        while bad - good > 1:
            middle = (good + bad) // 2
            self._tell(self.stops[good].rewrites, self.stops[min(bad, len(self.stops) - 1)].rewrites)
            good, bad = (middle, bad) if self._reason(self.stops[middle].program) is None else (good, middle)
        return bad

    def _first_bad_rewrite(self, each: Pass, before: _Stop, count: int, whole: _Run) -> tuple[int, _Run]:
        """How many rewrites of the pass it takes to fail, and that run."""
        good, bad, after = 0, count, whole
        while bad - good > 1:
            middle = (good + bad) // 2
            self._tell(before.rewrites + good, before.rewrites + bad)
            run = self._checked(self._run(each, before.again(), middle))
            good, bad, after = (middle, bad, after) if run.reason is None else (good, middle, run)
        return bad, after

    def _told(self, each: Pass, before: Program | None, after: _Run) -> tuple[Entry, str]:
        """The last rewrite of a run (of an atomic pass: the one that a wrong value comes from), and what it changed."""
        entry = after.rewrites[-1] if after.rewrites else Entry("", f"the pass {each.name} as a whole", "")
        if before is None or after.program is None:
            return entry, ""
        if each.atomic and after.record is not None and len(after.rewrites) > 1:
            place = first_wrong_state(before, after.program, after.record)
            entry = entry if place is None else after.rewrites[place]
        return entry, program_difference(before, after.program)

    def _run(self, each: Pass, program: Program, fuel: int | None) -> _Run:
        trace, failures = Trace(), list[Failure]()
        try:
            after = run_passes(program, [each], trace, fuel=fuel, on_failure=failures.append)
        except BurnishError as error:
            return _Run(None, None, failures[0].rewrites if failures else (), str(error))
        return _Run(after, trace.passes[-1], trace.passes[-1].rewrites, None)

    def _checked(self, run: _Run) -> _Run:
        return run if run.program is None else replace(run, reason=self._reason(run.program))

    def _reason(self, program: Program) -> str | None:
        self.checks += 1
        try:
            return self.check(program)
        except UsageError:  # the check, not the program
            raise
        except BurnishError as error:  # it does not even run
            return str(error)

    def _tell(self, good: int, bad: int) -> None:
        if self.progress is not None:
            self.progress(self.checks, good, bad)


def culprit_view(culprit: Culprit) -> RenderableType:
    """What was found, for people."""
    rows: list[RenderableType] = [
        Text(f"first bad rewrite: number {culprit.place} of {culprit.of}, in the pass {culprit.pass_name}", "bold"),
        Text(f"where: {culprit.rewrite.where}"),
    ]
    if culprit.rewrite.text:
        rows.append(Text(f"rewritten: {culprit.rewrite.text}"))
    rows += [Text(f"after it: {culprit.reason}"), Text(f"found with {culprit.checks} checks")]
    if culprit.difference:
        styles = {"+": "green", "-": "red", "@": "dim"}
        rows.append(Text())
        rows += [Text(line, styles.get(line[:1], "")) for line in culprit.difference.splitlines()]
    return Group(*rows)


def program_difference(before: Program, after: Program) -> str:
    """What changed in the nodes, as a unified diff without its head: types, names and places in full."""
    lines = difflib.unified_diff(_node_lines(before), _node_lines(after), n=1, lineterm="")
    return "\n".join(list(lines)[2:])


def _node_lines(program: Program) -> list[str]:
    symbols = symbol_names(program)
    return [node_text(node, symbols) for node in program.graph.nodes if node.op != "get_attr"]
