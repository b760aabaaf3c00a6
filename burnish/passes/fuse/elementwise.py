"""Operations on elements and rows that no other fusion took become groups, each of which is one kernel.

Members are pointwise operations, reductions along the last axis, sums of a few, joins and gathers of rows, with the
views between them that keep the last axis whole or slice it. Two groups become one where that saves traffic, the most
first: what one wrote and the other read stays in registers, what both read is read once. A group has the rows of all
its results in common, and no path leaves it and comes back.
"""

from __future__ import annotations

import heapq
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import networkx as nx
from torch import fx

from burnish.ir.cost import CostCounter, is_view
from burnish.ir.edit import Editor
from burnish.ir.fused_group import REDUCTIONS, folded_axis, row_space
from burnish.ir.fused_ops import fused_ops
from burnish.ir.program import Program, operands
from burnish.ir.text import symbol_names
from burnish.passes.analyses.group_body import body_of
from burnish.passes.analyses.group_members import is_member, is_table, refusal, through_views
from burnish.passes.base import Effect, Log

_MOST_STEPS = 48  # beyond, registers spill
_MOST_INPUTS = 24


@dataclass(frozen=True)
class FuseElementwise:
    """pointwise, reductions along the last axis, gathers -> burnish::fused_elementwise."""

    name: ClassVar[str] = "fuse-elementwise"
    effect: ClassVar[Effect] = Effect.EXACT
    atomic: ClassVar[bool] = False

    def run(self, program: Program, log: Log) -> Program:
        """Fuse the groups of `program`, in place."""
        _Grouping(program).fuse(log)
        return program


@dataclass(frozen=True)
class _Read:
    """An argument of a node: its own, and the value that it is a view of."""

    argument: fx.Node
    base: fx.Node
    views: tuple[fx.Node, ...]


_Members = frozenset[fx.Node]


class _Grouping:
    """The groups of one program; at first, each member is one by itself."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.counter = CostCounter(program)
        self.place = {node: number for number, node in enumerate(program.graph.nodes)}
        self.reads: dict[fx.Node, list[_Read]] = {}
        self.graph = nx.DiGraph()  # groups by their first node, and the nodes of no group; views are no nodes
        self.members: dict[fx.Node, _Members] = {}
        self.group: dict[fx.Node, fx.Node] = {}  # a node's group, by its first node
        self.refused: dict[fx.Node, str] = {}
        for node in program.graph.nodes:
            self.reads[node] = [_Read(each, *through_views(each)) for each in node.all_input_nodes]
            if is_member(node) and node.users:
                reason = refusal(node)
                if reason:
                    self.refused[node] = reason
                else:
                    self.members[node] = frozenset({node})
            self.group[node] = node
        for node in program.graph.nodes:
            if not through_views(node)[1]:
                self.graph.add_node(node)
                self.graph.add_edges_from((read.base, node) for read in self.reads[node])
        self.users = {node: set(self.graph.successors(node)) for node in self.graph}

    # ------------------------------------------------------------ growing

    def fuse(self, log: Log) -> None:
        """Grow groups, the largest saving first, and rewrite each that has more than one node."""
        refusals = self._grow()
        groups = [members for members in self.members.values() if len(members) > 1]
        for first, second, reason in refusals:
            if self.group[first] is not self.group[second] and len(self._of(first)) + len(self._of(second)) > 2:
                log.refuse(second, f"it is not in one group with what it reads: {reason}")
        grouped = {node for members in groups for node in members}
        for node, reason in self.refused.items():
            if any(read.base in grouped for read in self.reads[node]) or self.users[node] & grouped:
                log.refuse(node, f"it is in no group: {reason}")
        for members in sorted(groups, key=lambda each: min(map(self.place.__getitem__, each))):
            told = self._rewrite(members)
            log.rewrite(*told)

    def _of(self, node: fx.Node) -> _Members:
        return self.members.get(self.group[node], frozenset())

    def _grow(self) -> list[tuple[fx.Node, fx.Node, str]]:
        """Make groups; gives the pairs of a value and its reader that stayed apart, and why."""
        waiting: list[tuple[int, int, int, _Members, _Members]] = []
        apart: dict[tuple[fx.Node, fx.Node], str] = {}

        def consider(pairs: Iterable[tuple[fx.Node, fx.Node]]) -> None:
            for one, other in pairs:
                first, second = self._of(one), self._of(other)
                saved = self._traffic(first) + self._traffic(second) - self._traffic(first | second)
                if saved > 0:
                    heapq.heappush(waiting, (-saved, self.place[one], self.place[other], first, second))

        consider(pair for node in list(self.members) for pair in self._neighbours(node))
        while waiting:
            _, _, _, first, second = heapq.heappop(waiting)
            one, other = self.group[next(iter(first))], self.group[next(iter(second))]
            if self.members[one] != first or self.members[other] != second or one is other:
                continue  # one of the two has grown since
            reason = self._obstacle(first, second)
            links = [(read.base, node) for node in second for read in self.reads[node] if read.base in first]
            links += [(read.base, node) for node in first for read in self.reads[node] if read.base in second]
            for link in links:
                apart[link] = reason
            if not reason:
                merged = self._merge(one, other)
                consider(sorted(set(self._neighbours(merged)), key=lambda pair: [self.place[node] for node in pair]))
        return [(*link, reason) for link, reason in apart.items() if reason]

    def _neighbours(self, group: fx.Node) -> Iterator[tuple[fx.Node, fx.Node]]:
        """Pairs of the group with those that read it, that it reads, and that read what it reads, just before it."""
        mine = self.members[group]
        for node in mine:
            for user in self.users[node]:
                if user in self.group and self.group[user] in self.members and user not in mine:
                    yield group, self.group[user]
            for read in self.reads[node]:
                if self.group[read.base] in self.members and read.base not in mine:
                    yield self.group[read.base], group
                siblings = [user for user in self.users[read.base] if self._of(user)]
                siblings.sort(key=self.place.__getitem__)
                place = siblings.index(node)
                for user in siblings[max(0, place - 1) : place + 2]:
                    if user not in mine:
                        first, second = sorted((self.group[user], group), key=self.place.__getitem__)
                        yield first, second

    def _merge(self, one: fx.Node, other: fx.Node) -> fx.Node:
        """Make two groups one."""
        first, second = sorted((one, other), key=self.place.__getitem__)
        self.members[first] |= self.members.pop(second)
        for node in self.members[first]:
            self.group[node] = first
        self.graph.add_edges_from((each, first) for each in self.graph.predecessors(second) if each is not first)
        self.graph.add_edges_from((first, each) for each in self.graph.successors(second) if each is not first)
        self.graph.remove_node(second)
        return first

    # ------------------------------------------------------------ what may be one kernel, and what it saves

    def _obstacle(self, first: _Members, second: _Members) -> str:
        """Why the two groups cannot be one; nothing if they can."""
        members = first | second
        if len(members) > _MOST_STEPS:
            return f"a group has at most {_MOST_STEPS} operations"
        if len(self._inputs(members)) > _MOST_INPUTS:
            return f"a group reads at most {_MOST_INPUTS} values"
        results = [node.meta["val"] for node in self._results(members)]
        sources = [operands(node)[0].meta["val"] for node in members if node.target in REDUCTIONS]
        reductions = [node for node in members if node.target in REDUCTIONS]
        reduced = [
            value for node, value in zip(reductions, sources, strict=True) if folded_axis(node, value.shape) is None
        ]
        space = row_space(results, reduced)
        if isinstance(space, str):
            return space
        one, other = self.group[next(iter(first))], self.group[next(iter(second))]
        for start, end in ((one, other), (other, one)):
            between = self._between(start, end)
            if between is not None:
                return f"{between.name} reads the one and is read by the other"
        return ""

    def _between(self, start: fx.Node, end: fx.Node) -> fx.Node | None:
        """A node on a path from one group to the other that is in neither."""
        following: fx.Node
        for following in self.graph.successors(start):
            if following is not end and nx.has_path(self.graph, following, end):
                return following
        return None

    def _inputs(self, members: _Members) -> dict[fx.Node, int]:
        """What a group reads from outside, and how many bytes of it."""
        found: dict[fx.Node, int] = {}
        for node in members:
            for read in self.reads[node]:
                if read.base in members:
                    continue
                whole = self.counter.bytes_of(read.argument.meta["val"])
                wanted = self.counter.bytes_of(node.meta["val"]) if is_table(node, read.argument) else whole
                found[read.argument] = min(whole, found.get(read.argument, 0) + wanted)
        return found

    def _results(self, members: _Members) -> list[fx.Node]:
        """The members that are read outside, in order."""
        return sorted((node for node in members if self.users[node] - members), key=self.place.__getitem__)

    def _traffic(self, members: _Members) -> int:
        written = sum(self.counter.bytes_of(node.meta["val"]) for node in self._results(members))
        return written + sum(self._inputs(members).values())

    # ------------------------------------------------------------ rewriting

    def _rewrite(self, members: _Members) -> tuple[fx.Node, str]:
        """Put one node in the place of a group; gives it, and what it is."""
        order = {node: number for number, node in enumerate(self.program.graph.nodes)}
        nodes = {view for node in members for read in self.reads[node] if read.base in members for view in read.views}
        inside = sorted(nodes | members, key=order.__getitem__)
        results = self._results(members)
        body = body_of(inside, results, symbol_names(self.program))
        last = max(members, key=order.__getitem__)
        anchor = max((*body.inputs, *body.sizes), key=order.__getitem__)
        later = _readers(inside[0], anchor, members)
        editor = Editor(self.program)
        with editor.after(anchor):
            fused = editor.call(
                fused_ops.fused_elementwise.default, list(body.inputs), list(body.sizes), like=last, body=body.text
            )
            values = [editor.call(operator.getitem, fused, i, like=node) for i, node in enumerate(results)]
        behind = values[-1]
        for node in later:
            behind.append(node)
            behind = node
        for node, value in zip(results, values, strict=True):
            editor.replace(node, value)
        _raise_views(fused, values)
        saved = sum(self._traffic(frozenset({node})) for node in members) - self._traffic(members)
        for node in sorted({*inside, *later} & (nodes | members), key=order.__getitem__, reverse=True):
            if not node.users:
                self.program.graph.erase_node(node)
        names = [_short(node) for node in inside if node in members]
        return fused, f"{', '.join(names)}: one kernel, {saved} bytes less a token"


def _raise_views(fused: fx.Node, values: list[fx.Node]) -> None:
    """Move the views of results to these: what all layers read would otherwise stay with the first of them."""
    behind = values[-1]
    for value in values:  # grows
        for user in list(value.users):
            if is_view(user) and all(argument is value or argument < fused for argument in user.all_input_nodes):
                behind.append(user)
                behind = user
                values.append(user)


def _readers(first: fx.Node, last: fx.Node, members: _Members) -> list[fx.Node]:
    """The nodes from one to another that read members of a group, or one another, and have to come after it."""
    found: list[fx.Node] = []
    moving = set(members)
    node = first
    while node < last:
        node = node.next
        if node not in members and any(argument in moving for argument in node.all_input_nodes):
            moving.add(node)
            found.append(node)
    return found


def _short(node: fx.Node) -> str:
    target: Any = node.target
    return str(target.overloadpacket.__name__)
