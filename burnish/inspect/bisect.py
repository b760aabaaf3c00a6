"""The first rewrite after which a check fails, found by halving: in about log2(rewrites) runs of the pipeline."""

from __future__ import annotations

import difflib
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from burnish.inspect.stale_state import first_wrong_state
from burnish.ir.errors import BurnishError, UsageError
from burnish.ir.program import Program
from burnish.ir.text import node_text, symbol_names
from burnish.ir.trace import Entry, Trace
from burnish.passes.base import Effect, Pass
from burnish.passes.pipeline import Failure, fuel_of, run_passes
from burnish.passes.verify import TOLERANCES, Verifier, relative_difference

Check = Callable[[Program], str | None]  # what is wrong with a program; None if nothing is
Progress = Callable[[int, int, int], None]  # run number, rewrites known to be good, rewrites known to be bad


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
    runs: int  # of the pipeline


def numbers_check(captured: Program) -> Check:
    """Whether a program gives the logits of the one that was captured, up to the order of additions."""
    verifier = Verifier(captured)
    expected = verifier.logits(captured)
    tolerance = TOLERANCES[Effect.REASSOCIATES]

    def check(program: Program) -> str | None:
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
    from burnish.inspect.dump import save_dump

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

    A pipeline that ends in an error counts as a failed check.
    """
    runs = _Runs(captured, passes, check)
    whole = runs.after(None)
    if whole.reason is None:
        return None
    total = whole.made
    good, bad = 0, total  # rewrites after which the check holds; fails
    while bad - good > 1:
        middle = (good + bad) // 2
        if progress is not None:
            progress(runs.count, good, bad)
        if runs.after(middle).reason is None:
            good = middle
        else:
            bad = middle
    return runs.culprit(good, bad, total)


@dataclass(frozen=True)
class _Run:
    """The pipeline, stopped after some rewrites."""

    program: Program | None  # None if it ended in an error
    trace: Trace
    failed: Failure | None
    reason: str | None
    made: int  # rewrites, in terms of fuel


class _Runs:
    def __init__(self, captured: Program, passes: Sequence[Pass], check: Check) -> None:
        self.captured = captured
        self.passes = list(passes)
        self.check = check
        self.count = 0

    def after(self, fuel: int | None) -> _Run:
        """Run the pipeline and the check."""
        self.count += 1
        trace = Trace()
        failures: list[Failure] = []
        try:
            program = run_passes(self.captured, self.passes, trace, fuel=fuel, on_failure=failures.append)
        except BurnishError as error:
            failed = failures[0] if failures else None
            return _Run(None, trace, failed, str(error), self._made(trace, failed))
        try:
            reason = self.check(program)
        except UsageError:  # the check, not the program
            raise
        except BurnishError as error:  # it does not even run
            reason = str(error)
        return _Run(program, trace, None, reason, self._made(trace, None))

    def _made(self, trace: Trace, failed: Failure | None) -> int:
        """Rewrites made; one more where an error came without any, so that there is one to blame."""
        made = sum(fuel_of(each, record) for each, record in zip(self.passes, trace.passes[1:], strict=False))
        if len(trace.passes) <= len(self.passes):
            each = self.passes[len(trace.passes) - 1]
            rewrites = failed.rewrites if failed is not None else ()
            made += 1 if each.atomic else max(1, len(rewrites))
        return made

    def culprit(self, good: int, bad: int, total: int) -> Culprit:
        """What rewrite number `bad` is and does."""
        before, after = self.after(good), self.after(bad)
        assert after.reason is not None
        number, name, rewrites = self._last(before, after)
        entry = rewrites[-1] if rewrites else Entry("", "the pass as a whole", "")
        difference = ""
        if before.program is not None and after.program is not None:
            difference = program_difference(before.program, after.program)
            if self.passes[number - 1].atomic and len(rewrites) > 1:
                place = first_wrong_state(before.program, after.program, after.trace.passes[-1])
                entry = rewrites[place] if place is not None else entry
        return Culprit(number, name, entry, bad, total, after.reason, difference, self.count)

    def _last(self, before: _Run, after: _Run) -> tuple[int, str, tuple[Entry, ...]]:
        """The pass that made the last rewrite, and all its rewrites."""
        if after.failed is not None or after.program is None:
            number = len(after.trace.passes)
            rewrites = after.failed.rewrites if after.failed is not None else ()
            return number, self.passes[number - 1].name, rewrites
        made = [record for record in after.trace.passes if record.rewrites]
        record = made[-1]
        return record.number, record.name, record.rewrites


def culprit_view(culprit: Culprit) -> RenderableType:
    """What was found, for people."""
    rows: list[RenderableType] = [
        Text(f"first bad rewrite: number {culprit.place} of {culprit.of}, in the pass {culprit.pass_name}", "bold"),
        Text(f"where: {culprit.rewrite.where}"),
    ]
    if culprit.rewrite.text:
        rows.append(Text(f"rewritten: {culprit.rewrite.text}"))
    rows += [Text(f"after it: {culprit.reason}"), Text(f"found in {culprit.runs} runs of the pipeline")]
    if culprit.difference:
        styles = {"+": "green", "-": "red", "@": "dim"}
        rows.append(Text())
        rows += [Text(line, styles.get(line[:1], "")) for line in culprit.difference.splitlines()]
    return Group(*rows)


def program_difference(before: Program, after: Program, context: int = 1) -> str:
    """What changed in the nodes, as a unified diff without its head: types, names and places in full."""
    lines = difflib.unified_diff(_node_lines(before), _node_lines(after), n=context, lineterm="")
    return "\n".join(list(lines)[2:])


def _node_lines(program: Program) -> list[str]:
    symbols = symbol_names(program)
    return [node_text(node, symbols) for node in program.graph.nodes if node.op != "get_attr"]
