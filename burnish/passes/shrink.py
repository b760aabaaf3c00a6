"""A smaller program of the same kind: of each run of equal layers the first two, so that checks take seconds."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from burnish.ir.edit import remove_dead
from burnish.ir.folding import Repeat, find_repeats
from burnish.ir.program import Program
from burnish.ir.text import call_lines, shared_first, symbol_names

_KEPT = 2  # one layer reads what comes ahead of the layers, the next what a layer gives


def shrink(program: Program) -> Program:
    """A copy of a whole program in which each run of more than two equal layers has two.

    Layers are found in the graph, not by name: lines that are the same over and over, each iteration reading from
    itself, from the one before and from what comes ahead of all (see `burnish.ir.folding`). What read the last
    iteration reads the second.
    """
    small = program.copy()
    calls = shared_first([node for node in small.graph.nodes if node.op == "call_function"])
    places = {node: index for index, node in enumerate(calls)}
    for repeat in find_repeats(call_lines(calls, symbol_names(small))):
        if repeat.count > _KEPT:
            _skip(repeat, calls, places)
    _order(small, calls)
    remove_dead(small)
    return small


def _skip(repeat: Repeat, calls: Sequence[fx.Node], places: dict[fx.Node, int]) -> None:
    """Let what follows the repeat read its second iteration in place of the last; nothing if it reads any other."""
    moved: list[tuple[fx.Node, fx.Node, fx.Node]] = []
    for index in range(repeat.start + _KEPT * repeat.period, repeat.end):
        iteration, offset = repeat.place(index)
        for user in calls[index].users:
            if repeat.start <= places.get(user, len(calls)) < repeat.end:
                continue
            if iteration != repeat.count - 1:
                return
            moved.append((user, calls[index], calls[repeat.start + (_KEPT - 1) * repeat.period + offset]))
    for user, old, new in moved:
        user.replace_input_with(old, new)


def _order(program: Program, calls: Sequence[fx.Node]) -> None:
    """Put the nodes in the order in which the repeats were found: every node behind what it reads."""
    for node in calls:
        program.output.prepend(node)
