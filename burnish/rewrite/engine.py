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
from burnish.rewrite.pattern import Pattern, roots

# A miss is reported unasked if at least this share of the pattern's ops, and this many, were there.
_NEAR_SHARE, _NEAR_OPS = 0.7, 4


class Refusal(Exception):
    """Raised by a rule that will not rewrite what its pattern matched: why, and the node that is to blame."""

    def __init__(self, reason: str, culprit: fx.Node) -> None:
        super().__init__(f"{reason} (at {describe(culprit)})")
        self.reason = reason
        self.culprit = culprit


@dataclass(frozen=True)
class Rule:
    """`pattern` becomes what `replace` makes, where `guard` holds.

    `replace` gives the node that stands for the pattern's root from then on, of its shape and dtype; or None where a
    closer look shows something else that only looks alike. Both may raise Refusal for what is meant but cannot be
    rewritten. New nodes go in front of the root.
    """

    name: str
    pattern: Pattern
    replace: Callable[[Editor, Match], fx.Node | None]
    guard: Callable[[Program, Match], bool] | None = None


class Recorder(Protocol):
    """Where the engine tells what it did and what it left alone."""

    def rewrite(self, node: fx.Node, text: str) -> None: ...
    def refuse(self, node: fx.Node, reason: str) -> None: ...


def rewrite(program: Program, rules: Sequence[Rule], recorder: Recorder) -> int:
    """Apply `rules`, in place; the number of rewrites made. The graph is whole whenever `recorder` is told.

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
        refusals: list[str] = []
        for rule in index.get(node.target, ()):
            if _apply(rule, node, editor, refusals):
                recorder.rewrite(node, rule.name)
                made += 1
                break
        else:
            for refusal in refusals:
                recorder.refuse(node, refusal)
    remove_dead(program)
    return made


def nearest_misses(program: Program, node: fx.Node, rules: Sequence[Rule]) -> list[tuple[Rule, Miss]]:
    """How near each of `rules` that can begin at `node` came to it, the nearest first."""
    found: list[tuple[Rule, Miss]] = []
    for rule in rules:
        if node.target in roots(rule.pattern):
            matcher = Matcher(rule.pattern, program)
            if not list(matcher.matches(node)) and (miss := matcher.miss(node)) is not None:
                found.append((rule, miss))
    return sorted(found, key=lambda pair: -pair[1].matched / pair[1].total)


def _apply(rule: Rule, node: fx.Node, editor: Editor, refusals: list[str]) -> bool:
    """Whether the rule rewrote the node; if it could not, the reason goes to `refusals`."""
    matcher = Matcher(rule.pattern, editor.program)
    matched = False
    refusal: Refusal | None = None
    for match in matcher.matches(node):
        matched = True
        try:
            if rule.guard is not None and not rule.guard(editor.program, match):
                continue
            with editor.before(node):
                new = rule.replace(editor, match)
        except Refusal as raised:
            refusal = refusal or raised
            continue
        if new is None:
            continue
        _check_type(rule, node, new)
        editor.replace(node, new)
        return True
    if refusal is not None:
        refusals.append(f"{rule.name}: {refusal}")
    elif not matched:
        miss = matcher.miss(node)
        if miss is not None and miss.matched >= max(_NEAR_OPS, _NEAR_SHARE * miss.total):
            refusals.append(f"{rule.name}: {miss}")
    return False


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
