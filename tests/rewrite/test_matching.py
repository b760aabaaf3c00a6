"""Patterns match what they say: through schemas, both ways round, one variable one node, numbers exactly."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from burnish.rewrite.matching import Match, Matcher
from burnish.rewrite.pattern import Argument, Axis, Maybe, Number, Pattern, Variable, either, mul, op, size
from burnish.rewrite.words import cast, mean_of, square, stack
from tests.rewrite.graphs import Builder

aten = torch.ops.aten

x, y, number = Variable("x"), Variable("y"), Number("number")
exp = op("exp", aten.exp.default)
softmax = op("softmax", aten.softmax.int)
getitem = op("getitem", operator.getitem)


def matches(pattern: Pattern, builder: Builder, root: fx.Node) -> list[Match]:
    return list(Matcher(pattern, builder.giving(root)).matches(root))


def test_positional_keyword_and_default_arguments_are_one() -> None:
    for args, kwargs in (((1, None), {}), ((1,), {}), ((), {"dim": 1}), ((), {"dtype": None, "dim": 1})):
        b = Builder()
        root = b.call(aten.softmax.int, b.x, *args, **kwargs)
        assert len(matches(softmax(x, 1), b, root)) == 1


def test_what_a_pattern_does_not_mention_has_its_default() -> None:
    b = Builder()
    assert not matches(x + y, b, b.call(aten.add.Tensor, b.x, b.y, alpha=2))
    b = Builder()
    assert matches(x + y, b, b.call(aten.add.Tensor, b.x, b.y, alpha=1))
    b = Builder()
    assert not matches(softmax(x, 1), b, b.call(aten.softmax.int, b.x, 1, torch.float64))


def test_addition_and_multiplication_commute_and_subtraction_does_not() -> None:
    for pattern, expected in ((exp(x) + y, 1), (y + exp(x), 1), (y * exp(x), 0), (exp(x) - y, 0)):
        b = Builder()
        root = b.call(aten.add.Tensor, b.y, b.call(aten.exp.default, b.x))
        assert len(matches(pattern, b, root)) == expected
    b = Builder()
    root = b.call(aten.sub.Tensor, b.y, b.call(aten.exp.default, b.x))
    assert not matches(exp(x) - y, b, root)
    assert matches(y - exp(x), b, root)


def test_one_variable_is_one_node() -> None:
    b = Builder()
    assert matches(mul(x, x), b, b.call(aten.mul.Tensor, b.x, b.x))
    b = Builder()
    assert not matches(mul(x, x), b, b.call(aten.mul.Tensor, b.x, b.y))


def test_a_pattern_used_twice_is_one_node() -> None:
    inner = exp(x)
    b = Builder()
    first, second = b.call(aten.exp.default, b.x), b.call(aten.exp.default, b.x)
    assert matches(mul(inner, inner), b, b.call(aten.mul.Tensor, first, first))
    b = Builder()
    first, second = b.call(aten.exp.default, b.x), b.call(aten.exp.default, b.x)
    assert not matches(mul(inner, inner), b, b.call(aten.mul.Tensor, first, second))


def test_backtracking_finds_the_order_that_fits_all() -> None:
    """x binds to the first operand first; only the other order makes the second product fit."""
    b = Builder()
    left, right = b.call(aten.mul.Tensor, b.x, b.y), b.call(aten.exp.default, b.y)
    found = matches(mul(x, y) + exp(x), b, b.call(aten.add.Tensor, left, right))
    assert [match.node(x).name for match in found] == ["y"]


@pytest.mark.parametrize(("given", "fits"), [(2, True), (2.0, True), (2.5, False), (True, False)])
def test_numbers_in_patterns_are_exact(given: Any, fits: bool) -> None:
    b = Builder()
    assert bool(matches(x**2, b, b.call(aten.pow.Tensor_Scalar, b.x, given))) == fits


def test_a_weight_without_axes_is_a_number() -> None:
    b = Builder()
    found = matches(x * number, b, b.call(aten.mul.Tensor, b.x, b.stored(torch.tensor(0.25))))
    assert [match.number(number) for match in found] == [0.25]
    b = Builder()
    assert matches(x * 3, b, b.call(aten.mul.Tensor, b.x, b.stored(torch.tensor(3.0))))
    b = Builder()
    assert not matches(x * number, b, b.call(aten.mul.Tensor, b.x, b.stored(torch.ones(8))))


def test_axes_count_from_both_ends() -> None:
    for axis, fits in (([-1], True), ([2], True), ([1], False), ([-1, 1], False)):
        b = Builder()
        root = b.call(aten.mean.dim, b.x, axis, True)
        assert bool(matches(mean_of(x, Axis(-1), True), b, root)) == fits
    for axis, fits in ((-1, True), (3, True), (2, False)):
        b = Builder()
        assert bool(matches(stack([x, y], Axis(-1)), b, b.call(aten.stack.default, [b.x, b.y], axis))) == fits


def test_lists_match_element_by_element() -> None:
    b = Builder()
    root = b.call(aten.stack.default, [b.x, b.y], 0)
    assert matches(stack([x, y]), b, root)
    assert not list(Matcher(stack([x, y, x]), b.giving(root)).matches(root))


def test_either_leaves_the_other_options_unbound() -> None:
    pattern = either(exp(x), mul(y, number))
    b = Builder()
    (found,) = matches(pattern, b, b.call(aten.mul.Tensor, b.x, 3.0))
    assert x not in found
    assert found.node(y).name == "x"
    assert found.number(number) == 3.0


def test_maybe_takes_the_op_or_nothing() -> None:
    pattern = exp(cast(x))
    b = Builder()
    (found,) = matches(pattern, b, b.call(aten.exp.default, b.x))
    assert found.node(x).name == "x"
    b = Builder()
    root = b.call(aten.exp.default, b.call(aten.to.dtype, b.x, torch.float64))
    assert [match.node(x).name for match in matches(pattern, b, root)] == ["x", "to_dtype"]


def test_an_argument_is_taken_as_it_is() -> None:
    shape = Argument("shape")
    b = Builder()
    (found,) = matches(op("reshape", aten.reshape.default)(x, shape), b, b.call(aten.reshape.default, b.x, [6, 8]))
    assert found[shape] == [6, 8]


def test_python_functions_match_by_position() -> None:
    b = Builder()
    root = b.call(operator.getitem, b.call(aten.split.Tensor, b.x, 4, -1), 1)
    assert matches(getitem(op("split", aten.split.Tensor)(x, 4, -1), 1), b, root)


def test_the_variable_says_what_it_takes() -> None:
    weight = Variable("weight", lambda node: node.op == "get_attr", "a weight")
    b = Builder()
    root = b.call(aten.mul.Tensor, b.x, b.stored(torch.ones(8)))
    assert [match.node(weight).op for match in matches(mul(x, weight), b, root)] == ["get_attr"]


def test_the_nearest_miss_is_the_deepest() -> None:
    b = Builder()
    root = b.call(aten.mul.Tensor, b.x, b.call(aten.exp.default, b.call(aten.add.Tensor, b.x, 2)))
    matcher = Matcher(x * exp(x + 1), b.giving(root))
    assert not list(matcher.matches(root))
    miss = matcher.miss(root)
    assert (miss.matched, miss.total) == (3, 3)
    assert str(miss) == "3 of 3 ops matched; then expected 1, found 2 at add_tensor (aten.add.Tensor)"


def test_a_miss_says_which_node_was_expected_a_second_time() -> None:
    b = Builder()
    root = b.call(aten.mul.Tensor, b.x, b.call(aten.exp.default, b.y))
    matcher = Matcher(x * exp(x), b.giving(root))
    assert not list(matcher.matches(root))
    miss = matcher.miss(root)
    assert (miss.matched, miss.expected, miss.found) == (2, "x, which is x", "y")


def test_size_counts_each_op_once() -> None:
    inner = exp(x)
    assert size(mul(inner, inner)) == 2
    assert size(square(x)) == 1
    assert size(Maybe(exp.__class__("exp", exp.targets), mul(x, y))) == 1


Grouping = Callable[[Builder, list[fx.Node]], fx.Node]


@given(order=st.permutations([0, 1, 2]), left=st.booleans(), nested=st.booleans())
def test_a_product_matches_in_any_order(order: list[int], left: bool, nested: bool) -> None:
    """exp(x) * y * 3 in each grouping and order of the graph is found by one pattern of products in any order."""
    b = Builder()
    factors: list[Any] = [b.call(aten.exp.default, b.x), b.y, b.stored(torch.tensor(3.0))]
    first, second, third = (factors[index] for index in order)
    inner = b.call(aten.mul.Tensor, *((first, second) if left else (second, first)))
    root = b.call(aten.mul.Tensor, *((inner, third) if nested else (third, inner)))
    wanted = [exp(x), y, Number("three")]
    one, two, three = (wanted[index] for index in order)
    found = matches(mul(three, mul(one, two)), b, root)
    assert any(match.node(wanted[0]).name == "exp_default" for match in found)
