"""Finding a pattern at a node, with backtracking, and remembering the nearest miss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from burnish.ir.arguments import NO_DEFAULT, arguments, signature
from burnish.ir.program import Program, describe
from burnish.rewrite.pattern import Argument, Axis, Call, Either, Maybe, Number, Pattern, Variable, size


@dataclass(frozen=True)
class Match:
    """A pattern found: what each of its parts stands for. Ask with the pattern object itself."""

    root: fx.Node
    bound: Mapping[Pattern, Any]

    @property
    def ops(self) -> tuple[fx.Node, ...]:
        """The ops that were found."""
        return _ops(self.bound)

    def __contains__(self, part: Pattern) -> bool:
        return part in self.bound

    def __getitem__(self, part: Pattern) -> Any:
        return self.bound[part]

    def node(self, part: Pattern) -> fx.Node:
        """The node that `part` stands for."""
        found = self.bound[part]
        assert isinstance(found, fx.Node)
        return found

    def number(self, part: Pattern) -> float:
        """The number that `part` stands for."""
        return float(self.bound[part])


@dataclass(frozen=True)
class Miss:
    """How near a pattern came to a node: how many of its ops matched, and the first thing that did not."""

    root: fx.Node
    matched: int
    total: int
    culprit: fx.Node
    expected: str
    found: str
    ops: tuple[fx.Node, ...]  # those that matched as a whole

    def __str__(self) -> str:
        reason = f"expected {self.expected}, found {self.found} at {describe(self.culprit)}"
        return f"{self.matched} of {self.total} ops matched; then {reason}"


class Matcher:
    """Tries one pattern at one node."""

    def __init__(self, pattern: Pattern, program: Program) -> None:
        self.pattern = pattern
        self.program = program
        self._nearest: tuple[_State, Any, Any, fx.Node] | None = None

    def matches(self, root: fx.Node) -> Iterator[Match]:
        """Each way in which the pattern matches at `root`; most often none or one."""
        for bound, _ in self._match(self.pattern, root, ({}, 0), root):
            yield Match(root, bound)

    def miss(self, root: fx.Node) -> Miss:
        """The nearest miss of the attempts at `root` so far, of which at least one failed."""
        assert self._nearest is not None
        (bound, matched), expected, found, holder = self._nearest
        culprit = found if isinstance(found, fx.Node) else holder
        told = _told(expected)
        if isinstance(expected, Pattern) and expected in bound:  # it is one node wherever it stands
            known = bound[expected]
            told = f"{told.partition(' (')[0]}, which is {known.name if isinstance(known, fx.Node) else known}"
        return Miss(root, matched, size(self.pattern), culprit, told, _found(found), _ops(bound))

    # State of an attempt: what is bound so far, and how many ops have matched.

    def _match(self, pattern: Any, found: Any, state: _State, holder: fx.Node) -> Iterator[_State]:
        """The states after `found`, an argument of `holder`, was matched with `pattern`."""
        if not isinstance(pattern, Pattern):
            yield from self._literal(pattern, found, state, holder)
        elif pattern in state[0]:
            if state[0][pattern] is found or (isinstance(pattern, Number) and state[0][pattern] == found):
                yield state
            else:
                self._missed(state, pattern, found, holder)
        elif isinstance(pattern, Either):
            for option in pattern.options:
                for bound, matched in self._match(option, found, state, holder):
                    yield {**bound, pattern: found}, matched
        elif isinstance(pattern, Maybe):
            yield from self._maybe(pattern, found, state, holder)
        elif isinstance(pattern, Call):
            yield from self._call(pattern, found, state, holder)
        else:
            accepted, value = self._leaf(pattern, found, holder)
            if accepted:
                yield {**state[0], pattern: value}, state[1]
            else:
                self._missed(state, pattern, found, holder)

    def _leaf(self, pattern: Pattern, found: Any, holder: fx.Node) -> tuple[bool, Any]:
        if isinstance(pattern, Variable):
            accepted = isinstance(found, fx.Node) and (pattern.allowed is None or pattern.allowed(found))
            return accepted, found
        if isinstance(pattern, Number):
            number = self._number(found)
            return number is not None, number
        if isinstance(pattern, Axis):
            return _same_axis(pattern.axis, found, holder), found
        return isinstance(pattern, Argument), found

    def _literal(self, expected: Any, found: Any, state: _State, holder: fx.Node) -> Iterator[_State]:
        if isinstance(expected, list | tuple):
            if isinstance(found, list | tuple) and len(found) == len(expected):
                yield from self._all(list(zip(expected, found, strict=True)), state, holder)
            else:
                self._missed(state, expected, found, holder)
            return
        if isinstance(expected, int | float) and not isinstance(expected, bool):
            found_number = self._number(found)
            same = found_number is not None and found_number == expected
        else:
            same = type(found) is type(expected) and found == expected
        if same:
            yield state
        else:
            self._missed(state, expected, found, holder)

    def _number(self, found: Any) -> float | int | None:
        """A literal number, or the value of a weight with a single element and no axes."""
        if isinstance(found, int | float) and not isinstance(found, bool):
            return found
        if isinstance(found, fx.Node) and found.op == "get_attr":
            weight = self.program.weights[str(found.target)]
            if weight.shape == () and weight.dtype is not torch.bool and not weight.dtype.is_complex:
                return weight.materialize().item()
        return None

    def _maybe(self, pattern: Maybe, found: Any, state: _State, holder: fx.Node) -> Iterator[_State]:
        if isinstance(found, fx.Node) and found.target in pattern.op.targets:
            for bound, matched in self._match(pattern.inner, found.args[0], state, found):
                yield {**bound, pattern: found}, matched
        for bound, matched in self._match(pattern.inner, found, state, holder):
            yield {**bound, pattern: found}, matched

    def _call(self, pattern: Call, found: Any, state: _State, holder: fx.Node) -> Iterator[_State]:
        if not isinstance(found, fx.Node) or found.target not in pattern.op.targets:
            self._missed(state, pattern, found, holder)
            return
        given = arguments(found)
        state = (state[0], state[1] + 1)
        values = list(given.values())
        named = [(expected, given.get(name, NO_DEFAULT)) for name, expected in pattern.named.items()]
        told = {*list(given)[: len(pattern.args)], *pattern.named, *pattern.op.free}
        rest = {name: value for name, value in given.items() if name not in told}
        if len(values) < len(pattern.args):
            self._missed(state, f"{len(pattern.args)} arguments", len(values), found)
            return
        if not self._are_defaults(found, rest, state):
            return
        orders = [pattern.args]
        if pattern.op.commutes:
            orders.append((pattern.args[1], pattern.args[0], *pattern.args[2:]))
        for order in orders:
            pairs = [*zip(order, values, strict=False), *named]
            for bound, matched in self._all(pairs, state, found):
                yield {**bound, pattern: found}, matched

    def _are_defaults(self, node: fx.Node, rest: dict[str, Any], state: _State) -> bool:
        """Whether what the pattern does not mention has its default."""
        defaults = dict(signature(node.target))
        for name, value in rest.items():
            default = defaults.get(name, NO_DEFAULT)
            if default is NO_DEFAULT or isinstance(value, fx.Node) or value != default:
                self._missed(state, f"{name}={default}" if default is not NO_DEFAULT else f"no {name}", value, node)
                return False
        return True

    def _all(self, pairs: Sequence[tuple[Any, Any]], state: _State, holder: fx.Node) -> Iterator[_State]:
        if not pairs:
            yield state
            return
        (pattern, found), *rest = pairs
        for following in self._match(pattern, found, state, holder):
            yield from self._all(rest, following, holder)

    def _missed(self, state: _State, expected: Any, found: Any, holder: fx.Node) -> None:
        if self._nearest is None or state[1] > self._nearest[0][1]:
            self._nearest = (state, expected, found, holder)


_State = tuple[dict[Pattern, Any], int]


def _ops(bound: Mapping[Pattern, Any]) -> tuple[fx.Node, ...]:
    return tuple(dict.fromkeys(found for part, found in bound.items() if isinstance(part, Call)))


def _same_axis(axis: int, found: Any, holder: fx.Node) -> bool:
    if isinstance(found, list | tuple):
        found = found[0] if len(found) == 1 else None
    first = holder.args[0]
    joins_new_axis = holder.target is torch.ops.aten.stack.default
    while isinstance(first, list | tuple) and first:
        first = first[0]
    val = first.meta.get("val") if isinstance(first, fx.Node) else None
    if not isinstance(found, int) or not isinstance(val, torch.Tensor):
        return False
    rank = val.dim() + joins_new_axis
    return found % rank == axis % rank


def _told(expected: Any) -> str:
    """A pattern in a message."""
    if isinstance(expected, Call):
        return expected.op.name
    if isinstance(expected, Variable):
        return f"{expected.name} ({expected.meaning})"
    if isinstance(expected, Number | Argument):
        return expected.name
    if isinstance(expected, Axis):
        return f"axis {expected.axis}"
    if isinstance(expected, Either):
        return " or ".join(_told(option) for option in expected.options)
    return expected if isinstance(expected, str) else repr(expected)


def _found(found: Any) -> str:
    if found is NO_DEFAULT:
        return "nothing"
    return str(found.target) if isinstance(found, fx.Node) else repr(found)
