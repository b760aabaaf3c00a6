"""Why a pass did not rewrite what one thinks it should: its nearest misses, as data and for people to read."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx

from burnish.frontend import is_graph, is_onnx, read
from burnish.frontend.graphs import read_graph
from burnish.inspect.where import Site, Where, op_name
from burnish.ir.errors import BurnishError, UsageError
from burnish.ir.program import Program, Stage
from burnish.ir.similar import did_you_mean
from burnish.ir.trace import Trace
from burnish.passes.base import Log, Pass
from burnish.passes.layout.cancel_transposes import CancelTransposes
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import default_passes, graph_passes
from burnish.passes.rules import Rules
from burnish.rewrite.engine import Attempt, Lookalike, rewrite
from burnish.rewrite.pattern import roots, size


@dataclass(frozen=True)
class Obstacle:
    """What kept a rule from rewriting a node."""

    rule: str  # empty for a pass that is no list of rules
    matched: int  # ops of the rule's pattern that were there, of `total`
    total: int
    refused: bool  # it is what the rule is for, and cannot be rewritten
    text: str
    culprit: Site

    @property
    def nearness(self) -> float:
        """From 0, only the first op was there, to 1, all of them; 2 if it was refused."""
        return 2.0 if self.refused else (self.matched - 1) / max(self.total - 1, 1)


@dataclass(frozen=True)
class Candidate:
    """A node that the pass looked at: what it was rewritten by, or else the obstacles, the nearest first."""

    site: Site
    rewritten: str = ""
    obstacles: tuple[Obstacle, ...] = ()
    ops: tuple[Site, ...] = ()  # further nodes that a pattern found, of which the root is `site`

    @property
    def nearness(self) -> float:
        return self.obstacles[0].nearness if self.obstacles else 0.0

    def is_at(self, where: Where) -> bool:
        """Whether any part of what was looked at is there."""
        culprits = (obstacle.culprit for obstacle in self.obstacles if obstacle.nearness > 0)
        return any(where.holds(site) for site in (self.site, *self.ops, *culprits))


@dataclass(frozen=True)
class Why:
    """What one pass did and did not do to a part of a program."""

    pass_name: str
    number: int
    does: str  # the pass in a line
    where: str  # as the user typed it; empty for the whole program
    candidates: tuple[Candidate, ...]  # there, in the program's order
    nearby: tuple[Candidate, ...]  # where there is none: others in the same modules
    rewrites_elsewhere: int
    begins_with: tuple[str, ...]  # ops that the pass's patterns begin with; empty for a pass that is no list of rules
    ops: dict[str, int]  # the ops of the program there, and how many
    notes: tuple[str, ...] = ()
    error: str = ""  # what the pass ended with
    ended_by: str = ""  # the pass that raised it: this one or an earlier one

    @property
    def rewritten(self) -> tuple[Candidate, ...]:
        return tuple(candidate for candidate in self.candidates if candidate.rewritten)

    @property
    def missed(self) -> tuple[Candidate, ...]:
        """Candidates that were left as they were, the nearest to a rewrite first; nearby ones if there is none."""
        left = (candidate for candidate in self.candidates or self.nearby if not candidate.rewritten)
        return tuple(sorted(left, key=lambda candidate: -candidate.nearness))


def why(
    model: Any,
    pass_name: str,
    where: str | None = None,
    *,
    max_length: int | None = None,
    trust_remote_code: bool = False,
    example_inputs: Any = None,
) -> Why:
    """What the pass `pass_name` did to `model`, and the nearest to what it did not do.

    Args:
        model: what `burnish.compile` takes, or a captured `Program`.
        pass_name: a pass of the compiler by name ("raise-norms") or, of those for native kernels, number ("5").
        where: a module or part of its path (`layers.*.mlp`), an op, a node, or `file:line`; the whole program if None.
        max_length, trust_remote_code, example_inputs: as in `burnish.compile`.

    Raises:
        UsageError: for a pass or a place that does not exist.
    """
    if is_onnx(model):
        from burnish.frontend.onnx.language_model import open_onnx  # imports onnx, which takes most of a second

        model = open_onnx(Path(model))
    program = model if isinstance(model, Program) else None
    of_graph = example_inputs is not None or is_graph(model) or (program is not None and program.stage is Stage.GRAPH)
    passes = _passes(pass_name, of_graph)
    place = _find(passes, pass_name)
    asked = passes[place]
    trace = Trace()
    if program is None and of_graph:
        program = read_graph(model, example_inputs).program
    elif program is None:
        program = read(model, max_length=max_length, trust_remote_code=trust_remote_code).program
    reached, told, error, ended_by = place, _Told(), "", ""
    try:
        program = run_passes(program, passes[:place], trace)
    except BurnishError as raised:
        reached = len(trace.passes) - 1
        error, ended_by = f"{type(raised).__name__}: {raised}", passes[reached].name
    sites = [Site.of(node) for node in program.graph.nodes if node.op == "call_function"]
    filter = Where(where) if where else None
    if filter is not None and not error:
        _require(filter, sites, trace, asked)
    if not error:
        try:
            told.run(asked, program.copy())
        except BurnishError as raised:
            error, ended_by = f"{type(raised).__name__}: {raised}", asked.name
    every = told.candidates()
    chosen = [each for each in every if filter is None or each.is_at(filter)]
    here = [site for site in sites if filter is None or filter.holds(site)]
    modules = {site.module for site in here}
    rewritten = [sum(bool(each.rewritten) for each in some) for some in (every, chosen)]
    return Why(
        pass_name=asked.name,
        number=place + 1,
        does=_description(asked),
        where=where or "",
        candidates=tuple(chosen),
        nearby=() if chosen else tuple(each for each in every if each.site.module in modules),
        rewrites_elsewhere=rewritten[0] - rewritten[1],
        begins_with=_first_ops(asked),
        ops=dict(Counter(site.op for site in here).most_common()),
        notes=tuple(told.notes),
        error=error,
        ended_by=ended_by,
    )


def _passes(name: str, of_graph: bool) -> list[Pass]:
    """The passes to ask: those of the target that has the one that is named, the first that there is otherwise."""
    if of_graph:
        lists = [graph_passes()]
    else:
        lists = [default_passes(), default_passes("onnxruntime"), default_passes("cuda", dtype=torch.bfloat16)]
    lists.append([*lists[0], CancelTransposes()])  # of no target's list
    return next((each for each in lists if name in {one.name for one in each}), lists[0])


def _find(passes: Sequence[Pass], name: str) -> int:
    """The place of a pass, by name or number. Raises UsageError if there is none."""
    names = [each.name for each in passes]
    if name in names:
        return names.index(name)
    if name.isdecimal() and 1 <= int(name) <= len(passes):
        return int(name) - 1
    raise UsageError(f"there is no pass {name!r}{did_you_mean(name, names)}: the passes are {', '.join(names)}")


def _require(where: Where, sites: Sequence[Site], trace: Trace, asked: Pass) -> None:
    """UsageError if nothing is there when the pass runs; it names the pass that took away what was."""
    if any(where.holds(site) for site in sites):
        return
    for before, after in reversed(list(zip(trace.passes[:-1], trace.passes[1:], strict=True))):
        for record in before.nodes:
            site = Site(record.name, record.target, record.module, record.module_type, record.source, record.code)
            if where.holds(site):
                raise UsageError(
                    f"nothing is at {where.text!r} any more when {asked.name} runs: {after.name} (pass {after.number}) "
                    f"took away {site}. Ask why of that pass, or leave WHERE out"
                )
    where.require(sites, f"when {asked.name} runs")


def _first_ops(asked: Pass) -> tuple[str, ...]:
    if not isinstance(asked, Rules):
        return ()
    found = {target for rule in asked.rules for target in roots(rule.pattern)}
    return tuple(sorted(op_name(target) for target in found))


def _description(asked: Pass) -> str:
    """The pass in a line: its own, or that of the module that its rules are made in."""
    documented = inspect.getmodule(asked.rules[0].replace) if isinstance(asked, Rules) else type(asked)
    text = inspect.getdoc(documented) or ""
    return text.split("\n\n")[0].replace("\n", " ")


class _Told(Log):
    """What a pass tells of each node, and a list of rules of each attempt."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Site] = {}  # what was looked at, by the node's name
        self.done: dict[str, list[str]] = {}
        self.obstacles: dict[str, list[Obstacle]] = {}
        self.ops: dict[str, list[Site]] = {}
        self.taken: set[str] = set()  # what a pattern found of which another node was the root

    def run(self, asked: Pass, program: Program) -> None:
        """Run the pass on `program`, in place."""
        if isinstance(asked, Rules):
            rewrite(program, asked.rules, self, self.watch)
        else:
            asked.run(program, self)

    def rewrite(self, node: fx.Node, text: str) -> None:
        """As `Log`; and where."""
        super().rewrite(node, text)
        self.done.setdefault(self._name(node), []).append(text)

    def refuse(self, node: fx.Node, reason: str) -> None:
        """As `Log`; and where, unless `watch` was told of it."""
        super().refuse(node, reason)
        name = self._name(node)
        if not self.ops.get(name):
            self.obstacles.setdefault(name, []).append(Obstacle("", 0, 0, True, reason, self.sites[name]))

    def watch(self, attempt: Attempt) -> None:
        """Told of each rule that was tried."""
        name = self._name(attempt.node)
        self.ops.setdefault(name, []).extend(Site.of(op) for op in attempt.ops)
        if attempt.made:
            self.taken.update(op.name for op in attempt.ops)
        else:
            self.obstacles.setdefault(name, []).append(_obstacle(attempt))

    def candidates(self) -> list[Candidate]:
        """A candidate for each node that was told of, in order, but for those that went into the rewrite of another."""
        found = []
        for name, site in self.sites.items():
            done = ", ".join(self.done.get(name, ()))
            if not done and name in self.taken:
                continue
            obstacles = () if done else sorted(self.obstacles.get(name, ()), key=lambda each: -each.nearness)
            found.append(Candidate(site, done, tuple(obstacles), tuple(dict.fromkeys(self.ops.get(name, ())))))
        return found

    def _name(self, node: fx.Node) -> str:
        if node.name not in self.sites:
            self.sites[node.name] = Site.of(node)
        return node.name


def _obstacle(attempt: Attempt) -> Obstacle:
    miss, refusal = attempt.miss, attempt.refusal
    if miss is not None:
        text = f"expected {miss.expected}, found {miss.found}"
        return Obstacle(attempt.rule.name, miss.matched, miss.total, False, text, Site.of(miss.culprit))
    assert refusal is not None
    total = size(attempt.rule.pattern)
    meant = not isinstance(refusal, Lookalike)
    return Obstacle(attempt.rule.name, total, total, meant, refusal.reason, Site.of(refusal.culprit))
