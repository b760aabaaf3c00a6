"""Groups of operations on elements and rows: what they are, what stays apart and why, that the numbers hold."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from burnish.frontend import read
from burnish.frontend.capture import capture
from burnish.ir.cost import CostCounter
from burnish.ir.full_text import full_text
from burnish.ir.fused_group import parse_group
from burnish.ir.interpreter import run
from burnish.ir.parse import parse_program
from burnish.ir.program import Program
from burnish.ir.serialize import program_from_data, program_to_data
from burnish.ir.text import call_text
from burnish.ir.trace import Trace
from burnish.passes.base import Log
from burnish.passes.fuse.elementwise import FuseElementwise
from burnish.passes.pipeline import check, run_passes
from burnish.passes.pipelines import fuse_for_gpu, make_incremental
from burnish.passes.raise_.clean import Clean
from burnish.passes.raise_.norm import RAISE_NORMS
from burnish.passes.verify import Verifier
from tests.passes.spelled import Body, Spelled, captured
from tests.zoo.configs import build


def odd_activation(m: Spelled, x: Tensor) -> Tensor:
    return x * torch.tanh(F.softplus(x)) + 0.5


def norm_of_residual(m: Spelled, x: Tensor) -> Tensor:
    y = x + m.gate(x).tanh()
    return y + (y - y.mean(-1, keepdim=True)).exp().softmax(-1) * m.weight


def halves(m: Spelled, x: Tensor) -> Tensor:
    first, second = m.up(x).sin().chunk(2, dim=-1)
    return torch.cat((first.cos() * second, second), dim=-1)


def heads(m: Spelled, x: Tensor) -> Tensor:
    return m.gate(x).unflatten(-1, (2, 4)).sin().transpose(1, 2).cos().transpose(1, 2).flatten(-2)


def around_a_product(m: Spelled, x: Tensor) -> Tensor:
    y = m.gate(x).sin()
    return m.up(y).cos() + y


def over_tokens(m: Spelled, x: Tensor) -> Tensor:
    return x.sin().sum(1, keepdim=True) * m.gate(x).cos()


def of_other_rows(m: Spelled, x: Tensor) -> Tensor:
    tables = m.gate.weight.sin()
    return x + (tables.cos().sum(0) + tables.sin().sum(0))


def alone(m: Spelled, x: Tensor) -> Tensor:
    return m.up(m.gate(x).sin())


BODIES: dict[str, Body] = {
    body.__name__: body
    for body in (odd_activation, norm_of_residual, halves, heads, around_a_product, over_tokens, of_other_rows, alone)
}
PROGRAMS: dict[str, Program] = {}


def program_of(name: str) -> Program:
    if not PROGRAMS:
        for each, program in captured(BODIES).items():
            PROGRAMS[each] = Clean().run(program, Log())
    return PROGRAMS[name]


def grouped(program: Program) -> tuple[Program, Log]:
    log = Log()
    after = FuseElementwise().run(program.copy(), log)
    check(after, "fuse-elementwise")
    return after, log


def bodies(program: Program) -> list[str]:
    """The groups, a line each operation, without types and places."""
    found = []
    for node in program.graph.nodes:
        if node.op == "call_function" and "body" in node.kwargs:
            lines = [re.sub(r": .*? = ", " = ", line.split("  # ")[0]) for line in node.kwargs["body"].splitlines()]
            found.append("\n".join(re.sub(r": .*", "", line) for line in lines))
    return found


def left(program: Program) -> list[str]:
    """The operations outside of groups."""
    calls = [node for node in program.graph.nodes if node.op == "call_function" and "body" not in node.kwargs]
    return [call_text(node).split("(")[0] for node in calls if not call_text(node).startswith(("aten.sym", "getitem"))]


def test_an_activation_of_its_own_is_one_group_with_what_it_reads() -> None:
    before = program_of("odd_activation")
    assert left(before) == ["aten.embedding", "aten.softplus", "aten.tanh", "aten.mul.Tensor", "aten.add.Tensor"]
    after, log = grouped(before)
    assert left(after) == []
    assert bodies(after) == [
        "input %embed_weight\n"
        "input %tokens\n"
        "%embedding = aten.embedding(%embed_weight, %tokens)\n"
        "%softplus = aten.softplus(%embedding)\n"
        "%tanh = aten.tanh(%softplus)\n"
        "%mul = aten.mul.Tensor(%embedding, %tanh)\n"
        "%add = aten.add.Tensor(%mul, 0.5)\n"
        "return [%add]"
    ]
    assert [entry.text.split(":")[0] for entry in log.rewrites] == ["embedding, softplus, tanh, mul, add"]


def test_reductions_along_the_last_axis_join() -> None:
    after, _ = grouped(program_of("norm_of_residual"))
    assert left(after) == ["aten.embedding", "aten.linear"]
    assert bodies(after) == [
        "input %gate\n"
        "input %embedding\n"
        "input %weight\n"
        "%tanh = aten.tanh(%gate)\n"
        "%add = aten.add.Tensor(%embedding, %tanh)\n"
        "%mean = aten.mean.dim(%add, [-1], True)\n"
        "%sub = aten.sub.Tensor(%add, %mean)\n"
        "%exp = aten.exp(%sub)\n"
        "%softmax = aten.softmax.int(%exp, -1)\n"
        "%mul = aten.mul.Tensor(%softmax, %weight)\n"
        "%add_1 = aten.add.Tensor(%add, %mul)\n"
        "return [%add_1]"
    ]


def test_views_between_members_are_part_of_the_group() -> None:
    after, _ = grouped(program_of("halves"))
    (body,) = bodies(after)
    assert body == (
        "input %up\n"
        "%sin = aten.sin(%up)\n"
        "%split = aten.split.Tensor(%sin, 4, -1)\n"
        "%split_part = getitem(%split, 0)\n"
        "%split_part_1 = getitem(%split, 1)\n"
        "%cos = aten.cos(%split_part)\n"
        "%mul = aten.mul.Tensor(%cos, %split_part_1)\n"
        "%cat = aten.cat([%mul, %split_part_1], -1)\n"
        "return [%cat]"
    )
    after, _ = grouped(program_of("heads"))
    (body,) = bodies(after)
    assert "%sin = aten.sin(" in body
    assert "%transpose = aten.transpose.int(%sin, 1, 2)" in body
    assert "%cos = aten.cos(%transpose)" in body


@pytest.mark.parametrize(
    ("name", "kept", "reason"),
    [
        ("around_a_product", ["aten.linear", "aten.sin", "aten.linear"], "reads the one and is read by the other"),
        ("over_tokens", ["aten.sum.dim_IntList"], "it reduces another axis than the last one"),
    ],
)
def test_what_stays_apart_says_why(name: str, kept: list[str], reason: str) -> None:
    after, log = grouped(program_of(name))
    assert [op for op in left(after) if op in kept] == kept
    assert any(reason in entry.text for entry in log.refusals)


def test_one_operation_stays_as_it_is() -> None:
    before = program_of("alone")
    after, log = grouped(before)
    assert (left(after), bodies(after), log.rewrites) == (left(before), [], [])


@pytest.mark.parametrize("name", BODIES)
def test_numbers_hold_bit_by_bit(name: str) -> None:
    before = program_of(name)
    after, _ = grouped(before)
    for shape in ((1, 1), (2, 7)):
        ids = torch.randint(31, shape, generator=torch.Generator().manual_seed(0))
        assert torch.equal(run(after, [ids])[0], run(before, [ids])[0])


@pytest.mark.parametrize("name", BODIES)
def test_a_group_counts_as_one_launch_and_saves_what_it_says(name: str) -> None:
    before = program_of(name)
    after, log = grouped(before)
    old, new = ([CostCounter(program).cost(node) for node in program.graph.nodes] for program in (before, after))
    said = sum(int(re.search(r"(\d+) bytes", entry.text)[1]) for entry in log.rewrites)  # type: ignore[index]
    assert sum(cost.bytes_moved for cost in old) - sum(cost.bytes_moved for cost in new) == said
    steps = [parse_group(node.kwargs["body"]).steps for node in after.graph.nodes if "body" in node.kwargs]
    fewer = sum(cost.launches for cost in old) - sum(cost.launches for cost in new)
    assert 0 <= fewer <= sum(len(each) - 1 for each in steps)


def test_a_program_with_groups_is_saved_and_read_back() -> None:
    after, _ = grouped(program_of("norm_of_residual"))
    ids = torch.randint(31, (2, 3))
    expected = run(after, [ids])[0]
    weights = after.weights
    again = program_from_data(program_to_data(after), weights, after.signature)
    assert torch.equal(run(again, [ids])[0], expected)
    text = full_text(after)
    parsed = parse_program(text, dict(weights.items()))
    assert torch.equal(run(parsed, [ids])[0], expected)
    assert full_text(parsed) == text


class Drawn(nn.Module):
    """A few operations in an order that is drawn, each on values before it."""

    def __init__(self, picks: list[tuple[int, int, int]]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.picks = picks
        self.embed, self.linear = nn.Embedding(31, 8), nn.Linear(8, 8)

    def forward(self, ids: Tensor) -> Tensor:
        values = [self.embed(ids)]
        for op, first, second in self.picks:
            a, b = values[first % len(values)], values[second % len(values)]
            made = [a + b, a * b.sigmoid(), self.linear(a), a.softmax(-1), a - b.mean(-1, keepdim=True), a.cos()][op]
            values.append(made)
        return values[-1] + values[len(values) // 2]


@settings(max_examples=12, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=9))
def test_any_graph_keeps_its_numbers(picks: list[tuple[int, int, int]]) -> None:
    before = Clean().run(capture(Drawn(picks).eval(), max_length=32), Log())
    after, _ = grouped(before)
    ids = torch.randint(31, (2, 5))
    assert torch.equal(run(after, [ids])[0], run(before, [ids])[0])


class Squared(nn.Module):
    """A norm and an activation that nobody has a template for."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.down = nn.Embedding(31, 8), nn.Linear(8, 12), nn.Linear(12, 8)
        self.norm = nn.RMSNorm(8, eps=1e-6)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        y = F.hardtanh(self.up(x)).square() * 1.5
        return x + self.norm(self.down(y)) * x.sigmoid()


def test_a_module_of_ones_own() -> None:
    torch.manual_seed(0)
    program = RAISE_NORMS.run(Clean().run(capture(Squared().eval(), max_length=32), Log()), Log())
    after, log = grouped(program)
    assert left(after) == ["aten.embedding", "aten.linear", "aten.linear"]
    assert [entry.text.split(":")[0] for entry in log.rewrites] == ["hardtanh, pow, mul", "rms_norm, sigmoid, mul, add"]


@pytest.mark.parametrize("model_type", ["falcon", "olmo2", "persimmon", "deepseek_v3", "gpt_oss", "lfm2"])
def test_a_whole_model_keeps_its_numbers_at_every_stop(model_type: str) -> None:
    step = run_passes(read(build(model_type)).program, make_incremental(), Trace())
    trace = Trace()
    run_passes(step, fuse_for_gpu(), trace, verifier=Verifier(step))
    before, after = trace.passes[-2:]
    assert after.rewrites
    assert after.launches < before.launches
    assert after.floor_bytes <= after.bytes_moved < before.bytes_moved
    assert after.verification is not None
    assert after.verification.difference == 0
    *others, last = fuse_for_gpu()
    program = run_passes(step, others, Trace())
    for fuel in range(1, len(after.rewrites), 3):
        run_passes(program, [last], Trace(), fuel=fuel, verifier=Verifier(program))
