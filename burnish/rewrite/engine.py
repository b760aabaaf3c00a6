"""Applies rules to a program: one walk over the nodes in order, rules indexed by the op that they begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import fx

from burnish.ir.edit import Editor, remove_dead
from burnish.ir.errors import InvalidProgramError
from burnish.ir.program import Program, describe
from burnish.rewrite.matching import Match, Matcher, Miss
from burnish.rewrite.pattern import Pattern, roots, size

# A miss is reported unasked if at least this share of the pattern's ops, and this many, were there.
_NEAR_SHARE, _NEAR_OPS = 0.7, 4


class Refusal(Exception):
    """Raised by a rule that will not rewrite what its pattern matched: why, and the node that is to blame."""

    def __init__(self, reason: str, culprit: fx.Node) -> None:
        super().__init__(f"{reason} (at {describe(culprit)})")
        self.reason = reason
        self.culprit = culprit


class Lookalike(Refusal):
    """Raised where a closer look shows something else than what the rule is for. Told when somebody asks why."""


@dataclass(frozen=True)
class Rule:
    """`pattern` becomes what `replace` makes, unless `guard` objects.

    `replace` gives the node that stands for the pattern's root from then on, of its shape and dtype. New nodes go in
    front of the root. Both raise Refusal for what is meant but cannot be rewritten, Lookalike for what is not meant.
    """

    name: str
    pattern: Pattern
    replace: Callable[[Editor, Match], fx.Node]
    guard: Callable[[Program, Match], None] | None = None


@dataclass(frozen=True)
class Attempt:
    """What came of a rule at a node: it was rewritten, unless there is a `refusal` or the pattern was not there."""

    rule: Rule
    node: fx.Node
    ops: tuple[fx.Node, ...]  # those that the pattern found, or as far as it came
    refusal: Refusal | None = None
    miss: Miss | None = None

    @property
    def made(self) -> bool:
        return self.refusal is None and self.miss is None

    @property
    def is_near(self) -> bool:
        """Whether somebody who did not ask should be told why nothing was rewritten."""
        if self.miss is not None:
            return self.miss.matched >= max(_NEAR_OPS, _NEAR_SHARE * self.miss.total)
        return not isinstance(self.refusal, Lookalike) or size(self.rule.pattern) >= _NEAR_OPS

    def __str__(self) -> str:
        return f"{self.rule.name}: {self.miss or self.refusal or 'rewritten'}"


class Recorder(Protocol):
    """Where the engine tells what it did and what it left alone."""

    def rewrite(self, node: fx.Node, text: str) -> None: ...
    def refuse(self, node: fx.Node, reason: str) -> None: ...


def rewrite(
    program: Program, rules: Sequence[Rule], recorder: Recorder, watch: Callable[[Attempt], None] | None = None
) -> int:
    """Apply `rules`, in place; the number of rewrites made. The graph is whole whenever `recorder` is told.

    `watch` is told of every rule that was tried, before `recorder` is.

    Nodes are visited once, inputs first, so that a rule can build on what another made of a node's inputs; at one node
    the first rule that applies wins.
    """
    editor = Editor(program)
    index: dict[Any, list[Rule]] = {}
    for rule in rules:
        for target in roots(rule.pattern):
            index.setdefault(target, []).append(rule)
    made = 0
    for node in list(program.graph.nodes):
        if not node.users or node.op != "call_function":
            continue
        failed: list[Attempt] = []
        for rule in index.get(node.target, ()):
            attempt = _try(rule, node, editor)
            if watch is not None:
                watch(attempt)
            if attempt.made:
                recorder.rewrite(node, rule.name)
                made += 1
                break
            failed.append(attempt)
        else:
            for attempt in failed:
                if attempt.is_near:
                    recorder.refuse(node, str(attempt))
    remove_dead(program)
    return made


def _try(rule: Rule, node: fx.Node, editor: Editor) -> Attempt:
    """Rewrite the node by the rule, if that can be done."""
    matcher = Matcher(rule.pattern, editor.program)
    refused: Attempt | None = None
    for match in matcher.matches(node):
        try:
            if rule.guard is not None:
                rule.guard(editor.program, match)
            with editor.before(node):
                new = rule.replace(editor, match)
        except Refusal as raised:  # what is meant says more than what only looks alike
            if refused is None or (isinstance(refused.refusal, Lookalike) and not isinstance(raised, Lookalike)):
                refused = Attempt(rule, node, match.ops, raised)
            continue
        _check_type(rule, node, new)
        editor.replace(node, new)
        return Attempt(rule, node, match.ops)
    if refused is not None:
        return refused
    miss = matcher.miss(node)
    return Attempt(rule, node, miss.ops, miss=miss)


def _check_type(rule: Rule, old: fx.Node, new: fx.Node) -> None:
    """InvalidProgramError if the rule changed the type of the value that it replaces."""
    before, after = old.meta.get("val"), new.meta.get("val")
    assert isinstance(before, torch.Tensor)
    assert isinstance(after, torch.Tensor)
    same_rank = before.dim() == after.dim()
    sizes = zip(before.shape, after.shape, strict=True) if same_rank else ()
    differ = any(isinstance(one, int) and isinstance(two, int) and one != two for one, two in sizes)
    if not same_rank or differ or before.dtype != after.dtype:
        raise InvalidProgramError(
            f"the rule {rule.name!r} made {after.dtype} {list(after.shape)} of {before.dtype} {list(before.shape)} at "
            f"{describe(old)}. This is a bug in the rule; please report it"
        )
