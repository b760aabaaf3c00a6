"""What groups have no formula for, spelled in what they have: before and after, what is left, that the numbers hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from burnish.frontend import read
from burnish.ir.cost import CostCounter
from burnish.ir.parse import parse_program
from burnish.ir.program import Program
from burnish.ir.trace import Trace
from burnish.passes.base import Log
from burnish.passes.fuse.elementwise import FuseElementwise
from burnish.passes.fuse.spell_out import SpellOut
from burnish.passes.pipeline import run_passes
from burnish.passes.pipelines import fuse_for_gpu, make_incremental
from tests.passes.spelled import Body, Spelled, ops_of, rewritten, spelled_all, texts
from tests.zoo.configs import build


def stacked(m: Spelled, x: Tensor) -> Tensor:
    return torch.stack([x, m.gate(x), x.sin()], dim=-2).flatten(-2)


def repeated(m: Spelled, x: Tensor) -> Tensor:
    return x.unsqueeze(1).repeat(1, 2, 1, 1)[:, 1]


def repeated_in_front(m: Spelled, x: Tensor) -> Tensor:
    return x.repeat(3, 1, 1, 1)[2]


def repeated_rows(m: Spelled, x: Tensor) -> Tensor:
    return x.repeat(1, 1, 2)


def variance(m: Spelled, x: Tensor) -> Tensor:
    return x.var(-1, keepdim=True)


def variance_as_it_is(m: Spelled, x: Tensor) -> Tensor:
    return x.var(-1, correction=0, keepdim=True)


def length(m: Spelled, x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True)


def largest(m: Spelled, x: Tensor) -> Tensor:
    most, place = m.gate(x).max(-1, keepdim=True)
    return most * place


def largest_alone(m: Spelled, x: Tensor) -> Tensor:
    return m.gate(x).max(-1, keepdim=True).values


def bounds(m: Spelled, x: Tensor) -> Tensor:
    return m.gate(x).clamp(min=m.bias, max=m.weight)


def short_mean(m: Spelled, x: Tensor) -> Tensor:
    return x.unflatten(-1, (4, 2)).mean(-2)


def short_product(m: Spelled, x: Tensor) -> Tensor:
    return (m.gate(x).unflatten(-1, (4, 2)) @ x.unflatten(-1, (2, 4))).flatten(-2)


def masked(m: Spelled, x: Tensor) -> Tensor:
    y = m.gate(x)
    return torch.index_put(y, [y > 0], torch.tensor(0.5))


def filled(m: Spelled, x: Tensor) -> Tensor:
    return torch.full_like(x, 0.5) * m.gate(x)


SPELLED: dict[str, tuple[Body, list[str], list[str]]] = {
    body.__name__: (body, before.split(), after.split())
    for body, before, after in (
        (stacked, "linear sin stack reshape", "linear sin unsqueeze unsqueeze unsqueeze cat reshape"),
        (repeated, "unsqueeze repeat select.int", "unsqueeze expand select.int"),
        (repeated_in_front, "repeat select.int", "unsqueeze expand select.int"),
        (repeated_rows, "repeat", "unsqueeze expand reshape"),
        (variance, "var.dim", "mean.dim sub.Tensor mul.Tensor sum.dim_IntList div.Tensor"),
        (variance_as_it_is, "var.correction", "mean.dim sub.Tensor mul.Tensor sum.dim_IntList div.Tensor"),
        (length, "linalg_vector_norm", "mul.Tensor sum.dim_IntList sqrt"),
        (largest, "linear getitem getitem mul.Tensor", "linear amax argmax mul.Tensor"),
        (largest_alone, "linear getitem", "linear amax"),
        (bounds, "linear clamp.Tensor", "linear maximum minimum"),
        (short_mean, "reshape mean.dim", "reshape sum.dim_IntList div.Tensor"),
        (
            short_product,
            "linear reshape reshape matmul reshape",
            "linear reshape reshape unsqueeze unsqueeze mul.Tensor sum.dim_IntList reshape",
        ),
        (filled, "full_like linear mul.Tensor", "expand linear mul.Tensor"),
        (masked, "linear gt.Scalar index_put", "linear gt.Scalar where.self"),
    )
}


def plain_mean(m: Spelled, x: Tensor) -> Tensor:
    return x.mean(-1, keepdim=True)


def mean_of_tokens(m: Spelled, x: Tensor) -> Tensor:
    return x - x.mean(1, keepdim=True)


def variance_of_tokens(m: Spelled, x: Tensor) -> Tensor:
    return x - x.var(1, correction=0, keepdim=True)


def other_norm(m: Spelled, x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, 3, dim=-1, keepdim=True)


def largest_token(m: Spelled, x: Tensor) -> Tensor:
    return x - x.max(1, keepdim=True).values


def long_product(m: Spelled, x: Tensor) -> Tensor:
    return (x @ x.transpose(1, 2))[..., :1]


def counted_write(m: Spelled, x: Tensor) -> Tensor:
    return torch.index_put(x.sin(), [torch.tensor([0])], torch.tensor(0.5))


def repeated_tokens(m: Spelled, x: Tensor) -> Tensor:
    return x.repeat(2, 2, 1).unflatten(0, (2, -1))[0].unflatten(1, (2, -1))[:, 0]


LEFT: dict[str, tuple[Body, str]] = {
    body.__name__: (body, reason)
    for body, reason in (
        (plain_mean, ""),
        (mean_of_tokens, "a mean over [1], not over up to 16 along one axis"),
        (variance_of_tokens, "it goes over the axes [1], not over a last one of a size that is known ahead"),
        (other_norm, "a vector norm of order 3"),
        (largest_token, "it goes over the axes [1], not over a last one of a size that is known ahead"),
        (long_product, "a product by more than 16 x 16 values that are computed"),
        (counted_write, "it writes at places that are counted, not at those of one mask of its shape"),
        (repeated_tokens, "it repeats several axes of sizes that are not known ahead"),
    )
}
PROGRAMS: dict[str, Program] = {}


def program_of(name: str) -> Program:
    if not PROGRAMS:
        PROGRAMS.update(spelled_all({name: body for name, (body, *_) in {**SPELLED, **LEFT}.items()}))
    return PROGRAMS[name]


def names(program: Program) -> list[str]:
    return [op.removeprefix("aten.") for op in ops_of(program)]


@pytest.mark.parametrize("name", SPELLED)
def test_before_and_after(name: str) -> None:
    program = program_of(name)
    _, before, expected = SPELLED[name]
    after, log = rewritten(program, SpellOut())
    assert (names(program), names(after)) == (before, expected)
    assert len(texts(log)) == 1
    assert not log.refusals


@pytest.mark.parametrize("name", SPELLED)
def test_groups_take_it(name: str) -> None:
    """What is left beside groups is what it was made from, and the place of the largest."""
    after, _ = rewritten(program_of(name), SpellOut())
    grouped = FuseElementwise().run(after, Log())
    counter = CostCounter(grouped)
    left = {str(node.target).split(".")[1] for node in grouped.graph.nodes if counter.cost(node).launches}
    assert left <= {
        "embedding",
        "linear",
        "amax",
        "mul",
        "fused_elementwise",
        *(["argmax"] if name == "largest" else []),
    }


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_says_why(name: str) -> None:
    program = program_of(name)
    after, log = rewritten(program, SpellOut())
    assert names(after) == names(program)
    assert [reason for reason in (entry.text for entry in log.refusals) if LEFT[name][1] in reason] or not LEFT[name][1]
    assert not log.rewrites


def test_experts_that_all_tokens_go_through() -> None:
    """As Llama 4 has them: a matrix product for each, here of a program that is read from its text."""
    text = """\
program captured: vocabulary=31, max_length=16, token_limit=31, logits_dtype=f32
size batch: s52 from 2, example 3
size sequence: s27 from 2 to 16, example 7
weight @table.weight: f32[31, 4]
weight @experts: f32[2, 4, 5]
input %tokens: i64[batch, sequence]
%table_weight: f32[31, 4] = @table.weight
%experts: f32[2, 4, 5] = @experts
%rows: size batch = aten.sym_size.int(%tokens, 0)
%count: size sequence = aten.sym_size.int(%tokens, 1)
%embedding: f32[batch, sequence, 4] = aten.embedding(@table.weight, %tokens)
%flat: f32[sequence*batch, 4] = aten.reshape(%embedding, [-1, 4])
%more: f32[1, sequence*batch, 4] = aten.unsqueeze(%flat, 0)
%copies: f32[2, sequence*batch, 4] = aten.expand(%more, [2, -1, -1])
%bmm: f32[2, sequence*batch, 5] = aten.bmm(%copies, @experts)
%total: f32[sequence*batch, 5] = aten.sum.dim_IntList(%bmm, [0])
%result: f32[batch, sequence, 5] = aten.reshape(%total, [%rows, %count, 5])
return [%result]
"""
    program = parse_program(text, {"table.weight": torch.randn(31, 4), "experts": torch.randn(2, 4, 5)})
    after, _ = rewritten(program, SpellOut())
    assert names(after)[3:-2] == ["expand", "transpose.int", "transpose.int", "burnish.moe_linear", "transpose.int"]


def test_a_reshape_that_copies_counts_as_a_launch() -> None:
    """In a step of one token, heads in front of tokens are a view, and two of each element are none."""
    step = run_passes(read(build("dots1")).program, [*make_incremental(), *fuse_for_gpu()], Trace())
    counter = CostCounter(step)
    reshapes = [node for node in step.graph.nodes if node.target is torch.ops.aten.reshape.default]
    copies = [node for node in reshapes if counter.cost(node).launches]
    assert len(reshapes) > len(copies)
    (copy,) = copies
    assert copy.args[0].target is torch.ops.aten.expand.default
    assert (counter.cost(copy).launches, counter.cost(copy).bytes_moved) == (1, 2 * 4 * 4)
