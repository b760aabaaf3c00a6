"""The engine: what it replaces, what it leaves, what it says, and when it stops."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import pytest
import torch
from torch import fx

from burnish.ir.edit import Editor
from burnish.ir.errors import InvalidProgramError
from burnish.ir.interpreter import run
from burnish.ir.program import Program
from burnish.rewrite.engine import Attempt, Lookalike, Refusal, Rule, rewrite
from burnish.rewrite.matching import Match
from burnish.rewrite.pattern import Variable, op
from tests.rewrite.graphs import SHAPE, Builder

aten = torch.ops.aten

x, y = Variable("x"), Variable("y")
exp, log = op("exp", aten.exp.default), op("log", aten.log.default)


@dataclass
class Notes:
    rewrites: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[tuple[str, str]] = field(default_factory=list)

    def rewrite(self, node: fx.Node, text: str) -> None:
        self.rewrites.append((node.name, text))

    def refuse(self, node: fx.Node, reason: str) -> None:
        self.refusals.append((node.name, reason))


def to_add(editor: Editor, match: Match) -> fx.Node:
    return editor.call(aten.add.Tensor, match.node(x), match.node(y), like=match.root)


# exp(x) * exp(y) = exp(x + y)
PRODUCT = Rule(
    "product of exponentials",
    exp(x) * exp(y),
    lambda editor, match: editor.call(aten.exp.default, to_add(editor, match), like=match.root),
)
# log(exp(x)) = x
INVERSE = Rule("logarithm of an exponential", log(exp(x)), lambda editor, match: match.node(x))


def targets(program: Program) -> list[str]:
    return [str(node.target).split(".")[1] for node in program.graph.nodes if node.op == "call_function"]


def example() -> list[torch.Tensor]:
    return [torch.zeros(2, 3, dtype=torch.int64), torch.rand(SHAPE), torch.rand(SHAPE)]


def test_a_rewrite_keeps_the_value_and_removes_what_is_dead() -> None:
    b = Builder()
    program = b.giving(
        b.call(aten.mul.Tensor, b.call(aten.exp.default, b.x), b.call(aten.exp.default, b.y)),
    )
    inputs, notes = example(), Notes()
    (expected,) = run(program, inputs)
    assert rewrite(program, [PRODUCT], notes) == 1
    assert targets(program) == ["add", "exp"]
    torch.testing.assert_close(run(program, inputs)[0], expected)
    assert notes.rewrites == [("mul_tensor", "product of exponentials")]


def test_what_else_reads_the_interior_keeps_it() -> None:
    b = Builder()
    one = b.call(aten.exp.default, b.x)
    program = b.giving(b.call(aten.mul.Tensor, one, b.call(aten.exp.default, b.y)), one)
    inputs = example()
    expected = run(program, inputs)
    rewrite(program, [PRODUCT], Notes())
    assert targets(program) == ["exp", "add", "exp"]
    for found, value in zip(run(program, inputs), expected, strict=True):
        torch.testing.assert_close(found, value)


def test_rules_build_on_one_another_in_one_walk() -> None:
    b = Builder()
    product = b.call(aten.mul.Tensor, b.call(aten.exp.default, b.x), b.call(aten.exp.default, b.y))
    program = b.giving(b.call(aten.log.default, product))
    assert rewrite(program, [PRODUCT, INVERSE], Notes()) == 2
    assert targets(program) == ["add"]


def test_the_first_rule_that_applies_wins() -> None:
    b = Builder()
    program = b.giving(b.call(aten.log.default, b.call(aten.exp.default, b.x)))

    def refuse(editor: Editor, match: Match) -> fx.Node:
        raise Lookalike("never", match.root)

    never = Rule("never", log(exp(x)), refuse)
    notes = Notes()
    rewrite(program, [never, INVERSE, Rule("too late", log(exp(x)), lambda editor, match: match.node(x))], notes)
    assert [text for _, text in notes.rewrites] == ["logarithm of an exponential"]


def test_new_nodes_keep_the_origin_of_the_old() -> None:
    b = Builder()
    root = b.call(aten.mul.Tensor, b.call(aten.exp.default, b.x), b.call(aten.exp.default, b.y))
    root.meta["origin"] = "the user's line"
    program = b.giving(root)
    origins: list[object] = []

    def replace(editor: Editor, match: Match) -> fx.Node:
        new = to_add(editor, match)
        origins.append(match.root.meta["origin"])
        return new

    rewrite(program, [Rule("sum", exp(x) * exp(y), replace)], Notes())
    assert origins == ["the user's line"]


def test_a_refusal_carries_reason_and_culprit() -> None:
    def refuse(editor: Editor, match: Match) -> fx.Node:
        raise Refusal("it is Tuesday", match.node(x))

    b = Builder()
    program = b.giving(b.call(aten.log.default, b.call(aten.exp.default, b.x)))
    notes = Notes()
    assert rewrite(program, [Rule("not today", log(exp(x)), refuse)], notes) == 0
    assert targets(program) == ["exp", "log"]
    assert notes.refusals == [("log_default", "not today: it is Tuesday (at x (x))")]


def test_a_refusal_is_forgotten_where_another_rule_applies() -> None:
    def refuse(program: Program, match: Match) -> None:
        raise Refusal("no", match.root)

    b = Builder()
    program = b.giving(b.call(aten.log.default, b.call(aten.exp.default, b.x)))
    notes = Notes()
    rewrite(program, [Rule("no", log(exp(x)), INVERSE.replace, refuse), INVERSE], notes)
    assert len(notes.rewrites) == 1
    assert not notes.refusals


def test_a_guard_tries_the_other_ways_to_match() -> None:
    """x * y matches both ways round; the guard takes the one where x is the exponential."""
    b = Builder()
    program = b.giving(b.call(aten.mul.Tensor, b.x, b.call(aten.exp.default, b.y)))
    seen: list[str] = []

    def guard(program: Program, match: Match) -> None:
        seen.append(match.node(x).name)
        if match.node(x).target is not aten.exp.default:
            raise Lookalike("no exponential", match.node(x))

    rewrite(program, [Rule("any product", x * y, to_add, guard)], Notes())
    assert seen == ["x", "exp_default"]
    assert targets(program) == ["exp", "add"]


def test_a_near_miss_is_told_and_a_far_one_is_not() -> None:
    long = Rule("long", log(exp(exp(exp(exp(x))))), lambda editor, match: match.node(x))
    b = Builder()
    near = b.call(aten.log.default, b.x)
    for _ in range(3):
        near = b.call(aten.exp.default, near)
    program = b.giving(b.call(aten.log.default, near))
    notes = Notes()
    rewrite(program, [long], notes)
    assert [reason for _, reason in notes.refusals] == [
        "long: 4 of 5 ops matched; then expected exp, found aten.log.default at log_default (aten.log.default)"
    ]
    b = Builder()
    program = b.giving(b.call(aten.log.default, b.x))
    notes = Notes()
    rewrite(program, [long], notes)
    assert not notes.refusals


def test_who_watches_sees_each_rule_that_can_begin_there() -> None:
    b = Builder()
    program = b.giving(b.call(aten.log.default, b.call(aten.log.default, b.call(aten.exp.default, b.x))))
    seen: list[Attempt] = []
    rewrite(program, [PRODUCT, INVERSE], Notes(), seen.append)
    assert [(attempt.rule, attempt.node.name, attempt.made) for attempt in seen] == [
        (INVERSE, "log_default", True),
        (INVERSE, "log_default_1", False),
    ]
    assert {node.name for node in seen[0].ops} == {"log_default", "exp_default"}
    miss = seen[1].miss
    assert miss is not None
    assert (miss.matched, miss.total, miss.expected, miss.found) == (1, 2, "exp", "x")


def test_a_lookalike_is_told_only_where_much_of_it_was_there() -> None:
    def alike(editor: Editor, match: Match) -> fx.Node:
        raise Lookalike("it only looks alike", match.root)

    b = Builder()
    program = b.giving(b.call(aten.log.default, b.call(aten.exp.default, b.call(aten.exp.default, b.x))))
    notes = Notes()
    seen: list[Attempt] = []
    rewrite(program, [Rule("short", log(exp(x)), alike)], notes, seen.append)
    assert not notes.refusals
    assert [str(attempt.refusal) for attempt in seen] == ["it only looks alike (at log_default (aten.log.default))"]
    b = Builder()
    node = b.x
    for target in (aten.exp.default, aten.exp.default, aten.exp.default, aten.log.default):
        node = b.call(target, node)
    rewrite(b.giving(node), [Rule("long", log(exp(exp(exp(x)))), alike)], notes)
    assert notes.refusals == [("log_default", "long: it only looks alike (at log_default (aten.log.default))")]


def test_a_rule_that_changes_the_type_is_a_bug() -> None:
    b = Builder()
    program = b.giving(b.call(aten.log.default, b.call(aten.exp.default, b.x)))
    wrong = Rule(
        "wrong",
        log(exp(x)),
        lambda editor, match: editor.call(aten.to.dtype, match.node(x), torch.float64, like=match.root),
    )
    with pytest.raises(InvalidProgramError, match=r"'wrong' made torch\.float64"):
        rewrite(program, [wrong], Notes())


def test_a_pattern_must_begin_with_an_op() -> None:
    b = Builder()
    program = b.giving(b.call(aten.exp.default, b.x))
    with pytest.raises(TypeError, match="must begin with an op"):
        rewrite(program, [Rule("anything", x, lambda editor, match: match.node(x))], Notes())


def test_a_long_chain_takes_time_in_proportion() -> None:
    """Commuting sums of sums could be tried in exponentially many ways; each node is the root of few attempts."""
    b = Builder()
    node = b.x
    for _ in range(2000):
        node = b.call(aten.add.Tensor, node, b.y)
    program = b.giving(node)
    pattern = Variable("a") + (Variable("b") + (Variable("c") + (Variable("d") + exp(x))))
    started = time.perf_counter()
    assert rewrite(program, [Rule("no such sum", pattern, lambda editor, match: match.node(x))], Notes()) == 0
    assert time.perf_counter() - started < 5
