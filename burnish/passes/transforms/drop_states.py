"""States that nothing reads any more, removed from a program that has states; those that stay are numbered anew."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import fx

from burnish.ir.edit import remove_dead
from burnish.ir.program import Program

_NUMBER = re.compile(r"(.*?)(\d+)")


def drop_states(program: Program) -> None:
    """Remove, in place, each state that neither a result nor a state that it needs is made from.

    States are called by a word and a number (`key_3`); the numbers of those that stay have no gaps.
    """
    inputs = program.state_inputs
    made = dict(zip(inputs, program.new_states, strict=True))
    needed: set[fx.Node] = set()
    stack = [*program.results.values()]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack += [*node.all_input_nodes, *([made[node]] if node in made else [])]
    kept = [(node, state) for node, state in zip(inputs, program.states, strict=True) if node in needed]
    program.give(program.results, [made[node] for node, _ in kept])
    remove_dead(program)
    for node in inputs:
        if node not in needed:
            program.graph.erase_node(node)
    numbers: dict[str, set[int]] = {}
    for _, state in kept:
        word, number = _word_and_number(state.name)
        numbers.setdefault(word, set()).add(number)
    states = []
    for node, state in kept:
        word, number = _word_and_number(state.name)
        name = f"{word}{sorted(numbers[word]).index(number)}"
        node.name = node.target = name
        states.append(replace(state, name=name))
    program.states = tuple(states)


def _word_and_number(name: str) -> tuple[str, int]:
    found = _NUMBER.fullmatch(name)
    return (found[1], int(found[2])) if found else (name, 0)
