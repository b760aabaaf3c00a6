"""Export noise goes, and nothing else: each thing removed has a look-alike that must stay."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ir.program import Program
from burnish.passes.base import Log
from burnish.passes.raise_.clean import Clean
from tests.passes.spelled import Body, Spelled, captured, ops_of, rewritten, text_of


def raw(body: Body) -> Program:
    """`body` as captured, not cleaned."""
    return captured({"": body})[""]


NOISE: dict[str, Body] = {
    "slices of all": lambda m, x: x[:, :, :].relu(),
    "same dtype": lambda m, x: x.to(torch.float32).relu().float(),
    "same dtype as another": lambda m, x: x.relu().type_as(m.weight),
    "copies": lambda m, x: x.clone().relu().contiguous().detach(),
    "dropout": lambda m, x: F.dropout(x, 0.5, training=False).relu(),
    "expansion to the same shape": lambda m, x: x.expand(-1, -1, 8).relu(),
    "view of the same shape": lambda m, x: x.view(x.shape[0], -1, 8).relu().permute(0, 1, 2),
    "plus nothing, times one": lambda m, x: (x + 0).relu() * 1.0,
    "one part joined": lambda m, x: torch.cat([x.relu()], dim=-1),
    "to the power of one": lambda m, x: (x**1).relu() / 1,
}


@cache
def noise() -> dict[str, Program]:
    return captured(NOISE)


@pytest.mark.parametrize("name", NOISE)
def test_noise_goes(name: str) -> None:
    after, _ = rewritten(noise()[name], Clean())
    assert ops_of(after) == ["aten.relu"]


LOOKS_LIKE_NOISE: dict[str, tuple[Body, str]] = {
    "slice with a step": (lambda m, x: x[:, :, ::2].repeat(1, 1, 2), "aten.slice.Tensor"),
    "slice of the tokens": (lambda m, x: F.pad(x[:, 1:], (0, 0, 1, 0)), "aten.slice.Tensor"),
    "another dtype": (lambda m, x: x.to(torch.float64).exp().float(), "aten._to_copy"),
    "expansion of one": (lambda m, x: x[:, :, :1].expand(-1, -1, 8) + x, "aten.expand"),
    "one axis for another": (lambda m, x: x.transpose(1, 2).softmax(1).transpose(1, 2), "aten.transpose.int"),
    "one by broadcasting": (lambda m, x: x[:, :, :1] + torch.zeros(8), "aten.add.Tensor"),
    "plus one, times nothing": (lambda m, x: x + 1, "aten.add.Tensor"),
}


@cache
def looks_like_noise() -> dict[str, Program]:
    return captured({name: body for name, (body, _) in LOOKS_LIKE_NOISE.items()})


@pytest.mark.parametrize("name", LOOKS_LIKE_NOISE)
def test_what_changes_the_value_stays(name: str) -> None:
    after, _ = rewritten(looks_like_noise()[name], Clean())
    assert LOOKS_LIKE_NOISE[name][1] in ops_of(after)


def test_before_and_after() -> None:
    def body(m: Spelled, x: Tensor) -> Tensor:
        heads = x.view(*x.shape[:2], 2, 4).transpose(1, 2)
        joined = heads.contiguous().view(x.shape[0], 2, -1)
        return joined.view(x.shape[0], 2, -1, 4).transpose(1, 2).reshape(x.shape) + m.weight.float()

    after, _ = rewritten(raw(body), Clean())
    assert text_of(after) == (
        "%0: f32[batch, sequence, 8] = aten.embedding(@embed.weight, %tokens)\n"
        "%1: f32[batch, sequence, 2, 4] = aten.reshape(%0, [batch, sequence, 2, 4])\n"
        "%2: f32[batch, 2, sequence, 4] = aten.transpose.int(%1, 1, 2)\n"
        "%3: f32[batch, 2, 4*sequence] = aten.reshape(%2, [batch, 2, -1])\n"
        "%4: f32[batch, 2, sequence, 4] = aten.reshape(%3, [batch, 2, -1, 4])\n"
        "%5: f32[batch, sequence, 2, 4] = aten.transpose.int(%4, 1, 2)\n"
        "%6: f32[batch, sequence, 8] = aten.reshape(%5, [batch, sequence, 8])\n"
        "%7: f32[batch, sequence, 8] = aten.add.Tensor(%6, @weight)"
    )


def test_one_name_for_each_op() -> None:
    def body(m: Spelled, x: Tensor) -> Tensor:
        y = torch.multiply(torch.square(x), torch.divide(x, m.weight))
        return torch.concat((torch.subtract(y, x)[..., :4], torch.negative(y)[..., 4:]), dim=-1)

    after, _ = rewritten(raw(body), Clean())
    first_names = {"aten.pow.Tensor_Scalar", "aten.div.Tensor", "aten.mul.Tensor", "aten.sub.Tensor", "aten.neg"}
    assert set(ops_of(after)) == first_names | {"aten.cat", "aten.slice.Tensor"}


def test_a_norm_of_batches_is_the_one_that_checks_sizes() -> None:
    """And gives the norm alone, where what export makes of it gives two values more."""

    def body(m: Spelled, x: Tensor) -> Tensor:
        statistics = torch.zeros(8), torch.ones(8)
        return F.batch_norm(x.transpose(1, 2), *statistics, m.weight, eps=0.1).transpose(1, 2)

    native = torch.ops.aten._native_batch_norm_legit_no_training.default
    before = raw(body)
    assert native in {node.target for node in before.graph.nodes}
    after, _ = rewritten(before, Clean())
    assert native not in {node.target for node in after.graph.nodes}
    assert ops_of(after).count("aten.batch_norm") == 1
    assert "@weight, None, %1, %2, False, 0.1, 0.1, False)" in text_of(after)


def test_one_value_is_computed_once() -> None:
    def body(m: Spelled, x: Tensor) -> Tensor:
        return m.gate(x).exp() * m.gate(x).exp() + m.gate(x.exp()) + torch.arange(x.shape[1])[:, None]

    after, log = rewritten(raw(body), Clean())
    assert ops_of(after).count("aten.linear") == 2
    assert ops_of(after).count("aten.exp") == 2
    assert any(entry.text.startswith("computed before") for entry in log.rewrites)


def test_numbers_of_different_types_are_different_values() -> None:
    """x // 2 and x / 2.0 aside, full(1) and full(1.0) differ in dtype: arguments are compared with their types."""

    def body(m: Spelled, x: Tensor) -> Tensor:
        return x + torch.full((8,), 1) // 2 + torch.full((8,), 1.0) / 2

    after, _ = rewritten(raw(body), Clean())
    assert ops_of(after).count("aten.full") == 2


def test_random_ops_are_not_merged() -> None:
    def body(m: Spelled, x: Tensor) -> Tensor:
        return x * 0 + torch.rand(8).ceil() + torch.rand(8).ceil()

    program = raw(body)
    after = Clean().run(program.copy(), Log())
    assert ops_of(after).count("aten.rand") == 2


def test_a_copy_in_front_of_an_op_that_reads_memory_stays() -> None:
    def body(m: Spelled, x: Tensor) -> Tensor:
        pairs = x.view(*x.shape[:2], 2, 4).transpose(2, 3).contiguous()
        return torch.view_as_real(torch.view_as_complex(pairs) * 2).flatten(2)

    after, _ = rewritten(raw(body), Clean())
    assert "aten.clone" in ops_of(after) or "aten.contiguous" in ops_of(after)


def test_training_mode_dropout_is_refused() -> None:
    program = raw(lambda m, x: F.dropout(x, 0.5, training=True))
    log = Log()
    after = Clean().run(program.copy(), log)
    assert "dropout" in text_of(after)
    assert "training mode" in log.refusals[0].text


def test_inactive_native_dropout_goes() -> None:
    after, _ = rewritten(raw(lambda m, x: torch.native_dropout(x, 0.5, False)[0].relu()), Clean())
    assert ops_of(after) == ["aten.relu"]
