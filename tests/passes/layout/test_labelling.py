"""Labellings of small graphs beside the best that there is, found by trying all."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.passes.layout.labelling import INFINITE, Edge, Problem, single, solve

_COSTS = st.integers(0, 9).map(float)


@st.composite
def problems(draw: Any, labels: int, agreeable: bool) -> Problem:
    """Up to 10 nodes (8 with four labels), some of which cannot have some label.

    agreeable: an edge costs nothing where its ends have one label, as a conversion does.
    """
    count = draw(st.integers(1, 10 if labels < 4 else 8))
    costs = []
    for _ in range(count):
        given = draw(st.lists(_COSTS, min_size=labels, max_size=labels))
        cannot = draw(st.none() | st.integers(0, labels - 1))
        costs.append(tuple(INFINITE if label == cannot else cost for label, cost in enumerate(given)))
    edges = []
    for _ in range(draw(st.integers(0, 2 * count))):
        first, second = draw(st.integers(0, count - 1)), draw(st.integers(0, count - 1))
        if first != second:
            matrix = [draw(st.lists(_COSTS, min_size=labels, max_size=labels)) for _ in range(labels)]
            if agreeable:
                matrix = [
                    [0.0 if one == other else cost for other, cost in enumerate(row)] for one, row in enumerate(matrix)
                ]
            edges.append(Edge(first, second, tuple(map(tuple, matrix))))
    return Problem(costs, edges)


def _least(problem: Problem) -> float:
    """Of all labellings at once."""
    count = len(problem.costs)
    every = np.indices((problem.labels,) * count).reshape(count, -1)
    total = sum(np.array(costs)[labels] for costs, labels in zip(problem.costs, every, strict=True))
    for edge in problem.edges:
        total = total + np.array(edge.costs)[every[edge.first], every[edge.second]]
    return float(np.min(total))


def _best_single(problem: Problem) -> float:
    return min(problem.energy(single(problem, label)) for label in range(problem.labels))


@settings(max_examples=300, deadline=None)
@given(problems(labels=2, agreeable=True))
def test_with_two_labels_it_is_the_least(problem: Problem) -> None:
    assert problem.energy(solve(problem)) == _least(problem)


@settings(max_examples=300, deadline=None)
@given(st.integers(3, 4).flatmap(lambda labels: problems(labels=labels, agreeable=False)))
def test_it_is_never_worse_than_one_label_everywhere(problem: Problem) -> None:
    found = problem.energy(solve(problem))
    assert _least(problem) <= found <= _best_single(problem)


@st.composite
def equal_distances(draw: Any) -> Problem:
    """Three labels or four, of which any two are equally far apart on an edge."""
    labels = draw(st.integers(3, 4))
    problem = draw(problems(labels=labels, agreeable=True))
    edges = []
    for edge in problem.edges:
        far = draw(_COSTS)
        matrix = tuple(tuple(0.0 if one == other else far for other in range(labels)) for one in range(labels))
        edges.append(Edge(edge.first, edge.second, matrix))
    return Problem([tuple(min(cost, 9.0) for cost in each) for each in problem.costs], edges)


@settings(max_examples=300, deadline=None)
@given(equal_distances())
def test_of_equal_distances_it_is_at_most_twice_the_least(problem: Problem) -> None:
    assert problem.energy(solve(problem)) <= 2 * _least(problem)


def test_a_graph_without_nodes_has_no_labels() -> None:
    assert solve(Problem([], [])) == []
