"""One spelling: products become matmul and linear, a softmax written by hand a softmax."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from burnish.frontend.capture import capture
from burnish.ir.interpreter import run
from burnish.ir.ops import burnish_ops
from burnish.ir.program import Program
from burnish.ir.text import call_text
from burnish.ir.weights import Permute
from burnish.passes.base import Log
from burnish.passes.raise_.canonicalize import Canonicalize
from burnish.passes.raise_.clean import Clean
from tests.tolerances import assert_near

WIDTH = 8


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, WIDTH)
        self.weight = nn.Parameter(torch.randn(WIDTH, 12))
        self.bias = nn.Parameter(torch.randn(12))
        self.head = nn.Linear(12, 13, bias=False)

    def mix(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.mix(self.embed(ids)))


class Conv1D(Model):
    """GPT-2's linear: flattened, multiplied, unflattened."""

    def mix(self, x: Tensor) -> Tensor:
        flat = torch.addmm(self.bias, x.view(-1, WIDTH), self.weight)
        return flat.view(*x.shape[:-1], 12)


class ScaledSum(Model):
    def mix(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x.view(-1, WIDTH), self.weight, alpha=0.5).view(*x.shape[:-1], 12)


class Einsum(Model):
    def mix(self, x: Tensor) -> Tensor:
        return torch.einsum("bsk,kn->bsn", x, self.weight)


class EinsumOfTheRest(Model):
    def mix(self, x: Tensor) -> Tensor:
        return torch.einsum("...k,kn->...n", x, self.weight)


class EinsumOfElements(Model):
    def mix(self, x: Tensor) -> Tensor:
        return torch.einsum("...nd,...ne->...nde", x, x[..., :1])[..., 0] @ self.weight


class TimesWeight(Model):
    def mix(self, x: Tensor) -> Tensor:
        return x @ self.weight


class TimesTransposed(Model):
    def mix(self, x: Tensor) -> Tensor:
        return (x @ self.weight) @ self.square.T

    def __init__(self) -> None:
        super().__init__()
        self.square = nn.Parameter(torch.randn(12, 12))


class ThreeOperands(Model):
    def mix(self, x: Tensor) -> Tensor:
        return torch.einsum("bsk,kn,n->bsn", x, self.weight, self.bias)


class SoftmaxByHand(Model):
    def mix(self, x: Tensor) -> Tensor:
        y = x @ self.weight
        e = torch.exp(y - y.amax(-1, keepdim=True))
        return e / e.sum(-1, keepdim=True)


def canonical(module: nn.Module) -> tuple[Program, Program, Log]:
    torch.manual_seed(0)
    before = Clean().run(capture(module.eval(), max_length=32), Log())
    log = Log()
    return before, Canonicalize().run(before.copy(), log), log


def calls(program: Program) -> list[str]:
    return [call_text(node) for node in program.graph.nodes if node.op == "call_function"][1:-1]


@pytest.mark.parametrize(
    ("module", "left"),
    [
        (Conv1D(), ["aten.linear(%embedding, @weight.transposed, @bias)"]),
        (Einsum(), ["aten.linear(%embedding, @weight.transposed)"]),
        (EinsumOfTheRest(), ["aten.linear(%embedding, @weight.transposed)"]),
        (
            EinsumOfElements(),
            [
                "aten.slice.Tensor(%embedding, 2, 0, 1)",
                "aten.unsqueeze(%embedding, 3)",
                "aten.unsqueeze(%slice_1, 2)",
                "aten.mul.Tensor(%unsqueeze_default, %unsqueeze_default_1)",
                "aten.select.int(%mul_tensor, 3, 0)",
                "aten.linear(%select, @weight.transposed)",
            ],
        ),
        (TimesWeight(), ["aten.linear(%embedding, @weight.transposed)"]),
        (
            TimesTransposed(),
            ["aten.linear(%embedding, @weight.transposed)", "aten.linear(%linear_default, @square)"],
        ),
        (
            SoftmaxByHand(),
            ["aten.linear(%embedding, @weight.transposed)", "aten.softmax.int(%linear_default, -1)"],
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_it_fires_and_the_numbers_hold(module: nn.Module, left: list[str]) -> None:
    before, after, log = canonical(module)
    assert calls(after) == left
    assert log.rewrites
    assert not log.refusals
    for shape in ((1, 1), (2, 5)):
        ids = torch.randint(13, shape)
        assert_near(run(after, [ids])[0], run(before, [ids])[0])


@pytest.mark.parametrize("module", [ScaledSum(), ThreeOperands()], ids=lambda module: type(module).__name__)
def test_it_leaves_others_alone(module: nn.Module) -> None:
    before, after, log = canonical(module)
    assert calls(after) == calls(before)
    assert not log.rewrites


class Experts(Model):
    """Stored as [experts, in, out], and chosen by which token it is."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, WIDTH, 12))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).reshape(-1, 1, WIDTH)
        x = burnish_ops.moe_linear(x, self.experts.transpose(1, 2), None, (ids % 3).reshape(-1, 1))
        return self.head(x.reshape(*ids.shape, 12))


def test_experts_that_are_stored_the_other_way_round() -> None:
    before, after, log = canonical(Experts())
    assert [entry.text for entry in log.rewrites] == ["experts that are stored the other way round"]
    assert isinstance(after.weights["experts.transposed"], Permute)
    assert not any("transpose.int" in call for call in calls(after))
    tokens = torch.randint(0, 13, (2, 5))
    assert_near(run(after, [tokens])[0], run(before, [tokens])[0])


class TableOnItsSide(nn.Module):
    """A table that is stored as the head that it is tied to multiplies with it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(WIDTH, 40))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.relu(nn.functional.embedding(ids, self.table.T)) @ self.table


def test_a_table_on_its_side_is_one_weight_with_its_head() -> None:
    before, after, log = canonical(TableOnItsSide())
    found = [call_text(node) for node in after.graph.nodes if node.op == "call_function"]
    assert found == [
        "aten.embedding(@table.transposed, %tokens)",
        "aten.relu(%embedding)",
        "aten.linear(%relu, @table.transposed)",
    ]
    assert "rows of a table on its side as rows of the table" in [entry.text for entry in log.rewrites]
    ids = torch.randint(40, (2, 5))
    torch.testing.assert_close(run(after, [ids])[0], run(before, [ids])[0])
