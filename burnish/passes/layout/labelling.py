"""One label for each node of a graph, so that what nodes and edges cost is small: minimum cuts.

With two labels, and edges that like their ends to agree, one cut gives the least. With more, alpha-expansion: in turns,
each label is offered to all nodes at once, and one cut says which of them take it (Boykov, Veksler and Zabih, 2001).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import networkx as nx

INFINITE = float("inf")
_LEAST = 1e-9  # of what everything costs: a smaller gain is a rounding error


@dataclass(frozen=True)
class Edge:
    """`costs[i][j]`: where `first` has label i and `second` label j. Finite, and not negative."""

    first: int
    second: int
    costs: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Problem:
    """`costs[v][i]`: of node v with label i; INFINITE where it cannot have it. Each node can have one at least."""

    costs: Sequence[Sequence[float]]
    edges: Sequence[Edge]

    @property
    def labels(self) -> int:
        return len(self.costs[0]) if self.costs else 0

    def energy(self, labelling: Sequence[int]) -> float:
        """What a labelling costs."""
        nodes = sum(costs[label] for costs, label in zip(self.costs, labelling, strict=True))
        return nodes + sum(each.costs[labelling[each.first]][labelling[each.second]] for each in self.edges)


def single(problem: Problem, label: int) -> list[int]:
    """One label wherever it is possible, and the cheapest elsewhere."""
    return [
        label if costs[label] < INFINITE else min(range(problem.labels), key=costs.__getitem__)
        for costs in problem.costs
    ]


def solve(problem: Problem) -> list[int]:
    """No more than any single label everywhere; with two labels, and edges that like agreement, the least."""
    singles = [single(problem, label) for label in range(problem.labels)]
    if not singles:
        return []
    energies = [problem.energy(each) for each in singles]
    least = min(energies)
    best = singles[energies.index(least)]
    smallest = _LEAST * max(1.0, least)
    improved = True
    while improved:
        improved = False
        for offered in singles:
            moved = _expand(problem, best, offered)
            energy = problem.energy(moved)
            if energy < least - smallest:
                best, least, improved = moved, energy, True
    return best


def _expand(problem: Problem, current: Sequence[int], offered: Sequence[int]) -> list[int]:
    """The best choice, for each node, between the label that it has and the one that it is offered.

    An edge that would rather have its ends differ is taken to cost more where they do than it does.
    """
    free = {v for v, (one, other) in enumerate(zip(current, offered, strict=True)) if one != other}
    keep = {v: problem.costs[v][current[v]] for v in free}
    take = {v: problem.costs[v][offered[v]] for v in free}
    network = nx.DiGraph()
    for edge in problem.edges:
        u, v, costs = edge.first, edge.second, edge.costs
        both_keep, v_takes = costs[current[u]][current[v]], costs[current[u]][offered[v]]
        u_takes, both_take = costs[offered[u]][current[v]], costs[offered[u]][offered[v]]
        if u in free and v in free:
            apart = v_takes + u_takes - both_keep - both_take
            take[u] += u_takes - both_keep
            take[v] += both_take - u_takes
            if apart > 0:
                _add(network, u, v, apart)
        elif u in free:
            keep[u] += both_keep
            take[u] += u_takes
        elif v in free:
            keep[v] += both_keep
            take[v] += v_takes
    for v in free:  # only the difference counts, and a capacity is not negative
        least = min(keep[v], take[v])
        _add(network, "keep", v, take[v] - least)
        _add(network, v, "take", keep[v] - least)
    if not network.has_node("keep") or not network.has_node("take"):
        return list(current)
    kept = nx.minimum_cut(network, "keep", "take")[1][0]
    return [offered[v] if v in free and v not in kept else label for v, label in enumerate(current)]


def _add(network: nx.DiGraph, source: object, target: object, capacity: float) -> None:
    """More capacity from one node to another."""
    known = network[source][target]["capacity"] if network.has_edge(source, target) else 0.0
    network.add_edge(source, target, capacity=known + capacity)
